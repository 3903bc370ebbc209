"""Waiters that are refused once it is known that they wait too long, on a virtual clock."""

import asyncio
from time import process_time
from typing import Any

import pytest

from rustygate.admission.late_waiters import BATCH, INTERVAL_S, LateWaiters
from rustygate.admission.waiter import LaneQueue, Waiter
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.lane import Lane
from rustygate.errors import QueueTimeout
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock
from tests.support.harness import (
    Harness,
    Task,
    rate_limit,
    run_ready_tasks,
    run_scenario,
)
from tests.support.limited_upstream import LimitedUpstream, request


def now_s(harness: Harness) -> float:
    return (harness.gate.now() - harness.began) / SECOND


def refused(tasks: list[Task]) -> list[Task]:
    """Those that are refused by now."""
    done = [task for task in tasks if task.done()]
    return [task for task in done if isinstance(task.exception(), QueueTimeout)]


def refused_among(tasks: list[Task]) -> list[Exchange]:
    return [task.result() for task in tasks if task.done() and task.result().status == 429]


def test_first_response_shows_who_cannot_be_admitted_in_time() -> None:
    """The requests in flight may be among those that it counts, so the last ones are refused
    once these are answered."""

    async def scenario(harness: Harness) -> None:
        upstream = LimitedUpstream(TokenBucket.per_minute(60), latency_s=0.2)
        tasks = [asyncio.create_task(request(harness, upstream, f"c{n % 6}")) for n in range(180)]
        await asyncio.sleep(0.3)
        assert len(refused_among(tasks)) == pytest.approx(70, abs=3)
        await asyncio.sleep(1)
        early = refused_among(tasks)
        assert 88 <= len(early) <= 92
        exchanges = await asyncio.gather(*tasks)
        late = [each for each in exchanges if each.status == 429 and each not in early]
        assert len(late) <= 1
        assert upstream.refused_at == []

    run_scenario(scenario, rate_limit=None)


def test_requests_refused_together_get_their_errors_together() -> None:
    """None of them waits yet when the last of their 429s arrives."""

    async def scenario(harness: Harness) -> None:
        upstream = LimitedUpstream(TokenBucket.per_minute(60), latency_s=8)
        tasks = [asyncio.create_task(request(harness, upstream)) for _ in range(120)]
        await asyncio.sleep(8.1)
        assert len(upstream.refused_at) == 60
        await asyncio.sleep(1.1)
        # A request that waits 14 s gets its response in time to be sent within 30 s, too.
        assert len(refused_among(tasks)) == pytest.approx(39, abs=2)
        exchanges = await asyncio.gather(*tasks)
        assert sum(each.status == 200 for each in exchanges) == pytest.approx(81, abs=2)

    run_scenario(scenario, rate_limit=None, rate_limit_burst=200)


async def wait_in_lane(harness: Harness, *, count: int = 10, **fields: Any) -> list[Task]:
    tasks = [harness.spawn("b", model="m", **fields) for _ in range(count)]
    await run_ready_tasks()
    return tasks


@pytest.mark.parametrize(("pause_s", "count"), [(40, 10), (5, 0)])
def test_waiters_of_a_paused_lane_are_refused_by_their_deadlines(pause_s: int, count: int) -> None:
    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(True, rate_limit(60, 0))
            tasks = await wait_in_lane(harness)
            patient = await wait_in_lane(
                harness, count=4, deadline=harness.gate.now() + 90 * SECOND
            )
            admission.pause(pause_s * SECOND)
            await run_ready_tasks()
            assert (len(refused(tasks)), len(refused(patient))) == (count, 0)
            for task in refused(tasks):
                assert "; no requests are ahead, and " in str(task.exception())
            assert now_s(harness) < 0.001
            assert harness.gate.dispatcher.waiting == 14 - count
            newcomer = harness.gate.admission(harness.exchange("b", model="m"))
            assert harness.gate.dispatcher.predict(newcomer).ahead == 14 - count
        results = await asyncio.gather(*tasks, *patient, return_exceptions=True)
        assert sum(isinstance(each, QueueTimeout) for each in results) == count

    run_scenario(scenario, rate_limit=None)


def test_lowered_limit_refuses_the_last_in_order() -> None:
    """A better class and an earlier place go first; the refusal says how long to wait."""

    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(True, rate_limit(600, 0))
            batch = await wait_in_lane(harness, count=100, priority="batch")
            best = await wait_in_lane(harness, count=10, priority="interactive")
            assert refused(batch) == []
            admission.record_response(True, rate_limit(60, 0))
            await run_ready_tasks()
            assert len(refused(batch)) == pytest.approx(80, abs=2)
            assert refused(batch) == batch[-len(refused(batch)) :]
            assert refused(best) == []
            refusal = refused(batch)[0].exception()
            assert isinstance(refusal, QueueTimeout)
            assert 29_000 <= refusal.retry_after_ms <= 33_000
            assert "; 30 requests are ahead, and " in str(refusal)
            assert "this request may wait only 30.0 s; try again in 3" in str(refusal)
        await asyncio.gather(*batch, *best, return_exceptions=True)
        assert len(harness.admitted) == pytest.approx(30, abs=2)

    run_scenario(scenario, rate_limit=None)


def test_waiters_are_refused_by_the_tokens_ahead_of_them() -> None:
    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(True, rate_limit(6000, 0, tokens=True))
            tasks = await wait_in_lane(harness, count=100, tokens=20)
            assert refused(tasks) == []
            admission.record_response(True, rate_limit(600, 0, tokens=True))
            await run_ready_tasks()
            # 600 tokens a minute are 300, or 15 requests, in the 30 s that they may wait.
            assert refused(tasks) == tasks[15:]
        await asyncio.gather(*tasks, return_exceptions=True)

    run_scenario(scenario, rate_limit=None)


def test_waiters_in_the_gates_own_queue_are_refused_too() -> None:
    """They have not got as far as their lane; those of other lanes stay."""

    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            others = [harness.spawn("b", model="other") for _ in range(5)]
            await run_ready_tasks()
            tasks = await wait_in_lane(harness)
            admission.pause(40 * SECOND)
            await run_ready_tasks()
            assert refused(tasks) == tasks
            assert refused(others) == []
        await asyncio.gather(*tasks, *others, return_exceptions=True)
        assert len(harness.admitted) == 5

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)


def test_many_late_waiters_are_refused_in_batches() -> None:
    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(True, rate_limit(6000, 0))
            tasks = await wait_in_lane(harness, count=2 * BATCH + 10)
            admission.pause(40 * SECOND)
            for turns in (1, 2):
                await asyncio.sleep(0)
                assert len(refused(tasks)) == turns * BATCH
            await run_ready_tasks()
            assert refused(tasks) == tasks
        await asyncio.gather(*tasks, return_exceptions=True)

    run_scenario(scenario, rate_limit=None)


def test_waiters_are_examined_once_a_second_at_most() -> None:
    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(True, rate_limit(600, 0))
            tasks = await wait_in_lane(harness, count=200)
            for limit, expected in ((400, 0), (60, 0)):
                admission.record_response(True, rate_limit(limit, 0))
                await run_ready_tasks()
                assert len(refused(tasks)) == expected
            await asyncio.sleep(1.01)
            assert len(refused(tasks)) == pytest.approx(170, abs=2)
        await asyncio.gather(*tasks, return_exceptions=True)

    run_scenario(scenario, rate_limit=None)


def test_waiters_are_examined_once_more_and_then_not_again() -> None:
    """Once more, because the responses to the requests in flight show the level."""

    class Watched(LaneQueue):
        def in_order(self) -> list[Waiter]:
            examined_at.append(loop_time())
            return []

    def loop_time() -> float:
        return asyncio.get_running_loop().time() - 1000

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        lane = Watched("m", Lane())
        lane.waiting[0] = 1
        LateWaiters(lambda waiter, predicted: None, loop).examine(lane)
        await asyncio.sleep(5)

    examined_at: list[float] = []
    virtual_clock.run(scenario)
    assert examined_at == [0, INTERVAL_S]


def test_ten_thousand_waiters_take_little_time() -> None:
    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(True, rate_limit(600, 0))
            deadline = harness.gate.now() + 10_000 * SECOND
            tasks = [
                harness.spawn(f"c{n % 500}", model="m", deadline=deadline) for n in range(10_000)
            ]
            await run_ready_tasks()
            began = process_time()
            admission.record_response(True, rate_limit(500, 0))
            # A few hundredths of a second on an idle machine.
            assert process_time() - began < 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_scenario(scenario, rate_limit=None)
