"""Draining: waiters are refused, exchanges in flight may finish, late ones are aborted."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest

from rustygate import retry
from rustygate.relay import stream
from tests.conftest import StartGate
from tests.support.gate import IDLE, Gate, also_with_workers
from tests.support.http import (
    LAST_CHUNK,
    Response,
    chunk,
    get,
    post,
    response,
    response_head,
)
from tests.support.phases import (
    BODY,
    IN_FLIGHT,
    LONG_DRAIN_S,
    QUEUED,
    RESPONDING,
    SHORT_DRAIN_S,
    Phase,
    before_retry,
    in_each,
    responding,
    sending_body,
    sent_request,
    streaming,
)
from tests.support.streams import KEEPALIVE, SHORT, fill_buffers, open_stalled, open_stream
from tests.support.upstream import Upstream
from tests.support.waiting import A_SECOND_S, soon, until, within


@pytest.fixture(autouse=True)
def _long_retry_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test does between two attempts comes before the second, on a busy machine, too."""
    monkeypatch.setattr(retry, "RETRY_PAUSE_S", 0.5)


@asynccontextmanager
async def draining(gate: Gate) -> AsyncIterator[None]:
    """The gate drains during the block, and has drained after it."""
    task = asyncio.create_task(gate.daemon.drain())
    try:
        # Let the drain begin: with workers, it does so a turn later.
        for _ in range(4):
            await asyncio.sleep(0)
        yield
        async with soon():
            await task
    finally:
        task.cancel()


def is_drain_refusal(refusal: Response) -> bool:
    names = ("retry-after", "x-should-retry", "connection")
    hints = [refusal.head.all(name) for name in names]
    return (refusal.status, refusal.reason) == (503, "draining") and hints == [
        ["1"],
        ["true"],
        ["close"],
    ]


@also_with_workers
@in_each(QUEUED | {"before retry": before_retry})
async def test_drain_refuses_waiters_at_once(
    gate: StartGate, upstream: Upstream, phase: Phase
) -> None:
    scene = await phase(partial(gate, DRAIN_TIMEOUT=LONG_DRAIN_S), upstream)
    async with draining(scene.gate):
        async with within(A_SECOND_S):
            received = await scene.client.response()
        assert is_drain_refusal(received)
        assert received.error["code"] == "draining"
        await scene.gate.wait_until(**scene.snapshot_after)
        [line] = await scene.gate.settled()
        assert (line["outcome"], line["reason"]) == ("refused", "draining")
        if scene.holder is not None:
            await scene.holder.respond(response())
    assert len(upstream.calls) == 1


async def test_drain_refuses_incomplete_requests_once_complete(
    gate: StartGate, upstream: Upstream
) -> None:
    scene = await sending_body(partial(gate, DRAIN_TIMEOUT=LONG_DRAIN_S), upstream)
    late = await scene.gate.send(post(BODY)[:50])
    await scene.gate.request(get("/health"))
    async with draining(scene.gate):
        assert is_drain_refusal(await scene.finish())
        late.send(post(BODY)[50:])
        assert is_drain_refusal(await late.response())
    assert upstream.wires == []
    assert {line["outcome"] for line in await scene.gate.settled(2)} == {"refused"}


@also_with_workers
@in_each(IN_FLIGHT)
async def test_drain_lets_exchanges_in_flight_finish(
    gate: StartGate, upstream: Upstream, phase: Phase
) -> None:
    scene = await phase(partial(gate, DRAIN_TIMEOUT=LONG_DRAIN_S), upstream)
    async with draining(scene.gate):
        received = await scene.finish()
        assert received.status == 200
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["bytes"]) == ("ok", len(received.body))
    assert scene.gate.snapshot() == IDLE


@also_with_workers
@pytest.mark.parametrize(
    "reply",
    [response(b"body"), response_head("Transfer-Encoding: chunked") + chunk(b"body") + LAST_CHUNK],
    ids=["complete", "chunked"],
)
async def test_response_within_a_drain_is_the_last_on_its_connection(
    gate: StartGate, upstream: Upstream, reply: bytes
) -> None:
    running = await gate(DRAIN_TIMEOUT=LONG_DRAIN_S)
    client = await running.send(post(BODY))
    call = await upstream.call()
    async with draining(running):
        await call.respond(reply)
        got = await client.response()
        assert (got.body, got.head.all("connection")) == (b"body", ["close"])
        assert await client.ended() == "closed"


@also_with_workers
async def test_request_behind_one_in_flight_is_refused_in_a_drain(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(DRAIN_TIMEOUT=LONG_DRAIN_S)
    client = await running.send(post(BODY) + post(BODY))
    call = await upstream.call()
    async with draining(running):
        await call.respond(response())
        got = await client.response()
        assert (got.status, got.head.all("connection")) == (200, [])
        assert is_drain_refusal(await client.response())


@in_each(IN_FLIGHT | {"sending body": sending_body})
async def test_exchange_that_exceeds_the_drain_timeout_is_aborted(
    gate: StartGate, upstream: Upstream, phase: Phase
) -> None:
    scene = await phase(partial(gate, DRAIN_TIMEOUT=SHORT_DRAIN_S), upstream)
    async with draining(scene.gate):
        pass
    assert scene.gate.snapshot() == IDLE
    scene.client.wire.resume_reading()
    if phase in RESPONDING.values():
        await scene.client.read_until_cut()
    else:
        await scene.client.ended()
        assert scene.client.wire.received == b""
    if scene.call is not None:
        await scene.call.ended(A_SECOND_S)
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "draining")


async def test_aborted_response_to_an_http_1_0_client_ends_in_a_reset(
    gate: StartGate, upstream: Upstream
) -> None:
    data = b"GET /v1/x HTTP/1.0\r\nHost: gate\r\n\r\n"
    start = partial(gate, DRAIN_TIMEOUT=SHORT_DRAIN_S)
    scene = await responding(start, upstream, response_head(), data)
    async with draining(scene.gate):
        pass
    assert await scene.client.ended() == "reset"


async def test_stop_aborts_a_drain(gate: StartGate, upstream: Upstream) -> None:
    """As on a second signal."""
    scene = await streaming(partial(gate, DRAIN_TIMEOUT=LONG_DRAIN_S), upstream)
    async with draining(scene.gate):
        async with within(A_SECOND_S):
            await scene.gate.daemon.stop()
        await scene.client.read_until_cut()
    assert (await scene.gate.settled())[0]["outcome"] == "aborted"


@pytest.mark.parametrize("by", ["timeout", "stop"])
@pytest.mark.parametrize(
    ("first", "has_event"),
    [
        (b"data: 1\n\n", True),
        (b"data: 1\n\n: ping\n", True),
        (b"data: 1\n\ndata", False),
        (b"data: [DONE]\n\n", False),
    ],
    ids=["between events", "after a comment", "inside an event", "after the final event"],
)
async def test_late_stream_ends_with_an_error_event_between_events(
    gate: StartGate, upstream: Upstream, first: bytes, has_event: bool, by: str
) -> None:
    running = await gate(DRAIN_TIMEOUT=SHORT_DRAIN_S if by == "timeout" else LONG_DRAIN_S)
    client, call = await open_stream(running, upstream, first)
    async with draining(running):
        if by == "stop":
            await running.daemon.stop()
        rest = await client.read_until_cut()
    await call.ended(A_SECOND_S)
    assert bool(rest) is has_event
    if has_event:
        error = json.loads(rest.removeprefix(b"data: "))["error"]
        assert error["code"] == "draining"
    [line] = await running.settled()
    assert line["outcome"] == ("ok" if b"[DONE]" in first else "aborted")
    assert line.get("reason") == (None if b"[DONE]" in first else "draining")


async def test_slow_client_does_not_hold_up_the_drain(gate: StartGate, upstream: Upstream) -> None:
    """It gets a second to read the rest of its stream and the error event."""
    running = await gate(DRAIN_TIMEOUT=SHORT_DRAIN_S)
    client, call = await open_stalled(running, upstream)
    await fill_buffers(running, call)
    call.send(chunk(b"data: x\n\n"))
    async with within(SHORT_DRAIN_S + 2 * A_SECOND_S):
        await running.daemon.drain()
    client.wire.resume_reading()
    await client.read_until_cut()
    assert (await running.settled())[0]["reason"] == "draining"


async def test_slow_client_gets_the_rest_of_its_stream_and_the_error_event(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "DRAIN_FLUSH_TIMEOUT_S", 60)
    settings = {"SSE_CHANNEL_CAPACITY": 100_000, "SSE_KEEPALIVE_INTERVAL": SHORT}
    running = await gate(DRAIN_TIMEOUT=SHORT_DRAIN_S, **settings)
    client, call = await open_stalled(running, upstream)
    [connection] = running.connections()
    unsent = connection.transport.get_write_buffer_size
    while unsent() < 1 << 20:
        await call.wire.send_all(chunk(b"data: %b\n\n" % bytes(64 << 10)))
        await asyncio.sleep(0)
    await until_keepalive(unsent)
    async with draining(running):
        # To notice when everything was sent, the gate limits the write buffer to nothing.
        await until(lambda: connection.writing_paused)
        client.wire.resume_reading()
        assert b'"code": "draining"' in await client.read_until_cut()


async def until_keepalive(unsent: Callable[[], int]) -> None:
    """Wait for a keepalive: the stream is idle between two events."""
    before = unsent()

    def is_written() -> bool:
        nonlocal before
        grown, before = unsent() - before, unsent()
        return grown == len(chunk(KEEPALIVE))

    await until(is_written)


async def test_draining_gate_accepts_no_connection_and_no_exchange(
    gate: StartGate, upstream: Upstream
) -> None:
    scene = await sent_request(partial(gate, DRAIN_TIMEOUT=LONG_DRAIN_S), upstream)
    idle = await scene.gate.connect()
    assert (await idle.request(get("/ready"))).status == 200
    async with draining(scene.gate):
        address = urlsplit(scene.gate.url)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address.hostname, address.port)
        assert (await idle.request(get("/ready"))).status == 503
        assert (await idle.request(get("/health"))).status == 200
        assert is_drain_refusal(await idle.request(post(BODY)))
        assert await idle.ended() == "closed"
        await scene.finish()
    assert len(upstream.calls) == 1


async def test_idle_gate_drains_at_once(gate: StartGate) -> None:
    running = await gate(DRAIN_TIMEOUT=LONG_DRAIN_S)
    async with within(A_SECOND_S):
        await running.daemon.drain()


async def test_stop_closes_idle_connections(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate()
    silent, idle = await running.connect(), await running.connect()
    assert (await idle.request(post(BODY))).status == 200
    await running.daemon.drain()
    async with within(A_SECOND_S):
        await running.daemon.stop()
        assert await silent.ended() == "closed"
        assert await idle.ended() == "closed"
        assert await upstream.wires[0].ended() == "closed"
