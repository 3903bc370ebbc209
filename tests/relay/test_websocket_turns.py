"""Turns in a WebSocket: each is admitted, settled and logged like a request of its own."""

import asyncio
import json
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from rustygate.access.client_auth import ClientAuth
from rustygate.core.clients import hash_key
from rustygate.relay import websocket_turns
from tests.conftest import StartGate
from tests.support.flood import send_until_stalled
from tests.support.gate import Gate
from tests.support.http import CLIENT_KEY, chat, get, response
from tests.support.metrics import Scrape
from tests.support.upstream import Upstream
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Frame,
    WebSocketEnd,
    accept_handshake,
    frame,
    handshake,
    open_websocket,
)
from tests.support.websocket_turns import (
    RESPONSES,
    create,
    create_response,
    created,
    done,
    next_event,
    serve_turn,
    usage,
)

# Enough for one turn; the next would be due in a quarter of an hour.
ONE_TURN = {"RATE_LIMIT": "0.001", "RATE_LIMIT_BURST": 1}

# The same, but the next turn is due after half a second.
SLOW = {"RATE_LIMIT": 2, "RATE_LIMIT_BURST": 1}

# A slot for one turn, for which the others wait.
ONE_SLOT = {"CONCURRENCY_LIMIT": 1}


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


# Admission.


async def test_turns_beyond_the_rate_limit_do_not_reach_upstream(
    gate: StartGate, upstream: Upstream
) -> None:
    client, server = await open_websocket(await gate(**ONE_TURN), upstream)
    for number in range(10):
        client.send(create(f"event_{number}"))
    assert (await next_event(server))["event_id"] == "event_0"
    for number in range(1, 10):
        error = await next_event(client)
        assert error["type"] == "error"
        assert error["error"]["event_id"] == f"event_{number}"
        assert error["error"]["code"] == "rate_limit_exceeded"
    client.send(b"still open")
    await server.expect(b"still open")


async def test_hopeless_turns_are_refused_on_arrival(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(RATE_LIMIT=1, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=2.5)
    client, server = await open_websocket(running, upstream)
    began = monotonic()
    for number in range(10):
        client.send(create(f"event_{number}"))
    client.send(b"after")
    assert (await next_event(server))["event_id"] == "event_0"
    for number in range(3, 10):
        error = (await next_event(client))["error"]
        assert error["event_id"] == f"event_{number}"
        assert error["message"] == (
            "Limit 60 requests/min reached; 2 requests are ahead, and this request may wait only "
            "2.5 s; try again in 3 s."
        )
    assert monotonic() - began < 0.9
    assert running.snapshot()["waiters"] == 2
    for number in (1, 2):
        assert (await next_event(server))["event_id"] == f"event_{number}"
        assert number - 0.1 < monotonic() - began < number + 0.9
    await server.expect(b"after")


async def test_turns_of_2000_tokens_fit_a_budget_of_5000_twice(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(TOKENS_PER_MINUTE=5000)
    client, server = await open_websocket(running, upstream)
    for number in range(20):
        client.send(create(f"event_{number}", max_output_tokens=2000))
    for number in (0, 1):
        assert (await next_event(server))["event_id"] == f"event_{number}"
    # The third is due in 12 s, the fourth after the deadline.
    for number in range(3, 20):
        error = (await next_event(client))["error"]
        assert (error["event_id"], error["type"]) == (f"event_{number}", "tokens")
        assert "1 request is ahead" in error["message"]
    assert running.snapshot() | {"held_bytes": 0} == {
        "in_flight": 2,
        "waiters": 1,
        "held_bytes": 0,
    }


async def test_waiting_turns_count_for_other_clients(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(RATE_LIMIT=1, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=3.5)
    client, server = await open_websocket(running, upstream)
    for _ in range(4):
        client.send(create())
    await running.wait_until(waiters=3)
    got = await running.request(get())
    assert (got.status, got.reason) == (429, "queue_timeout")
    assert "3 requests are ahead" in got.error["message"]
    client.wire.reset()
    await running.wait_until(waiters=0, held_bytes=0)
    server.wire.close()


async def test_turn_waits_for_its_admission(gate: StartGate, upstream: Upstream) -> None:
    client, server = await open_websocket(await gate(**SLOW), upstream)
    client.send(create("first"))
    await next_event(server)
    sent = monotonic()
    client.send(create("second"))
    assert (await next_event(server))["event_id"] == "second"
    assert 0.3 < monotonic() - sent < 3


@pytest.mark.parametrize("cap", [2000, 2500])
async def test_turn_costs_its_output_cap(gate: StartGate, upstream: Upstream, cap: int) -> None:
    running = await gate(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    client, server = await open_websocket(running, upstream)
    for _ in range(5):
        client.send(create(max_output_tokens=cap))
    for _ in range(2):
        await next_event(server)
    for _ in range(3):
        error = (await next_event(client))["error"]
        assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    client.send(b"after")
    await server.expect(b"after")


async def test_turn_costs_the_session_cap(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    client, server = await open_websocket(running, upstream)
    session = {"type": "session.created", "session": {"max_output_tokens": 4000}}
    server.send(json.dumps(session).encode())
    await next_event(client)
    client.send(create())
    await next_event(server)
    client.send(create())
    assert (await next_event(client))["error"]["type"] == "tokens"


async def test_turn_costs_the_conversation_so_far(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(TOKENS_PER_MINUTE=7000, RATE_LIMIT_TIMEOUT=1)
    client, server = await open_websocket(running, upstream)
    client.send(create(max_output_tokens=10))
    await serve_turn(server, tokens=(2800, 200))
    await client.frame()
    await client.frame()
    # Of the 4000 tokens that are left, this takes 3000 and 1000.
    client.send(create(max_output_tokens=990))
    await next_event(server)
    client.send(create(max_output_tokens=200, input=[]))
    error = (await next_event(client))["error"]
    assert (error["type"], running.snapshot()["in_flight"]) == ("tokens", 1)


async def test_turn_costs_the_items_created_before_it(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    client, server = await open_websocket(running, upstream)
    text = {"type": "input_text", "text": "word" * 2450}
    item = {"type": "conversation.item.create", "item": {"type": "message", "content": [text]}}
    client.send(json.dumps(item).encode())
    await next_event(server)
    for _ in range(3):
        client.send(create(max_output_tokens=10))
    for _ in range(2):
        await next_event(server)
    assert (await next_event(client))["error"]["type"] == "tokens"


async def test_turn_costs_the_response_that_it_goes_on_from(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(TOKENS_PER_MINUTE=7000, RATE_LIMIT_TIMEOUT=1)
    client, server = await open_responses(running, upstream)
    client.send(create_response(max_output_tokens=10))
    await serve_turn(server, "resp_1", (2800, 200), kind="completed")
    await client.frame()
    await client.frame()
    for previous in ("resp_0", "resp_1"):
        client.send(create_response(max_output_tokens=10, previous_response_id=previous))
        await next_event(server)
    client.send(create_response(max_output_tokens=10, previous_response_id="resp_1"))
    assert (await next_event(client))["error"]["type"] == "tokens"


async def test_conversation_is_part_of_an_estimated_input(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    client.send(create())
    await serve_turn(server, tokens=(2800, 200))
    await running.settled()
    client.send(create(instructions="x" * 40))
    await next_event(server)
    server.send(created("resp_2"))
    server.send(b'{"type":"response.done","response":{"id":"resp_2"}}')
    second = (await running.settled(2))[1]
    assert (second["tokens_in"], second["tokens_estimated"]) == (3010, True)


async def test_usage_replaces_the_estimate(gate: StartGate, upstream: Upstream) -> None:
    """Ten turns of 2000 reserved tokens fit into a budget of 5000 if they take ten each."""
    running = await gate(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    client, server = await open_websocket(running, upstream)
    for number in range(10):
        client.send(create(max_output_tokens=2000))
        await serve_turn(server, f"resp_{number}", (5, 5))
        await client.frame()
        await client.frame()
    assert [line["outcome"] for line in await running.settled(10)] == ["ok"] * 10


async def test_large_usage_delays_the_next_turn(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    client, server = await open_websocket(running, upstream)
    client.send(create(max_output_tokens=10))
    await serve_turn(server, tokens=(4000, 990))
    await client.frame()
    await client.frame()
    client.send(create(max_output_tokens=1000))
    assert (await next_event(client))["error"]["type"] == "tokens"


async def test_turn_holds_its_slot_until_its_response_is_done(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    await hold_turn(running, client, server)
    asking = await running.send(chat())
    await running.wait_until(waiters=2)
    server.send(created("resp_first"))
    await client.frame()
    assert running.snapshot()["in_flight"] == 1
    server.send(done("resp_first"))
    assert (await next_event(server))["event_id"] == "held"
    await running.wait_until(in_flight=1, waiters=1)
    server.send(created("resp_held"))
    server.send(done("resp_held"))
    await (await upstream.call()).respond(response())
    assert (await asking.response()).status == 200


async def test_turns_keep_their_order(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(RATE_LIMIT=20, RATE_LIMIT_BURST=2)
    client, server = await open_websocket(running, upstream)
    for number in range(6):
        client.send(create(f"event_{number}"))
        client.send(b"between %d" % number)
    for number in range(6):
        assert (await next_event(server))["event_id"] == f"event_{number}"
        await server.expect(b"between %d" % number)


async def test_turn_passes_byte_for_byte(gate: StartGate, upstream: Upstream) -> None:
    client, server = await open_websocket(await gate(**SLOW), upstream)
    text = create("first", instructions="\N{GRINNING FACE}" * 100)
    pieces = (
        frame(text[:9], TEXT, mask=MASK, final=False),
        frame(b"", CONTINUATION, mask=b"\x01\x02\x03\x04", final=False),
        frame(text[9:], CONTINUATION, mask=b"\xff\xfe\xfd\xfc"),
    )
    for _ in range(2):
        for piece in pieces:
            client.wire.send(piece)
    for _ in range(2):
        for piece in pieces:
            assert (await server.frame()).raw == piece


async def test_turn_that_arrives_byte_by_byte_is_held(gate: StartGate, upstream: Upstream) -> None:
    client, server = await open_websocket(await gate(**ONE_TURN), upstream)
    for _ in range(2):
        for byte in frame(create("x"), mask=MASK):
            await client.wire.send_all(bytes([byte]))
    assert (await server.frame()).raw == frame(create("x"), mask=MASK)
    assert (await next_event(client))["type"] == "error"


TURNS = {
    "type last": b'{"response": {"instructions": "a"}, "type": "response.create"}',
    "spaces": b'  {\n "event_id" : "a" , "type" : "response.create" }',
    "escapes": b'{"\\u0074ype": "response.cre\\u0061te"}',
    "binary": create(),
    "only a type": b'{"type":"response.create"}',
    "type far behind": b'{"a": "%b", "type": "response.create"}' % (b"x" * 100_000),
    "cut": b'{"type": "response.create", ',
}


@pytest.mark.parametrize("name", TURNS)
async def test_every_form_of_a_turn_is_recognized(
    gate: StartGate, upstream: Upstream, name: str
) -> None:
    client, server = await open_websocket(await gate(**ONE_TURN), upstream)
    opcode = BINARY if name == "binary" else TEXT
    for _ in range(2):
        client.send(TURNS[name], opcode)
    await server.expect(TURNS[name], opcode)
    assert (await next_event(client))["type"] == "error"
    client.send(b"next")
    await server.expect(b"next")


OTHERS = {
    "other type": b'{"type": "response.cancel"}',
    "longer type": b'{"type": "response.create.x"}',
    "nested type": b'{"item": {"type": "response.create"}, "type": "conversation.item.create"}',
    "array": b'[{"type": "response.create"}]',
    "text": b"response.create",
    "empty": b"",
    "not JSON": b'{"type" "response.create"}',
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_other_messages_are_not_held(
    gate: StartGate, upstream: Upstream, other: bytes
) -> None:
    client, server = await open_websocket(await gate(**ONE_TURN), upstream)
    for _ in range(3):
        client.send(other)
        await server.expect(other)


async def test_large_audio_passes_as_it_arrives(gate: StartGate, upstream: Upstream) -> None:
    client, server = await open_websocket(await gate(), upstream)
    data = frame(b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 10**6, mask=MASK)
    await client.wire.send_all(data[:1000])
    assert await server.wire.read_some() == data[:1000]


# What passes while a turn waits.


async def test_control_frames_and_audio_pass_a_held_turn(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    await hold_turn(running, client, server)
    audio = b'{"type":"input_audio_buffer.append","audio":"AAAA"}'
    client.send(b"ping", PING)
    client.send(audio)
    client.send(b"pong", PONG)
    assert await server.frame() == Frame(PING, b"ping")
    await server.expect(audio)
    assert await server.frame() == Frame(PONG, b"pong")
    server.send(b"ping back", PING)
    assert await client.frame() == Frame(PING, b"ping back")
    await free_slot(client, server)
    assert (await next_event(server))["event_id"] == "held"


async def test_other_messages_wait_behind_a_held_turn(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    await hold_turn(running, client, server)
    behind = [b'{"type":"session.update"}', b'{"type":"conversation.item.delete"}', b"\xff"]
    for text in behind:
        client.send(text, BINARY if text == b"\xff" else TEXT)
    # It passes the others, which have arrived before it.
    client.send(b"", PING)
    assert (await server.frame()).opcode == PING
    assert running.snapshot()["held_bytes"] > sum(map(len, behind))
    await free_slot(client, server)
    assert (await next_event(server))["event_id"] == "held"
    for text in behind:
        assert (await server.frame()).payload == text
    assert running.snapshot()["held_bytes"] == 0


async def test_admitted_turn_does_not_split_a_message_that_passes(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    await hold_turn(running, client, server)
    audio = b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 1000 + b'"}'
    data = frame(audio, mask=MASK)
    await client.wire.send_all(data[:500])
    assert await server.wire.read_some() == data[:500]
    await free_slot(client, server)
    await running.wait_until(in_flight=1, waiters=0)
    client.wire.send(data[500:])
    client.send(b"behind")
    rest = len(data) - 500
    assert await server.wire.read_some(rest) == data[500:]
    assert (await next_event(server))["event_id"] == "held"
    await server.expect(b"behind")


async def test_error_event_does_not_split_a_message_of_upstream(
    gate: StartGate, upstream: Upstream
) -> None:
    client, server = await open_websocket(await gate(**ONE_TURN), upstream)
    client.send(create())
    await next_event(server)
    server.send(b"one", final=False)
    assert await client.frame() == Frame(TEXT, b"one", final=False)
    client.send(create("refused"))
    client.send(b"", PING)
    assert (await server.frame()).opcode == PING
    server.send(b"", PING)
    server.send(b"two", CONTINUATION)
    server.send(b"three")
    assert (await client.frame()).opcode == PING
    await client.expect(b"two", CONTINUATION)
    assert (await next_event(client))["error"]["event_id"] == "refused"
    await client.expect(b"three")


# A client that leaves, and one that sends too much.


@pytest.mark.parametrize("how", ["close frame", "close", "reset"])
async def test_client_disconnect_releases_the_messages_that_wait(
    gate: StartGate, upstream: Upstream, how: str
) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    other = await running.send(get())
    await running.wait_until(in_flight=1)
    client.send(create("held"))
    client.send(b"behind")
    await running.wait_until(waiters=1)
    if how == "close frame":
        client.close()
        # Nothing that was held passes before it.
        assert (await server.close_frame()).code == 1000
    else:
        client.wire.close() if how == "close" else client.wire.reset()
    await running.wait_until(waiters=0, held_bytes=0)
    server.wire.close()
    other.disconnect()
    turn = next(line for line in await running.settled(3) if line["method"] == "WS")
    assert (turn["outcome"], turn["status"], turn["attempts"]) == ("client_left", None, 0)


@pytest.mark.parametrize("how", ["close frame", "reset"])
async def test_each_turn_that_waits_is_logged_when_its_client_leaves(
    gate: StartGate, upstream: Upstream, how: str
) -> None:
    running = await gate(RATE_LIMIT=1, RATE_LIMIT_BURST=1)
    client, server = await open_responses(running, upstream, "X-RustyGate-Client: app")
    for model in ("gpt-5", "gpt-5", "gpt-4o", "o3"):
        client.send(create_response(model=model))
    await next_event(server)
    server.send(created())
    await client.expect(created())
    await running.wait_until(waiters=3)
    await asyncio.sleep(0.1)
    client.close() if how == "close frame" else client.wire.reset()
    await running.wait_until(waiters=0, in_flight=0, held_bytes=0)
    server.wire.close()
    lines = {line["id"].partition(".")[2]: line for line in await running.settled(5)}
    for number, model in (("2", "gpt-5"), ("3", "gpt-4o"), ("4", "o3")):
        turn = lines[number]
        assert (turn["model"], turn["outcome"], turn["attempts"]) == (model, "client_left", 0)
        assert 100 <= turn["queued_ms"] <= turn["total_ms"] < 1500
    assert (lines["1"]["attempts"], lines["1"]["queued_ms"]) == (1, 0)
    scrape = await Scrape.of(running)
    left = {"client": "app", "status": "(none)", "outcome": "client_left"}
    assert scrape.sum("rustygate_exchanges_total", model="gpt-5", **left) == 2
    assert scrape.sum("rustygate_exchanges_total", model="(unknown)", **left) == 2
    waited = scrape.sum("rustygate_client_queue_seconds_total", client="app")
    assert 0.3 <= waited < 4.5


async def test_client_disconnect_frees_the_slot_of_its_turn(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    client.send(create())
    await next_event(server)
    assert running.snapshot()["in_flight"] == 1
    client.wire.reset()
    await running.wait_until(in_flight=0)
    turn = (await running.settled(2))[0]
    assert (turn["id"][-2:], turn["outcome"], turn["attempts"]) == (".1", "client_left", 1)


async def test_close_frame_of_the_client_frees_the_slot_of_its_turn(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    client.send(create())
    await next_event(server)
    client.close()
    await server.close_frame()
    await running.wait_until(in_flight=0)
    [turn] = await running.settled()
    assert turn["outcome"] == "client_left"
    # What comes too late is nobody's turn.
    server.send(created())
    server.send(done())
    server.close()
    for text in (created(), done()):
        await client.expect(text)
    await client.close_frame()
    await running.settled(2)


async def test_turn_that_ends_after_the_close_frame_is_whole(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    client.send(create())
    await next_event(server)
    client.close()
    await server.close_frame()
    server.wire.send(frame(done(tokens=(1, 2))) + frame(b"", CLOSE))
    await client.expect(done(tokens=(1, 2)))
    await client.close_frame()
    turn, _ = await running.settled(2)
    assert (turn["outcome"], turn["tokens_out"]) == ("ok", 2)


async def test_close_frame_of_upstream_ends_the_turns(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    await hold_turn(running, client, server)
    server.close(1011)
    assert (await client.close_frame()).code == 1011
    await running.wait_until(in_flight=0, waiters=0, held_bytes=0)
    for line in await running.settled(2):
        assert (line["outcome"], line["reason"]) == ("aborted", "upstream_disconnected")
    client.send(create("late"))
    client.close(1011)
    assert (await server.close_frame()).code == 1011
    await running.settled(3)


@pytest.mark.parametrize("limit", ["gate", "socket"])
async def test_client_that_sends_too_much_behind_a_turn_is_not_read(
    gate: StartGate, upstream: Upstream, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"QUEUE_BYTES": 300_000} if limit == "gate" else {}
    if limit == "socket":
        monkeypatch.setattr(websocket_turns, "HELD_LIMIT", 300_000)
    running = await gate(**ONE_SLOT, **settings)
    client, server = await open_websocket(running, upstream)
    await hold_turn(running, client, server)
    piece = frame(b"x" * 60_000, mask=MASK)
    sent = await send_until_stalled(client.wire, piece)
    assert sent < 16 << 20
    # One read more than the limit, at most.
    assert 300_000 < running.snapshot()["held_bytes"] < 700_000
    await free_slot(client, server)
    assert (await next_event(server))["event_id"] == "held"
    for _ in range(sent // len(piece)):
        await server.expect(b"x" * 60_000)


async def test_client_reset_is_noticed_while_too_much_waits(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**ONE_SLOT, QUEUE_BYTES=100_000)
    client, server = await open_websocket(running, upstream)
    await hold_turn(running, client, server)
    await send_until_stalled(client.wire, frame(b"x" * 60_000, mask=MASK))
    client.wire.reset()
    await running.wait_until(waiters=0, in_flight=0, held_bytes=0)


async def test_turn_that_does_not_fit_into_queue_bytes_is_refused(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(QUEUE_BYTES=100_000)
    client, server = await open_websocket(running, upstream)
    client.send(create(instructions="x" * 2_000_000))
    error = (await next_event(client))["error"]
    assert "QUEUE_BYTES" in error["message"]
    assert running.snapshot()["held_bytes"] == 0
    client.send(b"next")
    await server.expect(b"next")
    assert (await running.settled())[0]["reason"] == "queue_full"


async def test_largest_turn_passes(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    text = create(instructions="x" * ((16 << 20) - 100))
    client.send(text)
    await server.expect(text)
    assert running.snapshot()["held_bytes"] == 0


# Refusals.


async def test_realtime_refusal_is_an_error_event(gate: StartGate, upstream: Upstream) -> None:
    client, _ = await open_websocket(await gate(TOKENS_PER_MINUTE=100), upstream)
    client.send(create("mine", max_output_tokens=101))
    event = await next_event(client)
    assert event["event_id"].startswith("event_")
    assert event == {
        "type": "error",
        "event_id": event["event_id"],
        "error": {
            "type": "tokens",
            "code": "rate_limit_exceeded",
            "message": "The request costs 101 tokens, and the limit is 100 tokens/min; send a "
            "smaller request or lower its output limit.",
            "param": None,
            "event_id": "mine",
        },
    }


async def test_responses_refusal_is_an_error_event_with_a_status(
    gate: StartGate, upstream: Upstream
) -> None:
    client, _ = await open_responses(await gate(**ONE_TURN), upstream)
    client.send(create_response())
    client.send(create_response(stream_id="lane"))
    event = await next_event(client)
    assert (event["type"], event["status"], event["stream_id"]) == ("error", 429, "lane")
    assert (event["error"]["type"], event["error"]["code"]) == ("requests", "rate_limit_exceeded")
    assert event["headers"]["X-RustyGate-Error"] == "queue_timeout"
    assert int(event["headers"]["retry-after-ms"]) > 900_000
    assert event["error"]["headers"] == event["headers"]


async def test_turn_that_is_not_admitted_by_its_deadline_is_refused(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**ONE_SLOT, RATE_LIMIT_TIMEOUT=0.2)
    client, server = await open_websocket(running, upstream)
    client.send(create("first"))
    await next_event(server)
    sent = monotonic()
    client.send(create("late"))
    client.send(create("later"))
    client.send(b"behind")
    for name in ("late", "later"):
        assert (await next_event(client))["error"]["event_id"] == name
    assert 0.15 < monotonic() - sent < 3
    await server.expect(b"behind")
    late = (await running.settled(2))[0]
    assert (late["status"], late["outcome"], late["reason"]) == (429, "refused", "queue_timeout")
    assert 150 <= late["queued_ms"] <= 3000


async def test_drain_refuses_held_turns(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    await hold_turn(running, client, server)
    draining = asyncio.create_task(running.daemon.drain())
    event = await next_event(client)
    assert (event["error"]["code"], event["error"]["event_id"]) == ("draining", "held")
    client.send(create("new"))
    assert (await next_event(client))["error"]["code"] == "draining"
    # The turn in flight goes on.
    await free_slot(client, server)
    client.close()
    await server.close_frame()
    server.close()
    await client.close_frame()
    await draining
    outcomes = {line["id"][-2:]: line["outcome"] for line in await running.settled(4)}
    assert (outcomes[".1"], outcomes[".2"], outcomes[".3"]) == ("ok", "refused", "refused")


async def test_drain_timeout_ends_a_turn_in_flight(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(DRAIN_TIMEOUT=0)
    client, server = await open_websocket(running, upstream)
    client.send(create())
    await next_event(server)
    draining = asyncio.create_task(running.daemon.drain())
    for side in (client, server):
        assert (await side.close_frame()).code == 1001
        side.close(1001)
        side.wire.close()
    await draining
    turn, socket = await running.settled(2)
    for line in (turn, socket):
        assert (line["outcome"], line["reason"]) == ("aborted", "draining")


@pytest.fixture
def clients(tmp_path: Path) -> Path:
    """A clients file with one client, who may use one model."""
    path = tmp_path / "clients.toml"
    path.write_text(
        f'[client.app]\nkey_sha256 = "{hash_key(CLIENT_KEY)}"\nmodels = ["gpt-5"]\n'
        "tokens_per_minute = 5000\n"
    )
    return path


async def test_model_of_each_turn_is_checked(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    running = await gate(CLIENTS_FILE=clients)
    client, server = await open_responses(running, upstream)
    client.send(create_response(model="gpt-4o"))
    event = await next_event(client)
    assert (event["status"], event["error"]["code"]) == (403, "model_not_allowed")
    client.send(create_response())
    assert (await next_event(server))["model"] == "gpt-5"


async def test_realtime_handshake_must_name_an_allowed_model(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    running = await gate(CLIENTS_FILE=clients)
    for target in ("/v1/realtime", "/v1/realtime?model=gpt-4o", "/v1/responses?model=gpt-4o"):
        got = await running.request(handshake(target=target))
        assert (got.status, got.reason) == (403, "model_not_allowed")


async def test_client_limits_apply_to_turns(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    running = await gate(CLIENTS_FILE=clients, RATE_LIMIT_TIMEOUT=1)
    client, server = await open_responses(running, upstream)
    for _ in range(3):
        client.send(create_response(max_output_tokens=2400))
    for _ in range(2):
        await next_event(server)
    assert "for client app" in (await next_event(client))["error"]["message"]


async def test_turn_of_a_removed_client_is_refused(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    running = await gate(CLIENTS_FILE=clients)
    client, _ = await open_responses(running, upstream)
    _rename_client(clients)
    running.daemon.reload()
    client.send(create_response())
    event = await next_event(client)
    assert (event["status"], event["error"]["code"]) == (401, "invalid_api_key")
    assert isinstance(running.daemon._auth, ClientAuth)


def _rename_client(clients: Path) -> None:
    clients.write_text(clients.read_text().replace("client.app", "client.other"))


# Turns that upstream starts on its own.


async def test_turn_that_upstream_starts_is_charged_and_logged(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1, **ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    server.send(created("resp_voice"))
    await client.frame()
    assert running.snapshot()["in_flight"] == 1
    server.send(done("resp_voice", (4000, 900)))
    await client.frame()
    assert running.snapshot()["in_flight"] == 0
    client.send(create(max_output_tokens=1000))
    assert (await next_event(client))["error"]["type"] == "tokens"
    turn, _ = await running.settled(2)
    assert (turn["model"], turn["outcome"], turn["status"]) == ("gpt-realtime", "ok", 200)
    assert (turn["tokens_in"], turn["tokens_out"]) == (4000, 900)


async def test_turn_that_upstream_starts_takes_a_request(
    gate: StartGate, upstream: Upstream
) -> None:
    client, server = await open_websocket(await gate(**ONE_TURN), upstream)
    server.send(created())
    await client.frame()
    client.send(create())
    assert (await next_event(client))["type"] == "error"


async def test_end_of_an_unknown_response_is_a_turn(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    server.send(done("resp_unknown", (7, 8)))
    await client.frame()
    [turn] = await running.settled()
    assert (turn["tokens_in"], turn["tokens_out"]) == (7, 8)
    assert running.snapshot()["in_flight"] == 0


# Failures that upstream reports.


FAILURES: dict[str, tuple[dict[str, Any], int | None]] = {
    "failed response": (
        {
            "type": "response.done",
            "response": {
                "status": "failed",
                "status_details": {"error": {"code": "rate_limit_exceeded", "message": "Slow"}},
            },
        },
        429,
    ),
    "failed without a reason": (
        {"type": "response.failed", "response": {"status": "failed"}},
        None,
    ),
    "server error": (
        {"type": "response.failed", "response": {"error": {"code": "server_error"}}},
        None,
    ),
    "error with a status": (
        {"type": "error", "status": 400, "error": {"code": "previous_response_not_found"}},
        400,
    ),
    "named like a quota": (
        {"type": "error", "error": {"code": "too_many_requests", "message": "Slow"}},
        None,
    ),
    "flat error": ({"type": "error", "code": "rate_limit_exceeded", "message": "Slow"}, 429),
}


@pytest.mark.parametrize(("event", "status"), FAILURES.values(), ids=FAILURES)
async def test_turn_that_fails_is_an_upstream_error(
    gate: StartGate, upstream: Upstream, event: dict[str, Any], status: int | None
) -> None:
    running = await gate(TOKENS_PER_MINUTE=5000, **ONE_SLOT)
    client, server = await open_responses(running, upstream)
    client.send(create_response(max_output_tokens=5000 - 100))
    await next_event(server)
    server.send(json.dumps(event).encode())
    assert await next_event(client) == event
    [turn] = await running.settled()
    assert (turn["outcome"], turn["status"]) == ("upstream_error", status)
    # What was reserved is given back.
    assert running.snapshot()["in_flight"] == 0
    client.send(create_response(model="gpt-4o", max_output_tokens=5000 - 100))
    await next_event(server)


async def test_rate_limit_pauses_the_lane(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, server = await open_responses(running, upstream)
    client.send(create_response())
    await next_event(server)
    error = {"code": "rate_limit_exceeded", "type": "requests", "message": "Slow down"}
    headers = {"retry-after-ms": "500"}
    event = {"type": "error", "status": 429, "error": error, "headers": headers}
    server.send(json.dumps(event).encode())
    await client.frame()
    began = monotonic()
    client.send(create_response(model="gpt-4o"))
    assert (await next_event(server))["model"] == "gpt-4o"
    client.send(create_response())
    assert (await next_event(server))["model"] == "gpt-5"
    assert 0.4 < monotonic() - began < 3


async def test_turns_that_name_no_model_have_a_lane_of_their_own(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client, server = await open_responses(running, upstream)
    client.send(b'{"type":"response.create"}')
    await next_event(server)
    error = {"code": "rate_limit_exceeded", "message": "Try again in 20s."}
    server.send(json.dumps({"type": "error", "status": 429, "error": error}).encode())
    await client.frame()
    # Neither another WebSocket nor a request is held up.
    await open_responses(running, upstream)
    asking = await running.send(get())
    await (await upstream.call()).respond(response())
    assert (await asking.response()).status == 200
    client.send(b'{"type":"response.create"}')
    await running.wait_until(waiters=1)


async def test_exhausted_quota_pauses_nothing(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, server = await open_responses(running, upstream)
    client.send(create_response())
    await next_event(server)
    event = {"type": "error", "status": 429, "error": {"code": "insufficient_quota"}}
    server.send(json.dumps(event).encode())
    await client.frame()
    began = monotonic()
    client.send(create_response())
    await next_event(server)
    assert monotonic() - began < 0.9


async def test_realtime_error_of_another_event_ends_no_turn(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    client.send(create("mine"))
    await next_event(server)
    for error in (
        {"event_id": "other", "code": "x"},
        {"event_id": None, "code": "input_audio_buffer_commit_empty"},
        {"event_id": None, "code": "response_cancel_not_active"},
    ):
        server.send(json.dumps({"type": "error", "error": error}).encode())
        await client.frame()
    assert running.snapshot()["in_flight"] == 1
    server.send(json.dumps({"type": "error", "error": {"event_id": "mine"}}).encode())
    await client.frame()
    assert running.snapshot()["in_flight"] == 0


async def test_turn_that_upstream_ignores_gives_its_slot_back(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**ONE_SLOT, UPSTREAM_READ_TIMEOUT=0.3)
    client, server = await open_websocket(running, upstream)
    client.send(create("ignored"))
    client.send(create("next"))
    assert (await next_event(server))["event_id"] == "ignored"
    assert (await next_event(server))["event_id"] == "next"
    [ignored] = await running.settled()
    assert (ignored["outcome"], ignored["reason"]) == ("upstream_error", "upstream_timeout")
    assert 250 < ignored["total_ms"] < 3000
    # A response that has begun may take as long as it likes.
    server.send(created())
    await client.frame()
    await asyncio.sleep(0.4)
    server.send(done())
    await client.frame()
    assert (await running.settled(2))[1]["outcome"] == "ok"


async def test_upstream_disconnect_ends_the_turns(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    await hold_turn(running, client, server)
    server.wire.close()
    await client.ended()
    await running.wait_until(in_flight=0, waiters=0, held_bytes=0)
    for line in await running.settled(3):
        assert (line["outcome"], line["reason"]) == ("aborted", "upstream_disconnected")


# Tokens without a usage.


def delta(text: str, kind: str = "response.output_text.delta") -> bytes:
    return json.dumps({"type": kind, "delta": text}, separators=(",", ":")).encode()


async def test_turn_without_a_usage_is_estimated(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    client, server = await open_responses(running, upstream)
    client.send(create_response(input="x" * 400, max_output_tokens=4000))
    await next_event(server)
    events = [created(), *(delta(f" word{number}") for number in range(200))]
    events.append(b'{"type":"response.completed","response":{"id":"resp_1"}}')
    for event in events:
        server.send(event)
    for event in events:
        await client.expect(event)
    [turn] = await running.settled()
    assert (turn["outcome"], turn["tokens_in"]) == ("ok", 100)
    assert 200 <= turn["tokens_out"] <= 460
    assert turn["tokens_estimated"] is True
    # The rest of what was reserved is free again.
    client.send(create_response(max_output_tokens=4000))
    await next_event(server)


async def test_cut_turn_is_settled_with_the_text_that_passed(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client, server = await open_responses(running, upstream)
    client.send(create_response(input="x" * 40, max_output_tokens=4000))
    await next_event(server)
    for event in (created(), *[delta(" word")] * 30):
        server.send(event)
        await client.expect(event)
    client.wire.reset()
    turn, _ = await running.settled(2)
    assert (turn["outcome"], turn["tokens_in"], turn["tokens_out"]) == ("client_left", 10, 30)


async def test_cached_tokens_of_a_turn_are_logged(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    client.send(create())
    await next_event(server)
    response = {"id": "resp_1", "usage": usage(30, 12, cached=20)}
    server.send(created())
    server.send(json.dumps({"type": "response.done", "response": response}).encode())
    [turn] = await running.settled()
    assert (turn["tokens_in"], turn["tokens_cached"], turn["tokens_out"]) == (30, 20, 12)
    assert client.wire.received.count(b"response") or await client.frame()


# Learned limits.


async def test_rate_limits_in_a_session_set_the_lane(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(RATE_LIMIT="auto", RATE_LIMIT_BURST=5, RATE_LIMIT_TIMEOUT=1)
    client, server = await open_websocket(running, upstream)
    client.send(create("first"))
    await next_event(server)
    server.send(created())
    limits = [{"name": "requests", "limit": 2, "remaining": 0, "reset_seconds": 30}]
    server.send(json.dumps({"type": "rate_limits.updated", "rate_limits": limits}).encode())
    server.send(done())
    for _ in range(3):
        await client.frame()
    client.send(create("second"))
    error = (await next_event(client))["error"]
    assert (error["code"], error["event_id"]) == ("rate_limit_exceeded", "second")
    assert "2 requests/min reached for gpt-realtime" in error["message"]


# Log and metrics.


async def test_turn_logs_a_line_of_its_own(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, server = await open_responses(running, upstream, "X-RustyGate-Client: app")
    client.send(create_response())
    await next_event(server)
    server.send(created())
    server.send(done(tokens=(30, 12), kind="completed"))
    await client.frame()
    await client.frame()
    [turn] = await running.settled()
    client.close()
    await server.close_frame()
    server.close()
    await client.close_frame()
    _, socket = await running.settled(2)
    assert turn["id"] == f"{socket['id']}.1"
    assert (turn["client"], turn["method"], turn["path"]) == ("app", "WS", RESPONSES)
    assert (turn["model"], turn["status"], turn["outcome"]) == ("gpt-5", 200, "ok")
    assert (turn["tokens_in"], turn["tokens_out"], turn["attempts"]) == (30, 12, 1)
    assert turn["queued_ms"] <= turn["first_byte_ms"] <= turn["total_ms"]
    assert turn["bytes"] == len(frame(created())) + len(
        frame(done(tokens=(30, 12), kind="completed"))
    )
    assert (socket["method"], socket["status"], socket["outcome"]) == ("GET", 101, "ok")
    assert socket["model"] == "gpt-5"
    assert (socket["tokens_in"], socket["tokens_out"]) == (None, None)


async def test_metrics_show_the_model_of_a_responses_websocket(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client, server = await open_responses(running, upstream)
    client.send(create_response())
    await serve_turn(server, tokens=(30, 12))
    await client.frame()
    await client.frame()
    await running.settled()
    scrape = await Scrape.of(running)
    labels = {"model": "gpt-5", "status": "200", "outcome": "ok"}
    assert scrape.sum("rustygate_exchanges_total", **labels) == 1
    assert scrape.sum("rustygate_tokens_total", model="gpt-5", kind="input") == 30
    assert scrape.sum("rustygate_tokens_total", model="gpt-5", kind="output") == 12


async def test_tokens_of_transcriptions_are_those_of_the_websocket(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    transcribed = {
        "type": "conversation.item.input_audio_transcription.completed",
        "usage": usage(20, 3),
    }
    server.send(json.dumps(transcribed).encode())
    server.close()
    await client.frame()
    await client.close_frame()
    client.close()
    await server.close_frame()
    [socket] = await running.settled()
    assert (socket["tokens_in"], socket["tokens_out"]) == (20, 3)


async def test_event_in_fragments_ends_a_turn(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(**ONE_SLOT)
    client, server = await open_websocket(running, upstream)
    client.send(create())
    await next_event(server)
    text = done(tokens=(9, 6))
    server.send(text[:7], final=False)
    server.send(b"", PING)
    server.send(text[7:40], CONTINUATION, final=False)
    server.send(text[40:], CONTINUATION)
    for opcode in (TEXT, PING, CONTINUATION, CONTINUATION):
        assert (await client.frame()).opcode == opcode
    [turn] = await running.settled()
    assert (turn["tokens_in"], turn["tokens_out"]) == (9, 6)
