"""Events of turns in a WebSocket, and an upstream that plays its part."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from tests.support.gate import Gate
from tests.support.upstream import Upstream
from tests.support.websocket import TEXT, WebSocketEnd, accept_handshake, handshake

RESPONSES = "/v1/responses"

# Starts a gate with some settings and opens a WebSocket through it.
OpenSocket = Callable[..., Awaitable[tuple[Gate, WebSocketEnd, WebSocketEnd]]]

# Enough for one turn; the next would be due in a quarter of an hour.
ONE_TURN = {"RATE_LIMIT": "0.001", "RATE_LIMIT_BURST": 1}

# The same, but the next turn is due after half a second.
SLOW = {"RATE_LIMIT": 2, "RATE_LIMIT_BURST": 1}

# A slot for one turn, for which the others wait.
ONE_SLOT = {"CONCURRENCY_LIMIT": 1}


def create(event_id: str | None = None, **response: Any) -> bytes:
    """A `response.create` of the Realtime API."""
    event: dict[str, Any] = {"type": "response.create"}
    event |= {} if event_id is None else {"event_id": event_id}
    return json.dumps(event | ({"response": response} if response else {})).encode()


def create_response(**fields: Any) -> bytes:
    """A `response.create` of the Responses API."""
    request = {"type": "response.create", "model": "gpt-5", "input": "Hi", **fields}
    return json.dumps(request).encode()


def created(name: str = "resp_1", **fields: Any) -> bytes:
    event = {"type": "response.created", "response": {"id": name, "usage": None}, **fields}
    return json.dumps(event).encode()


def usage(tokens_in: int, tokens_out: int, cached: int = 0) -> dict[str, Any]:
    return {
        "total_tokens": tokens_in + tokens_out,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "input_token_details": {"cached_tokens": cached},
    }


def done(
    name: str = "resp_1", tokens: tuple[int, int] = (3, 2), kind: str = "done", **fields: Any
) -> bytes:
    response = {"id": name, "status": "completed", "usage": usage(*tokens), **fields}
    return json.dumps({"type": f"response.{kind}", "response": response}).encode()


async def serve_turn(
    server: WebSocketEnd, name: str = "resp_1", tokens: tuple[int, int] = (3, 2), **fields: Any
) -> None:
    """Take a turn, and answer it at once."""
    frame = await server.frame()
    assert json.loads(frame.payload)["type"] == "response.create"
    server.send(created(name))
    server.send(done(name, tokens, **fields))


async def next_event(end: WebSocketEnd) -> dict[str, Any]:
    """The next frame, which must be an event."""
    frame = await end.frame()
    assert frame.opcode == TEXT, frame
    event: dict[str, Any] = json.loads(frame.payload)
    return event


async def open_responses(
    gate: Gate, upstream: Upstream, *lines: str
) -> tuple[WebSocketEnd, WebSocketEnd]:
    """A WebSocket of the Responses API."""
    request = handshake(*lines, target=RESPONSES)
    client, call = await accept_handshake(gate, upstream, request=request)
    assert (await client.head()).status == 101
    return WebSocketEnd(client.wire, masks=True), WebSocketEnd(call.wire, masks=False)


async def hold_turn(running: Gate, client: WebSocketEnd, server: WebSocketEnd) -> None:
    """Let one turn take the only slot, and another wait for it."""
    client.send(create("first"))
    assert (await next_event(server))["event_id"] == "first"
    client.send(create("held"))
    await running.wait_until(in_flight=1, waiters=1)


async def free_slot(client: WebSocketEnd, server: WebSocketEnd) -> None:
    """End the first turn."""
    server.send(created("resp_first"))
    server.send(done("resp_first"))
    await client.expect(created("resp_first"))
    await client.expect(done("resp_first"))
