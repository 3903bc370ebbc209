"""Refusals on arrival, at the deadline, and when the gate closes, on a virtual clock."""

import asyncio

import pytest

from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from rustygate.errors import Draining, QueueFull, QueueTimeout, RequestTooLarge
from tests.support.harness import Harness, play, settle, teach, told


def test_request_that_cannot_be_admitted_in_time_is_refused_on_arrival() -> None:
    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn() for _ in range(3)]
        await settle()
        with pytest.raises(QueueTimeout) as caught:
            await harness.admit()
        assert harness.gate.now() == harness.began
        assert caught.value.retry_after_ms == 3000
        await asyncio.gather(*tasks)

    play(scene, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=2.5)


def test_refusal_on_arrival_counts_only_work_that_goes_before() -> None:
    """A light client is not refused for a flood that it would overtake."""

    async def scene(harness: Harness) -> None:
        flood = [harness.spawn("flood") for _ in range(100)]
        await settle()
        assert (await harness.admit("light")).queued <= 3 * SECOND
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    play(scene, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=200)


@pytest.mark.parametrize("whose", ["gate", "client"])
def test_refusal_on_arrival_counts_units_that_waiters_ahead_already_have(whose: str) -> None:
    """Who waits for a slot does not wait for units of which there are enough."""

    async def scene(harness: Harness) -> None:
        if whose == "client":
            limits = Limits(requests_per_second=0.1, burst=100, concurrency=1)
            harness.gate.limit_clients({"a": limits})
        tasks = [harness.spawn("a", 1) for _ in range(20)]
        await settle()
        assert (await harness.admit("a")).queued == pytest.approx(20 * SECOND, rel=0.01)
        await asyncio.gather(*tasks)

    if whose == "gate":
        play(scene, rate_limit=0.1, rate_limit_burst=100, concurrency_limit=1)
    else:
        play(scene, rate_limit=None)


def test_waiter_is_refused_at_its_deadline() -> None:
    async def scene(harness: Harness) -> None:
        holder = harness.spawn("a", 60)
        await settle()
        with pytest.raises(QueueTimeout):
            await harness.admit()
        assert harness.gate.now() - harness.began == pytest.approx(30 * SECOND, rel=0.001)
        await holder

    play(scene, rate_limit=None, concurrency_limit=1)


def test_full_queue_refuses() -> None:
    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn() for _ in range(6)]
        await settle()
        with pytest.raises(QueueFull, match=r"full \(5 requests are waiting\); try again in 6 s"):
            await harness.admit()
        await asyncio.gather(*tasks)

    play(scene, rate_limit=1, rate_limit_burst=1, queue_limit=5)


def test_closing_refuses_waiters_and_newcomers_but_not_requests_in_flight() -> None:
    async def scene(harness: Harness) -> None:
        holder = harness.spawn("a", 5)
        await settle()
        waiters = [harness.spawn() for _ in range(3)]
        await settle()
        harness.gate.close()
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Draining] * 3
        with pytest.raises(Draining):
            await harness.admit()
        await holder

    play(scene, rate_limit=None, concurrency_limit=1)


def test_cost_above_the_capacity_is_refused_at_once() -> None:
    async def scene(harness: Harness) -> None:
        with pytest.raises(RequestTooLarge, match=r"61 tokens.*60"):
            await harness.admit(tokens=61, min_tokens=61)

    play(scene, rate_limit=None, tokens_per_minute=60)


def test_refusal_on_arrival_counts_the_wait_for_a_lane() -> None:
    async def scene(harness: Harness) -> None:
        teach(harness, told(60, 0))
        await settle()
        tasks = [harness.spawn(model="m") for _ in range(10)]
        await settle()
        deadline = harness.gate.now() + 5 * SECOND
        with pytest.raises(QueueTimeout) as caught:
            await harness.admit(model="m", deadline=deadline)
        assert caught.value.retry_after_ms == pytest.approx(11_000, rel=0.1)
        await asyncio.gather(*tasks)

    play(scene, rate_limit=None)


@pytest.mark.parametrize("elapsed_s", [0, 61])
def test_learned_limit_refuses_larger_requests_while_it_is_recent(elapsed_s: int) -> None:
    """A limit that was raised meanwhile is learned of only by asking."""

    async def scene(harness: Harness) -> None:
        teach(harness, told(100, 100, tokens=True))
        await settle()
        await asyncio.sleep(elapsed_s)
        asking = harness.admit(model="m", tokens=500, min_tokens=500)
        if elapsed_s:
            assert (await asking).queued == 0
        else:
            with pytest.raises(RequestTooLarge):
                await asking

    play(scene, rate_limit=None)


def test_full_queue_accepts_retries() -> None:
    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn() for _ in range(3)]
        await settle()
        assert (await harness.admit(attempts=1)).queued
        await asyncio.gather(*tasks)

    play(scene, rate_limit=1, rate_limit_burst=1, queue_limit=2)
