"""Keepalives in event streams: when they are written, and when not."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from rustygate.plan import virtual_clock
from rustygate.relay.keepalive import Keepalive
from tests.conftest import StartGate
from tests.support.http import (
    EVENT_STREAM,
    LAST_CHUNK,
    chat,
    chunk,
    response_head,
)
from tests.support.streams import KEEPALIVE, SHORT, open_stream, wait_two_intervals
from tests.support.upstream import Upstream


class Written:
    """What a keepalive needs of a request, its response and its observer; when it was written."""

    def __init__(self) -> None:
        self.protocol, self.writing_paused, self.at_boundary = self, False, True
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.times: list[float] = []

    def write_chunk(self, data: bytes) -> None:
        assert data == KEEPALIVE
        self.times.append(round(self.loop.time() - self.began, 3))

    def keepalive(self, interval_s: float, idle_s: float) -> Keepalive:
        parts: Any = self
        return Keepalive(parts, parts, parts, interval_s, self.began - idle_s)


def test_keepalives_come_after_each_idle_interval_until_they_are_stopped() -> None:
    async def main() -> None:
        written = Written()
        keepalive = written.keepalive(15, idle_s=5)
        keepalive.start()
        await asyncio.sleep(41)
        assert written.times == [10, 25, 40]
        keepalive.idle_since = written.loop.time()
        await asyncio.sleep(15)
        assert written.times == [10, 25, 40, 56]
        keepalive.stop()
        keepalive.stop()
        await asyncio.sleep(100)
        assert written.times == [10, 25, 40, 56]

    virtual_clock.run(main)


@pytest.mark.parametrize(("at_boundary", "paused"), [(False, False), (True, True)])
def test_keepalive_that_may_not_be_written_is_left_out(at_boundary: bool, paused: bool) -> None:
    async def main() -> None:
        written = Written()
        written.at_boundary, written.writing_paused = at_boundary, paused
        keepalive = written.keepalive(15, idle_s=0)
        keepalive.start()
        await asyncio.sleep(20)
        written.at_boundary, written.writing_paused = True, False
        await asyncio.sleep(20)
        assert written.times == [30]
        keepalive.stop()

    virtual_clock.run(main)


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
    [
        b"data: x\n\n",
        b"data: x\r\n\r\n",
        b"data: x\r\r",
        b": comment\n\n",
        b": ping\n",
        b"data: x\n\n: ping\n",
        b"data: x\n\n: keep-alive\n: keep-alive\n",
    ],
    ids=repr,
)
async def test_idle_stream_gets_keepalives_at_an_event_boundary(
    gate: StartGate, upstream: Upstream, first: bytes
) -> None:
    client, call = await open_stream(await gate(SSE_KEEPALIVE_INTERVAL=SHORT), upstream, first)
    await client.expect_body(KEEPALIVE)
    await client.expect_body(KEEPALIVE)
    call.send(chunk(b"data: y\n\n"), LAST_CHUNK)
    assert (await client.read_rest()).endswith(b"data: y\n\n")


@pytest.mark.parametrize(
    "first",
    [
        b"d",
        b"data: x",
        b"data: x\n",
        b"data: x\r\n",
        b"data: x\r\n\r",
        b"data: x\n\ndata",
        b"data: x\n: ping\n",
        b": ping",
    ],
    ids=repr,
)
async def test_no_keepalive_inside_an_event(
    gate: StartGate, upstream: Upstream, first: bytes
) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=SHORT)
    client, call = await open_stream(running, upstream, first)
    await wait_two_intervals(running, upstream)
    call.send(chunk(b"!\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"!\n\n"


TWO_LINES = b"identity\r\nContent-Encoding: "


@pytest.mark.parametrize("coding", [b"identity", b"none", b"Identity", TWO_LINES + b"none"])
async def test_identity_does_not_count_as_compression(
    gate: StartGate, upstream: Upstream, coding: bytes
) -> None:
    head = EVENT_STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: %b\r\n\r\n" % coding)
    running = await gate(SSE_KEEPALIVE_INTERVAL=SHORT)
    client, call = await open_stream(running, upstream, head=head)
    await client.expect_body(KEEPALIVE)
    call.send(chunk(b'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}\n\n'))
    call.send(LAST_CHUNK)
    await client.read_rest()
    [line] = await running.settled()
    assert (line["tokens_in"], line["tokens_out"]) == (3, 4)


@pytest.mark.parametrize(
    "head",
    [
        EVENT_STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
        EVENT_STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: %bgzip\r\n\r\n" % TWO_LINES),
        EVENT_STREAM.replace(b"text/event-stream", b"application/json"),
        EVENT_STREAM.replace(b"text/event-stream", b"application/x-ndjson"),
        # A comment would exceed the declared length.
        response_head("Content-Type: text/event-stream", "Content-Length: 18"),
    ],
    ids=["compressed", "compressed, two lines", "JSON", "JSON lines", "with a length"],
)
@pytest.mark.parametrize("first", [b"data: 1\n\n", b""], ids=["idle", "silent"])
async def test_no_keepalive_unless_the_body_is_a_plain_event_stream(
    gate: StartGate, upstream: Upstream, head: bytes, first: bytes
) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=SHORT)
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    framed = chunk if b"chunked" in head else bytes
    call.send(head, framed(first) if first else b"")
    await client.head()
    await wait_two_intervals(running, upstream)
    rest = b"data: 1\n\ndata: 2\n\n".removeprefix(first)
    call.send(framed(rest), LAST_CHUNK if b"chunked" in head else b"")
    assert await client.read_rest() == first + rest


async def test_interval_zero_disables_keepalives(gate: StartGate, upstream: Upstream) -> None:
    client, call = await open_stream(await gate(SSE_KEEPALIVE_INTERVAL=0), upstream)
    await wait_two_intervals(await gate(SSE_KEEPALIVE_INTERVAL=SHORT), upstream)
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


async def test_busy_stream_gets_no_keepalive(gate: StartGate, upstream: Upstream) -> None:
    """Its events come more often than the interval, for longer than the interval. If a busy
    machine delays an event by almost the interval, there may be a keepalive."""
    running = await gate(SSE_KEEPALIVE_INTERVAL=0.5)
    idle, _ = await open_stream(running, upstream)
    client, call = await open_stream(running, upstream)
    interval = asyncio.create_task(idle.expect_body(KEEPALIVE))
    times = [asyncio.get_running_loop().time()]
    while not interval.done():
        call.send(chunk(b"data: x\n\n"))
        await asyncio.sleep(0.01)
        times.append(asyncio.get_running_loop().time())
    await interval
    call.send(LAST_CHUNK)
    late = sum(after - before > 0.4 for before, after in pairwise(times))
    body = await client.read_rest()
    assert body.count(KEEPALIVE) <= late
    assert body.replace(KEEPALIVE, b"") == b"data: x\n\n" * (len(times) - 1)
