"""Turns in a WebSocket are admitted like requests: when, in which order, at what cost."""

import json
import re
from time import monotonic

import pytest

from tests.support.gate import also_with_workers
from tests.support.http import chat, get, response
from tests.support.upstream import Upstream
from tests.support.websocket import (
    BINARY,
    CONTINUATION,
    MASK,
    TEXT,
    frame,
)
from tests.support.websocket_turns import (
    ONE_SLOT,
    ONE_TURN,
    SLOW,
    OpenSocket,
    create,
    create_response,
    created,
    done,
    hold_turn,
    next_event,
    serve_turn,
)

# Admission.


async def test_turns_beyond_the_rate_limit_do_not_reach_upstream(realtime: OpenSocket) -> None:
    _, client, server = await realtime(**ONE_TURN)
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


@also_with_workers
async def test_hopeless_turns_are_refused_on_arrival(realtime: OpenSocket) -> None:
    # The second turn would wait for a hundred seconds, which is longer than this test waits.
    running, client, server = await realtime(
        RATE_LIMIT=0.01, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=250
    )
    for number in range(10):
        client.send(create(f"event_{number}"))
    assert (await next_event(server))["event_id"] == "event_0"
    for number in range(3, 10):
        error = (await next_event(client))["error"]
        assert error["event_id"] == f"event_{number}"
        assert re.fullmatch(
            r"Limit 0\.6 requests/min reached; 2 requests are ahead, and this request may wait "
            r"only 250\.0 s; try again in (2[5-9]\d|300) s\.",
            error["message"],
        )
    assert running.snapshot()["waiters"] == 2


@also_with_workers
async def test_turns_that_wait_are_admitted_at_the_rate(realtime: OpenSocket) -> None:
    _, client, server = await realtime(RATE_LIMIT=4, RATE_LIMIT_BURST=1)
    began = monotonic()
    for number in range(4):
        client.send(create(f"event_{number}"))
    client.send(b"after")
    for number in range(4):
        assert (await next_event(server))["event_id"] == f"event_{number}"
        assert monotonic() - began > number / 4 - 0.1
    await server.expect(b"after")


async def test_turns_of_2000_tokens_fit_a_budget_of_5000_twice(realtime: OpenSocket) -> None:
    running, client, server = await realtime(TOKENS_PER_MINUTE=5000)
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


async def test_waiting_turns_count_for_other_clients(realtime: OpenSocket) -> None:
    running, client, server = await realtime(
        RATE_LIMIT=0.1, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=35
    )
    for _ in range(4):
        client.send(create())
    await running.wait_until(waiters=3)
    got = await running.request(get())
    assert (got.status, got.reason) == (429, "queue_timeout")
    assert "3 requests are ahead" in got.error["message"]
    client.wire.reset()
    await running.wait_until(waiters=0, held_bytes=0)
    server.wire.close()


async def test_turn_waits_for_its_admission(realtime: OpenSocket) -> None:
    _, client, server = await realtime(**SLOW)
    sent = monotonic()
    client.send(create("first"))
    await next_event(server)
    client.send(create("second"))
    assert (await next_event(server))["event_id"] == "second"
    assert monotonic() - sent > 0.3


@pytest.mark.parametrize("cap", [2000, 2500])
async def test_turn_costs_its_output_cap(realtime: OpenSocket, cap: int) -> None:
    _, client, server = await realtime(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    for _ in range(5):
        client.send(create(max_output_tokens=cap))
    for _ in range(2):
        await next_event(server)
    for _ in range(3):
        error = (await next_event(client))["error"]
        assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    client.send(b"after")
    await server.expect(b"after")


async def test_turn_costs_the_session_cap(realtime: OpenSocket) -> None:
    _, client, server = await realtime(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    session = {"type": "session.created", "session": {"max_output_tokens": 4000}}
    server.send(json.dumps(session).encode())
    await next_event(client)
    client.send(create())
    await next_event(server)
    client.send(create())
    assert (await next_event(client))["error"]["type"] == "tokens"


async def test_turn_costs_the_conversation_so_far(realtime: OpenSocket) -> None:
    running, client, server = await realtime(TOKENS_PER_MINUTE=7000, RATE_LIMIT_TIMEOUT=0.1)
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


async def test_turn_costs_the_items_created_before_it(realtime: OpenSocket) -> None:
    _, client, server = await realtime(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    text = {"type": "input_text", "text": "word" * 2450}
    item = {"type": "conversation.item.create", "item": {"type": "message", "content": [text]}}
    client.send(json.dumps(item).encode())
    await next_event(server)
    for _ in range(3):
        client.send(create(max_output_tokens=10))
    for _ in range(2):
        await next_event(server)
    assert (await next_event(client))["error"]["type"] == "tokens"


async def test_turn_costs_the_response_that_it_goes_on_from(responses: OpenSocket) -> None:
    _, client, server = await responses(TOKENS_PER_MINUTE=7000, RATE_LIMIT_TIMEOUT=1)
    client.send(create_response(max_output_tokens=10))
    await serve_turn(server, "resp_1", (2800, 200), kind="completed")
    await client.frame()
    await client.frame()
    for previous in ("resp_0", "resp_1"):
        client.send(create_response(max_output_tokens=10, previous_response_id=previous))
        await next_event(server)
    client.send(create_response(max_output_tokens=10, previous_response_id="resp_1"))
    assert (await next_event(client))["error"]["type"] == "tokens"


async def test_turn_without_a_cap_costs_as_much_as_those_before_it(responses: OpenSocket) -> None:
    _, client, server = await responses(TOKENS_PER_MINUTE=10_000, RATE_LIMIT_TIMEOUT=1)
    client.send(create_response())
    await serve_turn(server, tokens=(5, 8000), kind="completed")
    await client.frame()
    await client.frame()
    client.send(create_response())
    assert (await next_event(client))["error"]["type"] == "tokens"


async def test_conversation_is_part_of_an_estimated_input(realtime: OpenSocket) -> None:
    running, client, server = await realtime()
    client.send(create())
    await serve_turn(server, tokens=(2800, 200))
    await running.settled()
    client.send(create(instructions="x" * 40))
    await next_event(server)
    server.send(created("resp_2"))
    server.send(b'{"type":"response.done","response":{"id":"resp_2"}}')
    second = (await running.settled(2))[1]
    assert (second["tokens_in"], second["tokens_estimated"]) == (3010, True)


async def test_usage_replaces_the_estimate(realtime: OpenSocket) -> None:
    """Ten turns of 2000 reserved tokens fit into a budget of 5000 if they take ten each."""
    running, client, server = await realtime(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    for number in range(10):
        client.send(create(max_output_tokens=2000))
        await serve_turn(server, f"resp_{number}", (5, 5))
        await client.frame()
        await client.frame()
    assert [line["outcome"] for line in await running.settled(10)] == ["ok"] * 10


@also_with_workers
async def test_large_usage_delays_the_next_turn(realtime: OpenSocket) -> None:
    _, client, server = await realtime(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    client.send(create(max_output_tokens=10))
    await serve_turn(server, tokens=(4000, 990))
    await client.frame()
    await client.frame()
    client.send(create(max_output_tokens=1000))
    assert (await next_event(client))["error"]["type"] == "tokens"


@also_with_workers
async def test_turn_holds_its_slot_until_its_response_is_done(
    realtime: OpenSocket, upstream: Upstream
) -> None:
    running, client, server = await realtime(**ONE_SLOT)
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


@also_with_workers
async def test_turns_keep_their_order(realtime: OpenSocket) -> None:
    _, client, server = await realtime(RATE_LIMIT=20, RATE_LIMIT_BURST=2)
    for number in range(6):
        client.send(create(f"event_{number}"))
        client.send(b"between %d" % number)
    for number in range(6):
        assert (await next_event(server))["event_id"] == f"event_{number}"
        await server.expect(b"between %d" % number)


async def test_turn_passes_byte_for_byte(realtime: OpenSocket) -> None:
    _, client, server = await realtime(**SLOW)
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


async def test_turn_that_arrives_byte_by_byte_is_held(realtime: OpenSocket) -> None:
    _, client, server = await realtime(**ONE_TURN)
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
async def test_every_form_of_a_turn_is_recognized(realtime: OpenSocket, name: str) -> None:
    _, client, server = await realtime(**ONE_TURN)
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
async def test_other_messages_are_not_held(realtime: OpenSocket, other: bytes) -> None:
    _, client, server = await realtime(**ONE_TURN)
    for _ in range(3):
        client.send(other)
        await server.expect(other)


async def test_large_audio_passes_as_it_arrives(realtime: OpenSocket) -> None:
    _, client, server = await realtime()
    data = frame(b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 10**6, mask=MASK)
    await client.wire.send_all(data[:1000])
    assert await server.wire.read_some() == data[:1000]
