"""Responses through the gate: every byte, at the pace of the slower side."""

import asyncio

import pytest

from rustygate.core.response_observer import BATCH_BYTES, ResponseObserver
from tests.conftest import StartGate
from tests.support.gate import one_process
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
from tests.support.streams import NEVER, fill_buffers, open_stalled, open_stream
from tests.support.upstream import Upstream
from tests.support.waiting import within
from tests.support.wire import Wire

BODIES = {
    "plain": b"data: one\n\ndata: two\n\ndata: [DONE]\n\n",
    "CRLF": b"event: a\r\ndata: one\r\n\r\ndata: two\r\n\r\n",
    "CR": b"data: one\r\rdata: two\r\r",
    "names and ids": b"id: 7\nevent: response.created\nretry: 10\ndata: {}\n\n",
    "comments": b": a comment\n\n:\n\n: keep-alive\ndata: x\n\n",
    "many lines": b"data: one\ndata: two\ndata:\ndata:three\n\n",
    "no space": b"data:x\nevent:y\n\n",
    "byte order mark": b"\xef\xbb\xbfdata: x\n\n",
    "not UTF-8": b"data: \xff\xfe\x00\n\n",
    "no DONE": b'data: {"done": false}\n\n',
    "no last blank line": b"data: one\n\ndata: two\n",
    "empty": b"",
    "umlauts": "data: \N{LATIN SMALL LETTER A WITH DIAERESIS}\N{GRINNING FACE}\n\n".encode(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_complete_stream_passes_byte_for_byte(
    gate: StartGate, upstream: Upstream, body: bytes
) -> None:
    upstream.reply = EVENT_STREAM + (chunk(body) if body else b"") + LAST_CHUNK
    got = await (await gate()).request(chat(stream=True))
    assert got.body == body
    assert got.head["content-type"] == "text/event-stream"


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_each_byte_passes_as_soon_as_it_arrives(
    gate: StartGate, upstream: Upstream, body: bytes
) -> None:
    """Upstream sends the next byte only when the one before has arrived."""
    client, call = await open_stream(await gate(SSE_KEEPALIVE_INTERVAL=NEVER), upstream)
    for byte in body:
        call.send(chunk(bytes([byte])))
        await client.expect_body(bytes([byte]))
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


async def test_stream_is_scanned_in_batches(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not chunk by chunk, which would cost more than passing them on."""
    scanned: list[int] = []
    scan = ResponseObserver.scan

    def counting_scan(observer: ResponseObserver) -> None:
        scanned.append(sum(map(len, observer.pending)))
        scan(observer)

    monkeypatch.setattr(ResponseObserver, "scan", counting_scan)
    event = b"data: %b\n\n" % (b"x" * (BATCH_BYTES // 4 - 8))
    running = await gate(SSE_KEEPALIVE_INTERVAL=NEVER)
    client, call = await open_stream(running, upstream, event)
    for _ in range(8):
        call.send(chunk(event))
        await client.expect_body(event)
    call.send(LAST_CHUNK)
    await client.read_rest()
    assert scanned == [BATCH_BYTES, BATCH_BYTES, len(event)]


async def test_head_does_not_wait_for_the_first_event(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(chat(stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM)
    assert (await client.head()).status == 200
    call.send(chunk(b"data: 1\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: 1\n\n"


async def test_bytes_after_done_still_pass(gate: StartGate, upstream: Upstream) -> None:
    client, call = await open_stream(await gate(), upstream, b"data: [DONE]\n\n")
    call.send(chunk(b"data: after\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: after\n\n"


async def test_binary_body_streams(gate: StartGate, upstream: Upstream) -> None:
    head = response_head("Content-Type: audio/mpeg", "Transfer-Encoding: chunked")
    client, call = await open_stream(await gate(), upstream, b"\x00", request=post(), head=head)
    for piece in (b"\x00\x01", b"\xff" * 1000):
        call.send(chunk(piece))
        await client.expect_body(piece)
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


async def test_long_stream_arrives_complete(gate: StartGate, upstream: Upstream) -> None:
    events = [b'data: {"n": %d}\n\n' % number for number in range(20_000)]
    client, call = await open_stream(await gate(), upstream)
    call.send(*map(chunk, events), LAST_CHUNK)
    assert await client.read_rest() == b"".join(events)


async def test_concurrent_streams_arrive_complete(gate: StartGate, upstream: Upstream) -> None:
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


# Backpressure.

MEGABYTE = 1 << 20
FLOOD = 24 * MEGABYTE


async def count_taken(wire: Wire, stalled_s: float = 0.3) -> int:
    """Send a flood; returns how many bytes of the body were taken before it stalled, or FLOOD."""
    piece, sent = chunk(b"x" * (64 << 10)), 0
    while sent < FLOOD:
        try:
            async with within(stalled_s):
                await wire.send_all(piece)
        except TimeoutError:
            break
        sent += 64 << 10
    return sent


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
async def test_slow_client_pauses_upstream(
    gate: StartGate, upstream: Upstream, settings: dict[str, int], least: int, most: int
) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=NEVER, **settings)
    _, call = await open_stalled(running, upstream)
    assert least <= await count_taken(call.wire) <= most


@pytest.mark.parametrize(
    ("head", "size"),
    [(EVENT_STREAM, 100_000), (response_head("Transfer-Encoding: chunked"), 128 << 10)],
    ids=["events", "other body"],
)
async def test_half_of_what_a_stream_may_hold_waits_for_the_client(
    gate: StartGate, upstream: Upstream, head: bytes, size: int
) -> None:
    """The other half is read ahead from upstream."""
    running = await gate(SSE_CHANNEL_CAPACITY=200, SSE_BUFFER_CAPACITY=1000)
    client, call = await open_stream(running, upstream, head=head)
    [connection] = running.connections()
    assert connection.transport.get_write_buffer_limits()[1] == size
    call.send(LAST_CHUNK)
    await client.read_rest()


async def test_paused_stream_resumes_where_it_stopped(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(SSE_CHANNEL_CAPACITY=1)
    client, call = await open_stalled(running, upstream)
    body = b"".join(b"data: %d\n\n" % number for number in range(200_000))
    call.send(chunk(body), LAST_CHUNK)
    await open_stream(running, upstream)
    client.wire.resume_reading()
    assert await client.read_rest() == body


async def test_pause_by_the_client_does_not_count_as_upstream_silence(
    gate: StartGate, upstream: Upstream
) -> None:
    """The pause is longer than three exchanges that time out one after the other."""
    running = await gate(SSE_CHANNEL_CAPACITY=1, UPSTREAM_READ_TIMEOUT=0.3)
    client, call = await open_stalled(running, upstream)
    event = b"data: " + b"x" * 100 + b"\n\n"
    call.send(chunk(event) * 40_000, LAST_CHUNK)
    for _ in range(3):
        assert (await running.request(get())).status == 504
    client.wire.resume_reading()
    assert await client.read_rest() == event * 40_000


@one_process
async def test_late_read_of_the_end_does_not_affect_the_next_response(
    gate: StartGate, upstream: Upstream
) -> None:
    """By then the connection may serve another request. If upstream closes it there, that request
    is retried."""
    running = await gate(SSE_KEEPALIVE_INTERVAL=NEVER)
    client, call = await open_stalled(running, upstream)
    await fill_buffers(running, call)
    call.send(chunk(b"the end"), LAST_CHUNK)
    call.done.set()
    await running.request(get("/health"))
    other = await running.send(get())
    call = await upstream.call()
    assert len(upstream.wires) == 1
    client.wire.resume_reading()
    assert (await client.read_rest()).endswith(b"the end")
    upstream.reply = response(b"other")
    call.close()
    assert (await other.response()).body == b"other"


# Many small chunks in one read pause the connection. The parser applies the pause at the next
# read, and holds back the rest of that one.
TINY = {"SSE_CHANNEL_CAPACITY": 1, "SSE_BUFFER_CAPACITY": 1024}
PAUSING = range(14, 30)


async def test_end_that_the_parser_held_back_is_passed(
    gate: StartGate, upstream: Upstream
) -> None:
    for number in PAUSING:
        client, call = await open_stream(await gate(**TINY), upstream)
        call.send(chunk(b"x") * number)
        await client.expect_body(b"x" * number)
        call.send(chunk(b"a"), chunk(b"b"), LAST_CHUNK)
        assert await client.read_rest() == b"ab"


async def test_response_after_a_paused_one_is_passed(gate: StartGate, upstream: Upstream) -> None:
    for number in PAUSING:
        client = await (await gate(**TINY)).connect()
        for body in [b"x"] * number, [b"a"]:
            client.send(chat(stream=True))
            call = await upstream.call()
            await call.respond(EVENT_STREAM, *map(chunk, body), LAST_CHUNK)
            assert (await client.response()).body == b"".join(body)


async def test_data_that_the_parser_held_back_comes_before_the_cut(
    gate: StartGate, upstream: Upstream
) -> None:
    """A slow client gets all of the data first."""
    running = await gate(**TINY, SSE_KEEPALIVE_INTERVAL=NEVER)
    client, call = await open_stalled(running, upstream)
    await fill_buffers(running, call)
    call.send(chunk(b"y" * 40_000), b"nonsense\r\n")
    await running.request(get("/health"))
    client.wire.resume_reading()
    assert (await client.read_until_cut()).endswith(b"y" * 40_000)
    assert (await running.settled())[0]["reason"] == "upstream_disconnected"
