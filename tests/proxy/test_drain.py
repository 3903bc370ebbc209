"""Drain: waiters are refused, exchanges in flight may finish, late ones are aborted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest

from tests.conftest import StartGate
from tests.support.gate import IDLE, Gate
from tests.support.http import (
    Response,
    get,
    post,
    response,
    response_head,
)
from tests.support.phases import (
    ANSWERED,
    BODY,
    IN_FLIGHT,
    LONG,
    SHORT,
    WAITING,
    Phase,
    has_been_sent,
    in_each,
    is_answered,
    is_streamed,
    sends_its_body,
    waits_to_try_again,
)
from tests.support.upstream import Upstream
from tests.support.waiting import A_SECOND_S, soon


@asynccontextmanager
async def draining(gate: Gate) -> AsyncIterator[None]:
    """The gate drains meanwhile, and has drained after."""
    task = asyncio.create_task(gate.daemon.drain())
    try:
        # Not before it has begun.
        await asyncio.sleep(0)
        yield
        async with soon():
            await task
    finally:
        task.cancel()


def is_told_to_try_again(got: Response) -> bool:
    told = [got.head.all(name) for name in ("retry-after", "x-should-retry", "connection")]
    return (got.status, got.reason) == (503, "draining") and told == [["1"], ["true"], ["close"]]


@in_each(WAITING | {"waits to try again": waits_to_try_again})
async def test_waiters_are_refused_at_once_when_the_gate_drains(
    gate: StartGate, upstream: Upstream, phase: Phase
) -> None:
    scene = await phase(partial(gate, DRAIN_TIMEOUT=LONG), upstream)
    async with draining(scene.gate):
        async with asyncio.timeout(A_SECOND_S):
            got = await scene.client.response()
        assert is_told_to_try_again(got)
        assert got.error["code"] == "draining"
        await scene.gate.wait_until(**scene.numbers)
        [line] = await scene.gate.settled()
        assert (line["outcome"], line["reason"]) == ("refused", "draining")
        if scene.holder is not None:
            await scene.holder.respond(response())
    assert len(upstream.calls) == 1


async def test_who_has_not_sent_all_is_refused_once_it_has(
    gate: StartGate, upstream: Upstream
) -> None:
    scene = await sends_its_body(partial(gate, DRAIN_TIMEOUT=LONG), upstream)
    late = await scene.gate.send(post(BODY)[:50])
    await scene.gate.request(get("/health"))
    async with draining(scene.gate):
        assert is_told_to_try_again(await scene.finish())
        late.send(post(BODY)[50:])
        assert is_told_to_try_again(await late.response())
    assert upstream.wires == []
    assert {line["outcome"] for line in await scene.gate.settled(2)} == {"refused"}


@in_each(IN_FLIGHT)
async def test_what_is_in_flight_may_finish_while_the_gate_drains(
    gate: StartGate, upstream: Upstream, phase: Phase
) -> None:
    scene = await phase(partial(gate, DRAIN_TIMEOUT=LONG), upstream)
    async with draining(scene.gate):
        got = await scene.finish()
        assert got.status == 200
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["bytes"]) == ("ok", len(got.body))
    assert scene.gate.snapshot() == IDLE


@in_each(IN_FLIGHT | {"sends its body": sends_its_body})
async def test_what_does_not_finish_in_time_is_aborted(
    gate: StartGate, upstream: Upstream, phase: Phase
) -> None:
    scene = await phase(partial(gate, DRAIN_TIMEOUT=SHORT), upstream)
    async with draining(scene.gate):
        pass
    assert scene.gate.snapshot() == IDLE
    scene.client.wire.resume_reading()
    if phase in ANSWERED.values():
        await scene.client.read_until_cut()
    else:
        await scene.client.ended()
        assert scene.client.wire.received == b""
    if scene.call is not None:
        await scene.call.ended(A_SECOND_S)
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "draining")


async def test_http_1_0_client_can_tell_an_aborted_answer_from_a_whole_one(
    gate: StartGate, upstream: Upstream
) -> None:
    asked = b"GET /v1/x HTTP/1.0\r\nHost: gate\r\n\r\n"
    drained = partial(gate, DRAIN_TIMEOUT=SHORT)
    scene = await is_answered(drained, upstream, response_head(), asked)
    async with draining(scene.gate):
        pass
    assert await scene.client.ended() == "reset"


async def test_second_signal_aborts_what_drains(gate: StartGate, upstream: Upstream) -> None:
    """Stopping waits for nobody."""
    scene = await is_streamed(partial(gate, DRAIN_TIMEOUT=LONG), upstream)
    async with draining(scene.gate):
        async with asyncio.timeout(A_SECOND_S):
            await scene.gate.daemon.stop()
        await scene.client.read_until_cut()
    assert (await scene.gate.settled())[0]["outcome"] == "aborted"


async def test_draining_gate_takes_no_connection_and_no_exchange(
    gate: StartGate, upstream: Upstream
) -> None:
    scene = await has_been_sent(partial(gate, DRAIN_TIMEOUT=LONG), upstream)
    idle = await scene.gate.connect()
    assert (await idle.request(get("/ready"))).status == 200
    async with draining(scene.gate):
        address = urlsplit(scene.gate.url)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address.hostname, address.port)
        assert (await idle.request(get("/ready"))).status == 503
        assert (await idle.request(get("/health"))).status == 200
        assert is_told_to_try_again(await idle.request(post(BODY)))
        assert await idle.ended() == "closed"
        await scene.finish()
    assert len(upstream.calls) == 1


async def test_gate_with_nothing_in_hand_drains_at_once(gate: StartGate) -> None:
    running = await gate(DRAIN_TIMEOUT=LONG)
    async with asyncio.timeout(A_SECOND_S):
        await running.daemon.drain()


async def test_idle_connections_are_closed_in_the_end(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate()
    silent, idle = await running.connect(), await running.connect()
    assert (await idle.request(post(BODY))).status == 200
    await running.daemon.drain()
    async with asyncio.timeout(A_SECOND_S):
        await running.daemon.stop()
        assert await silent.ended() == "closed"
        assert await idle.ended() == "closed"
        assert await upstream.wires[0].ended() == "closed"
