"""Events of turns in a WebSocket, and an upstream that plays its part."""

import json
from typing import Any

from tests.support.websocket import TEXT, WebSocketEnd

RESPONSES = "/v1/responses"


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
