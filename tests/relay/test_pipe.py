"""Event streams through the gate: the bytes, their timing, keepalives, backpressure and breaks."""

import asyncio
import json

import pytest

from tests.conftest import StartGate
from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import (
    EVENT_STREAM,
    LAST_CHUNK,
    chat,
    chunk,
    get,
    post,
    response,
    response_head,
)
from tests.support.upstream import Call, Upstream
from tests.support.wire import Wire

KEEPALIVE = b": keep-alive\n"

# An interval that passes soon, and one that does not pass in a test.
SHORT, NEVER = 0.05, 0

BODIES = {
    "plain": b"data: one\n\ndata: two\n\ndata: [DONE]\n\n",
    "CRLF": b"event: a\r\ndata: one\r\n\r\ndata: two\r\n\r\n",
    "CR": b"data: one\r\rdata: two\r\r",
    "names and ids": b"id: 7\nevent: response.created\nretry: 10\ndata: {}\n\n",
    "comments": b": a comment\n\n:\n\n: keep-alive\ndata: x\n\n",
    "many lines": b"data: one\ndata: two\ndata:\ndata:three\n\n",
    "no space": b"data:x\nevent:y\n\n",
    "byte order mark": b"\xef\xbb\xbfdata: x\n\n",
    "no UTF-8": b"data: \xff\xfe\x00\n\n",
    "no DONE": b'data: {"done": false}\n\n',
    "no last blank line": b"data: one\n\ndata: two\n",
    "nothing": b"",
    "umlauts": "data: \N{LATIN SMALL LETTER A WITH DIAERESIS}\N{GRINNING FACE}\n\n".encode(),
}


async def opened(
    gate: Gate,
    upstream: Upstream,
    first: bytes = b"data: first\n\n",
    *,
    request: bytes = b"",
    head: bytes = EVENT_STREAM,
) -> tuple[Client, Call]:
    """A stream of which the head and the first bytes have come down."""
    client = await gate.send(request or chat(stream=True))
    call = await upstream.call()
    chunked = b"chunked" in head
    call.send(head, chunk(first) if chunked else first)
    await client.head()
    await client.expect_body(first)
    return client, call


async def some_time_passes(gate: Gate, upstream: Upstream) -> None:
    """Two intervals, as a stream of its own shows by its keepalives."""
    idle, _ = await opened(gate, upstream)
    await idle.expect_body(KEEPALIVE)
    await idle.expect_body(KEEPALIVE)


# Byte for byte.


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_stream_that_comes_at_once_is_passed_byte_for_byte(
    gate: StartGate, upstream: Upstream, body: bytes
) -> None:
    upstream.reply = EVENT_STREAM + (chunk(body) if body else b"") + LAST_CHUNK
    got = await (await gate()).request(chat(stream=True))
    assert got.body == body
    assert got.head["content-type"] == "text/event-stream"


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_stream_that_comes_byte_by_byte_is_passed_at_once(
    gate: StartGate, upstream: Upstream, body: bytes
) -> None:
    """Upstream sends the next byte only when the one before has arrived."""
    client, call = await opened(await gate(SSE_KEEPALIVE_INTERVAL=NEVER), upstream)
    for byte in body:
        call.send(chunk(bytes([byte])))
        await client.expect_body(bytes([byte]))
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


async def test_head_does_not_wait_for_the_first_event(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(chat(stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM)
    assert (await client.head()).status == 200
    call.send(chunk(b"data: 1\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: 1\n\n"


async def test_bytes_after_done_still_pass(gate: StartGate, upstream: Upstream) -> None:
    client, call = await opened(await gate(), upstream, b"data: [DONE]\n\n")
    call.send(chunk(b"data: after\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: after\n\n"


async def test_other_bodies_stream_too(gate: StartGate, upstream: Upstream) -> None:
    head = response_head("Content-Type: audio/mpeg", "Transfer-Encoding: chunked")
    client, call = await opened(await gate(), upstream, b"\x00", request=post(), head=head)
    for piece in (b"\x00\x01", b"\xff" * 1000):
        call.send(chunk(piece))
        await client.expect_body(piece)
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


async def test_long_stream_is_whole(gate: StartGate, upstream: Upstream) -> None:
    events = [b'data: {"n": %d}\n\n' % number for number in range(20_000)]
    client, call = await opened(await gate(), upstream)
    call.send(*map(chunk, events), LAST_CHUNK)
    assert await client.read_rest() == b"".join(events)


async def test_many_streams_at_once_are_all_whole(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    clients = [await running.send(chat(stream=True)) for _ in range(300)]
    calls = [await upstream.call() for _ in clients]
    for call in calls:
        call.send(EVENT_STREAM, chunk(b"data: first\n\n"))
    for client in clients:
        assert (await client.head()).status == 200
        await client.expect_body(b"data: first\n\n")
    assert running.snapshot()["in_flight"] == 300
    for call in calls:
        call.send(chunk(b"data: last\n\n"), LAST_CHUNK)
    bodies = await asyncio.gather(*(client.read_rest() for client in clients))
    assert set(bodies) == {b"data: last\n\n"}
    assert {line["outcome"] for line in await running.settled(300)} == {"ok"}


# Keepalives.


async def test_silent_stream_gets_keepalives_before_its_first_byte(
    gate: StartGate, upstream: Upstream
) -> None:
    client = await (await gate(SSE_KEEPALIVE_INTERVAL=SHORT)).send(chat(stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM)
    await client.head()
    await client.expect_body(KEEPALIVE)
    await client.expect_body(KEEPALIVE)
    call.send(chunk(b"data: x\n\n"), LAST_CHUNK)
    assert (await client.read_rest()).endswith(b"data: x\n\n")


@pytest.mark.parametrize(
    "first",
    [b"data: x\n\n", b"data: x\r\n\r\n", b"data: x\r\r", b": comment\n\n"],
    ids=repr,
)
async def test_idle_stream_gets_keepalives_at_a_boundary(
    gate: StartGate, upstream: Upstream, first: bytes
) -> None:
    client, call = await opened(await gate(SSE_KEEPALIVE_INTERVAL=SHORT), upstream, first)
    await client.expect_body(KEEPALIVE)
    await client.expect_body(KEEPALIVE)
    call.send(chunk(b"data: y\n\n"), LAST_CHUNK)
    assert (await client.read_rest()).endswith(b"data: y\n\n")


@pytest.mark.parametrize(
    "first",
    [b"d", b"data: x", b"data: x\n", b"data: x\r\n", b"data: x\r\n\r", b"data: x\n\ndata"],
    ids=repr,
)
async def test_no_keepalive_inside_an_event(
    gate: StartGate, upstream: Upstream, first: bytes
) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=SHORT)
    client, call = await opened(running, upstream, first)
    await some_time_passes(running, upstream)
    call.send(chunk(b"!\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"!\n\n"


@pytest.mark.parametrize(
    "head",
    [
        EVENT_STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
        EVENT_STREAM.replace(b"text/event-stream", b"application/json"),
        EVENT_STREAM.replace(b"text/event-stream", b"application/x-ndjson"),
        # A comment would not fit into a promised length.
        response_head("Content-Type: text/event-stream", "Content-Length: 18"),
    ],
    ids=["compressed", "JSON", "JSON lines", "with a length"],
)
@pytest.mark.parametrize("first", [b"data: 1\n\n", b""], ids=["idle", "silent"])
async def test_no_keepalive_in_what_is_no_plain_event_stream(
    gate: StartGate, upstream: Upstream, head: bytes, first: bytes
) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=SHORT)
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    framed = chunk if b"chunked" in head else bytes
    call.send(head, framed(first) if first else b"")
    await client.head()
    await some_time_passes(running, upstream)
    rest = b"data: 1\n\ndata: 2\n\n".removeprefix(first)
    call.send(framed(rest), LAST_CHUNK if b"chunked" in head else b"")
    assert await client.read_rest() == first + rest


async def test_zero_turns_keepalives_off(gate: StartGate, upstream: Upstream) -> None:
    client, call = await opened(await gate(SSE_KEEPALIVE_INTERVAL=0), upstream)
    await some_time_passes(await gate(SSE_KEEPALIVE_INTERVAL=SHORT), upstream)
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


async def test_busy_stream_gets_no_keepalive(gate: StartGate, upstream: Upstream) -> None:
    """Its events come faster than the interval passes, for longer than the interval."""
    running = await gate(SSE_KEEPALIVE_INTERVAL=0.5)
    idle, _ = await opened(running, upstream)
    client, call = await opened(running, upstream)
    told = asyncio.create_task(idle.expect_body(KEEPALIVE))
    while not told.done():
        call.send(chunk(b"data: x\n\n"))
        await client.expect_body(b"data: x\n\n")
        await asyncio.sleep(0.01)
    await told
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


# Backpressure.

MEGABYTE = 1 << 20
FLOOD = 24 * MEGABYTE


async def taken_from(wire: Wire, stalled_s: float = 0.3) -> int:
    """How much of a flood is taken before it stalls, or all of it."""
    piece, sent = chunk(b"x" * (64 << 10)), 0
    while sent < FLOOD:
        try:
            async with asyncio.timeout(stalled_s):
                await wire.send_all(piece)
        except TimeoutError:
            break
        sent += 64 << 10
    return sent


async def stalled(gate: Gate, upstream: Upstream) -> tuple[Client, Call]:
    """A stream whose client reads no more."""
    client = await gate.connect(receive_buffer=4096)
    client.send(chat(stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await client.expect_body(b"data: 1\n\n")
    client.wire.pause_reading()
    return client, call


async def fill(gate: Gate, call: Call) -> None:
    """Send until the gate holds what its only client does not read."""
    server = gate.daemon._runner.server
    assert server is not None
    [connection] = server.connections
    while not connection.writing_paused:
        await call.wire.send_all(chunk(bytes(64 << 10)))
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"SSE_CHANNEL_CAPACITY": 1, "SSE_BUFFER_CAPACITY": 1024}, 0, 12 * MEGABYTE),
        ({"SSE_CHANNEL_CAPACITY": 100, "SSE_BUFFER_CAPACITY": 1024}, 0, 12 * MEGABYTE),
        ({"SSE_CHANNEL_CAPACITY": 100_000, "SSE_BUFFER_CAPACITY": 1024}, FLOOD, FLOOD),
        ({"SSE_CHANNEL_CAPACITY": 100, "SSE_BUFFER_CAPACITY": MEGABYTE}, FLOOD, FLOOD),
    ],
    ids=["tiny", "default", "large channel", "large buffer"],
)
async def test_client_that_does_not_read_pauses_upstream(
    gate: StartGate, upstream: Upstream, settings: dict[str, int], least: int, most: int
) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=NEVER, **settings)
    _, call = await stalled(running, upstream)
    assert least <= await taken_from(call.wire) <= most


async def test_paused_stream_goes_on_where_it_stopped(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(SSE_CHANNEL_CAPACITY=1)
    client, call = await stalled(running, upstream)
    body = b"".join(b"data: %d\n\n" % number for number in range(200_000))
    call.send(chunk(body), LAST_CHUNK)
    await opened(running, upstream)
    client.wire.resume_reading()
    assert await client.read_rest() == body


async def test_client_that_does_not_read_is_no_silence_of_upstream(
    gate: StartGate, upstream: Upstream
) -> None:
    """It takes longer than another exchange, which times out."""
    running = await gate(SSE_CHANNEL_CAPACITY=1, UPSTREAM_READ_TIMEOUT=0.3)
    client, call = await stalled(running, upstream)
    event = b"data: " + b"x" * 100 + b"\n\n"
    call.send(chunk(event) * 40_000, LAST_CHUNK)
    for _ in range(3):
        assert (await running.request(get())).status == 504
    client.wire.resume_reading()
    assert await client.read_rest() == event * 40_000


async def test_end_that_is_read_late_is_no_byte_of_the_next_answer(
    gate: StartGate, upstream: Upstream
) -> None:
    """Its connection may serve another by then; breaks it there, that is tried again."""
    running = await gate(SSE_KEEPALIVE_INTERVAL=NEVER)
    client, call = await stalled(running, upstream)
    await fill(running, call)
    call.send(chunk(b"the end"), LAST_CHUNK)
    call.done.set()
    await running.request(get("/health"))
    other = await running.send(chat())
    call = await upstream.call()
    assert len(upstream.wires) == 1
    client.wire.resume_reading()
    assert (await client.read_rest()).endswith(b"the end")
    upstream.reply = response(b"other")
    call.close()
    assert (await other.response()).body == b"other"


# Many small chunks in one read are enough to pause it; the parser heeds that only with the read
# after it, of which it holds back the rest.
TINY = {"SSE_CHANNEL_CAPACITY": 1, "SSE_BUFFER_CAPACITY": 1024}
PAUSING = range(14, 30)


async def test_end_that_was_held_back_is_passed(gate: StartGate, upstream: Upstream) -> None:
    for number in PAUSING:
        client, call = await opened(await gate(**TINY), upstream)
        call.send(chunk(b"x") * number)
        await client.expect_body(b"x" * number)
        call.send(chunk(b"a"), chunk(b"b"), LAST_CHUNK)
        assert await client.read_rest() == b"ab"


async def test_answer_behind_one_that_paused_is_passed(
    gate: StartGate, upstream: Upstream
) -> None:
    for number in PAUSING:
        client = await (await gate(**TINY)).connect()
        for body in [b"x"] * number, [b"a"]:
            client.send(chat(stream=True))
            call = await upstream.call()
            await call.respond(EVENT_STREAM, *map(chunk, body), LAST_CHUNK)
            assert (await client.response()).body == b"".join(body)


async def test_break_behind_what_was_held_back_comes_after_it(
    gate: StartGate, upstream: Upstream
) -> None:
    """A client that reads slowly is passed all that it is owed first."""
    running = await gate(**TINY, SSE_KEEPALIVE_INTERVAL=NEVER)
    client, call = await stalled(running, upstream)
    await fill(running, call)
    call.send(chunk(b"y" * 40_000), b"nonsense\r\n")
    await running.request(get("/health"))
    client.wire.resume_reading()
    assert (await client.read_until_cut()).endswith(b"y" * 40_000)
    assert (await running.settled())[0]["reason"] == "upstream_disconnected"


# Breaks.


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_break_at_a_boundary_is_told_and_cut(
    gate: StartGate, upstream: Upstream, how: str
) -> None:
    running = await gate()
    client, call = await opened(running, upstream, b"data: 1\n\n")
    call.close() if how == "close" else call.reset()
    told = await client.read_until_cut()
    assert told.startswith(b"data: ")
    assert told.endswith(b"\n\n")
    error = json.loads(told.removeprefix(b"data: "))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("upstream_error", "upstream_disconnected")
    [line] = await running.settled()
    assert (line["outcome"], line["status"], line["bytes"]) == ("aborted", 200, 9)


@pytest.mark.parametrize("target", ["/v1/responses", "/v1/responses?stream=1"])
async def test_break_of_a_response_has_the_form_of_its_events(
    gate: StartGate, upstream: Upstream, target: str
) -> None:
    body = b'{"model": "gpt-5", "stream": true}'
    first = b"event: response.created\ndata: {}\n\n"
    request = post(body, target=target)
    client, call = await opened(await gate(), upstream, first, request=request)
    call.close()
    told = await client.read_until_cut()
    assert told.startswith(b"event: error\ndata: ")
    assert told.endswith(b"\n\n")
    event = json.loads(told.split(b"data: ", 1)[1])
    assert (event["type"], event["code"]) == ("error", "upstream_disconnected")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("first", [b"data: 1\n\nda", b"data: 1\n", b"data: 1\r\n\r"], ids=repr)
async def test_break_inside_an_event_is_only_cut(
    gate: StartGate, upstream: Upstream, first: bytes, how: str
) -> None:
    running = await gate()
    client, call = await opened(running, upstream, first)
    call.close() if how == "close" else call.reset()
    assert await client.read_until_cut() == b""
    assert (await running.settled())[0]["outcome"] == "aborted"


@pytest.mark.parametrize(
    "bad", [b"nonsense\r\n", b"-1\r\n", b"\r\n", b"f" * 20 + b"\r\n", b"1\r\n23\r\n"], ids=repr
)
async def test_bad_chunk_in_an_answer_cuts(
    gate: StartGate, upstream: Upstream, bad: bytes
) -> None:
    client, call = await opened(await gate(), upstream, b"data: 1\n\nda")
    call.send(bad)
    assert await client.read_until_cut() in (b"", b"2")


async def test_what_came_with_a_bad_chunk_is_passed(gate: StartGate, upstream: Upstream) -> None:
    client, call = await opened(await gate(), upstream)
    call.send(chunk(b"data: second\n\n"), b"nonsense\r\n")
    assert (await client.read_until_cut()).startswith(b'data: second\n\ndata: {"error"')


async def test_break_of_a_compressed_stream_is_only_cut(
    gate: StartGate, upstream: Upstream
) -> None:
    head = EVENT_STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    client, call = await opened(await gate(), upstream, b"\x1f\x8b\n\n", head=head)
    call.close()
    assert await client.read_until_cut() == b""


@pytest.mark.parametrize(
    ("head", "how"),
    [
        (response_head("Content-Length: 10", "Content-Type: application/json"), "close"),
        (response_head("Content-Length: 10", "Content-Type: application/json"), "reset"),
        (response_head("Transfer-Encoding: chunked"), "close"),
        (response_head("Transfer-Encoding: chunked"), "reset"),
        # Here only a reset tells that the connection's end was not the body's.
        (response_head(), "reset"),
    ],
    ids=["length", "length, reset", "chunked", "chunked, reset", "until the end, reset"],
)
async def test_answer_that_breaks_off_is_cut(
    gate: StartGate, upstream: Upstream, head: bytes, how: str
) -> None:
    running = await gate()
    client, call = await opened(running, upstream, b"part", request=get(), head=head)
    call.close() if how == "close" else call.reset()
    assert await client.read_until_cut() == b""
    assert (await running.settled())[0]["outcome"] == "aborted"


async def test_http_1_0_client_can_tell_a_break_too(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(b"GET /v1/x HTTP/1.0\r\nHost: gate\r\n\r\n")
    call = await upstream.call()
    call.send(response_head("Transfer-Encoding: chunked"), chunk(b"abc"))
    await client.head()
    await client.expect_body(b"abc")
    call.close()
    assert await client.ended() == "reset"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "head",
    [
        EVENT_STREAM,
        response_head("Content-Length: 10"),
        response_head("Transfer-Encoding: chunked"),
    ],
    ids=["stream", "length", "chunked"],
)
async def test_break_between_head_and_body_is_an_error(
    gate: StartGate, upstream: Upstream, head: bytes, how: str
) -> None:
    running = await gate()
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    await call.read_rest()
    call.send(head)
    call.close() if how == "close" else call.reset()
    got = await client.response()
    assert (got.status, got.reason) == (502, "upstream_disconnected")
    assert len(upstream.calls) == 1
    assert (await running.settled())[0]["outcome"] == "upstream_error"


async def test_silence_in_a_stream_breaks_it_off(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=0.3)
    client, call = await opened(running, upstream)
    told = await client.read_until_cut()
    assert json.loads(told.removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"
    await call.ended()


async def test_client_that_does_not_read_the_break_is_cut_all_the_same(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(SSE_CHANNEL_CAPACITY=1, SSE_KEEPALIVE_INTERVAL=NEVER)
    client, call = await opened(running, upstream)
    client.wire.pause_reading()
    call.close()
    await running.settled()
    client.wire.resume_reading()
    assert (await client.read_until_cut()).startswith(b"data: ")


async def test_stream_after_a_cut_one_is_served(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, call = await opened(running, upstream)
    call.close()
    await client.read_until_cut()
    upstream.reply = response(b"next")
    assert (await running.request(get())).body == b"next"
