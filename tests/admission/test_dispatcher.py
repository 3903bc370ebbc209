"""Which waiter is admitted when, on a virtual clock."""

import asyncio
from collections.abc import Callable

import pytest

from rustygate.admission.waiter import LaneQueue, Waiter
from rustygate.core.bucket import SECOND
from rustygate.core.lane import Lane
from rustygate.errors import QueueTimeout
from rustygate.plan.virtual_clock import VirtualClockLoop
from tests.support.harness import (
    Harness,
    one_and_three,
    rate_limit,
    run_ready_tasks,
    run_scenario,
    set_rate_limit,
)


@one_and_three
def test_ten_requests_at_one_per_second_and_burst_three_take_seven_seconds_in_order(
    gates: int,
) -> None:
    async def scenario(harness: Harness) -> None:
        await asyncio.gather(*(harness.admit() for _ in range(10)))

    harness = run_scenario(scenario, gates, rate_limit=1, rate_limit_burst=3)
    assert harness.times == pytest.approx([0, 0, 0, 1, 2, 3, 4, 5, 6, 7], abs=0.0001)


def test_units_that_come_back_together_are_a_burst_at_most() -> None:
    async def scenario(harness: Harness) -> None:
        for _ in range(36):
            harness.spawn("a")
        await asyncio.sleep(2)
        before = len(harness.admitted)
        dispatcher = harness.gate.dispatcher
        with dispatcher.deferred():
            for _ in range(10):
                dispatcher.budgets.give_back()
                dispatcher.wake()
            assert len(harness.admitted) == before
        await asyncio.sleep(0.05)
        assert len(harness.admitted) == before + 3
        await asyncio.sleep(1)
        assert len(harness.admitted) == before + 3 + 10
        await asyncio.sleep(2)

    run_scenario(scenario, rate_limit=10, rate_limit_burst=3)


def test_request_within_the_budgets_does_not_wait() -> None:
    async def scenario(harness: Harness) -> None:
        exchange = await harness.admit()
        assert exchange.queued == 0

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)


def test_retries_go_before_the_other_requests_of_their_client() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.admit()
        now = harness.gate.now()
        arrived = {"new": now, "later": now - 5, "earlier": now - 9}
        tasks = [
            harness.spawn("a", arrived=at, attempts=int(name != "new"))
            for name, at in arrived.items()
        ]
        new, later, earlier = await asyncio.gather(*tasks)
        waits = [each.queued / SECOND for each in (earlier, later, new)]
        assert waits == pytest.approx([1, 2, 3], abs=0.01)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)


def test_wait_is_recorded_on_the_exchange() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.admit()
        assert (await harness.admit()).queued == pytest.approx(SECOND / 4, rel=0.01)

    run_scenario(scenario, rate_limit=4, rate_limit_burst=1)


def test_waiter_whose_deadline_has_passed_waits_no_longer() -> None:
    async def scenario(harness: Harness) -> None:
        dispatcher = harness.gate.dispatcher
        async with harness.gate.admission(harness.exchange("a")):
            deadline = harness.gate.now() + SECOND
            waiters = [harness.spawn("b", deadline=deadline) for _ in range(2)]
            await run_ready_tasks()
            assert (dispatcher.waiting, dispatcher.waiting_by_class["default"]) == (2, 2)
            first, second = await asyncio.gather(*waiters, return_exceptions=True)
            assert isinstance(first, QueueTimeout)
            assert "1 other request is" in str(first)
            assert "no other requests are" in str(second)
            assert (dispatcher.waiting, dispatcher.waiting_by_class["default"]) == (0, 0)
            assert not dispatcher.scheduler.awake

    run_scenario(scenario, rate_limit=None, concurrency_limit=1)


def test_auto_sets_no_limit() -> None:
    async def scenario(harness: Harness) -> None:
        await asyncio.gather(*(harness.admit() for _ in range(1000)))

    assert max(run_scenario(scenario, rate_limit=None).times) == 0


@one_and_three
@pytest.mark.parametrize("burst", [1, 2, 20])
def test_late_timers_lose_no_budget(burst: int, gates: int) -> None:
    """RATE_LIMIT=200 for 10 s of demand admits 2000 + burst."""

    async def scenario(harness: Harness) -> None:
        await asyncio.gather(*(harness.admit() for _ in range(2000 + burst)))

    harness = run_scenario(
        scenario, gates, rate_limit=200, rate_limit_burst=burst, rate_limit_timeout=60
    )
    assert harness.times[-1] == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ("late_s", "next_at"), [(0, 0.2), (0.0019, 0.2), (0.005, 0.203), (0.05, 0.248)]
)
def test_only_the_usual_lateness_of_a_timer_is_made_up_for(late_s: float, next_at: float) -> None:
    """Two milliseconds: after a longer stall, the missed units must not go out in a burst."""

    async def scenario(harness: Harness) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)

        def stall() -> None:
            loop._now += late_s

        loop.call_at(harness.began / SECOND + 0.1, stall)
        await asyncio.gather(*(harness.admit() for _ in range(3)))

    times = run_scenario(scenario, rate_limit=10, rate_limit_burst=1).times
    assert times == pytest.approx([0, 0.1 + late_s, next_at], abs=0.00001)


def test_clients_take_turns() -> None:
    async def scenario(harness: Harness) -> None:
        tasks = [harness.spawn(client) for client in "aaaaabb"]
        await run_ready_tasks()
        tasks.append(harness.spawn("c"))
        await asyncio.gather(*tasks)

    assert run_scenario(scenario, rate_limit=1, rate_limit_burst=1).order == "aabcabaa"


@one_and_three
@pytest.mark.parametrize("limit", ["own", "lane"])
def test_turn_of_the_first_waiter_counts(limit: str, gates: int) -> None:
    """Even if no other waited when it came."""

    async def scenario(harness: Harness) -> None:
        if limit == "lane":
            set_rate_limit(harness, rate_limit(60, 0))
            await harness.until_told()
        else:
            await harness.admit("x")
        tasks = [harness.spawn("m", model="m")]
        await run_ready_tasks()
        tasks += [harness.spawn(client, model="m") for client in "mmmff"]
        await asyncio.gather(*tasks)

    rate = {"own": 1, "lane": None}[limit]
    assert (
        run_scenario(scenario, gates, rate_limit=rate, rate_limit_burst=1).order[-6:] == "mfmfmm"
    )


@one_and_three
def test_newcomer_does_not_overtake_waiters(gates: int) -> None:
    """It does not take the unit that a waiter is about to get."""

    async def scenario(harness: Harness) -> None:
        tasks = [harness.spawn("a") for _ in range(3)]
        await asyncio.sleep(1 - 1e-9)
        tasks.append(harness.spawn("a"))
        tasks.append(harness.spawn("b"))
        await asyncio.gather(*tasks)

    assert run_scenario(scenario, gates, rate_limit=1, rate_limit_burst=1).order == "aabaa"


@one_and_three
def test_slots_limit_requests_in_flight(gates: int) -> None:
    async def scenario(harness: Harness) -> None:
        tasks = [harness.spawn("a", 5) for _ in range(5)]
        await run_ready_tasks()
        assert harness.gate.snapshot() == {"waiters": 3, "in_flight": 2}
        await asyncio.gather(*tasks)

    harness = run_scenario(scenario, gates, rate_limit=None, concurrency_limit=2)
    # In a group, a free slot is known with the next calls.
    assert harness.times == pytest.approx([0, 0, 5, 5, 10], abs=0.01 if gates == 1 else 0.06)


@pytest.mark.parametrize("leaver", [1, 2], ids=["first", "not first"])
def test_cancelled_waiter_leaves_its_place_to_the_next(leaver: int) -> None:
    async def scenario(harness: Harness) -> None:
        tasks = [harness.spawn(client) for client in "abcd"]
        await run_ready_tasks()
        tasks[leaver].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    harness = run_scenario(scenario, rate_limit=1, rate_limit_burst=1)
    assert harness.times == pytest.approx([0, 1, 2], abs=0.01)
    assert harness.order == "abcd".replace("abcd"[leaver], "")


def test_small_waiter_is_admitted_as_soon_as_a_large_one_before_it_leaves() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.admit(tokens=60)
        large, small = harness.spawn(tokens=60), harness.spawn("b", tokens=1)
        await asyncio.sleep(30)
        large.cancel()
        await asyncio.gather(large, small, return_exceptions=True)

    harness = run_scenario(scenario, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=90)
    assert harness.times == pytest.approx([0, 30], abs=0.01)


@pytest.mark.parametrize("granted_first", [True, False], ids=["after", "before"])
def test_waiter_cancelled_around_its_grant_leaves_it_to_the_next(granted_first: bool) -> None:
    """In the same turn of the loop as the grant, after it or before."""

    async def scenario(harness: Harness) -> None:
        holder = await harness.gate.admission(harness.exchange("a")).enter()
        cancelled, next_waiter = harness.spawn("b"), harness.spawn("c")
        await asyncio.sleep(5)
        steps: list[Callable[[], object]] = [holder.leave, cancelled.cancel]
        for step in steps if granted_first else reversed(steps):
            step()
        await asyncio.gather(cancelled, next_waiter, return_exceptions=True)
        assert cancelled.cancelled()

    harness = run_scenario(scenario, rate_limit=1, rate_limit_burst=2, concurrency_limit=1)
    assert harness.order == "c"
    assert harness.times == pytest.approx([5], abs=0.01)


def test_flow_keeps_its_turn_when_its_first_waiter_leaves() -> None:
    async def scenario(harness: Harness) -> None:
        tasks = [harness.spawn(client) for client in "xabab"]
        await run_ready_tasks()
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert run_scenario(scenario, rate_limit=1, rate_limit_burst=1).order == "xabb"


def test_flow_keeps_its_turn_when_its_lane_is_paused_before_it_gets_a_slot() -> None:
    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("y", model="m")) as admission:
            admission.record_response(True, rate_limit(60, 0))
            holder = harness.spawn("x", 3)
            await run_ready_tasks()
            tasks = [harness.spawn(client, model="m") for client in "abab"]
            await asyncio.sleep(2)
            admission.pause(2 * SECOND)
            await asyncio.gather(holder, *tasks)

    harness = run_scenario(scenario, rate_limit=None, concurrency_limit=2)
    assert harness.order == "xabab"
    assert harness.times == pytest.approx([0, 4, 4, 4, 4], abs=0.01)


def test_retry_keeps_its_place() -> None:
    async def scenario(harness: Harness) -> None:
        retry = harness.exchange("a")
        async with harness.gate.admission(retry):
            retry.attempts = 1
        others = [harness.spawn("a") for _ in range(3)]
        await run_ready_tasks()
        async with harness.gate.admission(retry):
            harness.admitted.append(("r", 0))
        await asyncio.gather(*others)

    assert run_scenario(scenario, rate_limit=1, rate_limit_burst=1).order == "raaa"


def test_unit_of_an_attempt_that_was_not_sent_is_given_back() -> None:
    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a")) as admission:
            admission.give_back()
        assert (await harness.admit()).queued == 0

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1, tokens_per_minute=100)


def test_repr_shows_the_live_state() -> None:
    async def scenario(harness: Harness) -> None:
        assert repr(harness.gate) == "<Gate 0 in flight, 0 waiting, None>"

    run_scenario(scenario, rate_limit=None)


def test_cancelled_grant_gives_the_turn_back_to_its_flow_at_once() -> None:
    """The flow's next waiter does not wait until the gate looks at the other flows again."""

    async def scenario(harness: Harness) -> None:
        gate = harness.gate
        kept, holder = [
            await gate.admission(harness.exchange("x", tokens=tokens)).enter()
            for tokens in (20, 40)
        ]
        tasks = [
            harness.spawn(name, tokens=tokens) for name, tokens in (("a", 30), ("b", 60), ("a", 1))
        ]
        await run_ready_tasks()
        holder.give_back()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert tasks[0].cancelled()
        holder.leave()
        kept.leave()

    harness = run_scenario(scenario, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=200)
    assert harness.order == "ab"
    assert harness.times == pytest.approx([0, 21], abs=0.01)


@one_and_three
def test_tokens_have_their_own_budget(gates: int) -> None:
    async def scenario(harness: Harness) -> None:
        await asyncio.gather(*(harness.admit(tokens=30) for _ in range(4)))

    harness = run_scenario(
        scenario, gates, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=90
    )
    assert harness.times == pytest.approx([0, 0, 30, 60], abs=0.01)


@one_and_three
def test_settlement_gives_back_unused_tokens(gates: int) -> None:
    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.settle(10)
        await asyncio.gather(*(harness.admit(tokens=60) for _ in range(2)))

    # At three gates the settlement is known to the second one a call later than its request.
    harness = run_scenario(
        scenario, gates, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=90
    )
    assert harness.times == pytest.approx([0, 10], abs=0.01)


def test_settlement_takes_tokens_used_beyond_the_estimate() -> None:
    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.settle(90)
        await harness.admit(tokens=30)
        harness.on_response = None
        await harness.admit(tokens=30)

    harness = run_scenario(scenario, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=90)
    assert harness.times == pytest.approx([0, 60], abs=0.01)


@one_and_three
def test_estimate_above_the_capacity_waits_for_a_full_bucket(gates: int) -> None:
    """Output is an estimate. Only the known part of the cost can be refused."""

    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.settle(30)
        await asyncio.gather(*(harness.admit(tokens=500, min_tokens=5) for _ in range(2)))

    harness = run_scenario(
        scenario, gates, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=90
    )
    assert harness.times == pytest.approx([0, 30], abs=0.01)


@one_and_three
def test_flows_share_by_tokens(gates: int) -> None:
    """While both wait, a client with large requests gets as many tokens as one with small ones."""

    async def scenario(harness: Harness) -> None:
        big = [harness.spawn("b", tokens=30) for _ in range(5)]
        small = [harness.spawn("s", tokens=10) for _ in range(15)]
        await asyncio.gather(*big, *small)

    harness = run_scenario(
        scenario, gates, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=600
    )
    # The first two were a burst.
    shared = harness.order[3:11]
    assert (shared.count("b"), shared.count("s")) == (2, 6)


@one_and_three
@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_classes_share_by_weight(priority: str, gates: int) -> None:
    async def scenario(harness: Harness) -> None:
        one = [harness.spawn("x", priority=priority) for _ in range(200)]
        other = [harness.spawn("d") for _ in range(200)]
        await asyncio.gather(*one, *other)

    order = run_scenario(scenario, gates, rate_limit=100, rate_limit_burst=1).order[:100]
    expected = {"interactive": 80, "batch": 20}[priority]
    assert order.count("x") == pytest.approx(expected, abs=2)


def test_absurd_usage_does_not_stop_the_gate() -> None:
    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.settle(999_999_999)
        await harness.admit(tokens=10)
        harness.on_response = None
        assert (await harness.admit(tokens=10)).queued <= 61 * SECOND

    run_scenario(scenario, rate_limit=None, tokens_per_minute=200_000, rate_limit_timeout=100)


def test_defect_costs_one_waiter_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waiter gets the error, and the gate goes on."""
    take = LaneQueue.take

    def take_or_fail(lane: LaneQueue, item: Waiter, now: int, tokens: int) -> None:
        if item.exchange.client == "b":
            raise ZeroDivisionError
        take(lane, item, now, tokens)

    async def scenario(harness: Harness) -> None:
        monkeypatch.setattr(LaneQueue, "take", take_or_fail)
        tasks = [harness.spawn(client) for client in "abc"]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[1], ZeroDivisionError)

    harness = run_scenario(scenario, rate_limit=1, rate_limit_burst=1)
    assert harness.order == "ac"
    assert harness.times == pytest.approx([0, 1], abs=0.01)


def test_defect_in_a_dispatch_loses_no_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waiter it belongs to gets the error; those before and behind it are admitted."""
    wait = Lane.wait

    def wait_or_fail(lane: Lane, now: int, tokens: int = 0) -> int | None:
        if tokens == 13:
            raise ZeroDivisionError
        return wait(lane, now, tokens)

    async def scenario(harness: Harness) -> None:
        monkeypatch.setattr(Lane, "wait", wait_or_fail)
        holders = [await harness.gate.admission(harness.exchange("x")).enter() for _ in "12"]
        before, broken = harness.spawn("a"), harness.spawn("b", tokens=13)
        behind = harness.spawn("c")
        await run_ready_tasks()
        for holder in holders:
            holder.leave()
        await asyncio.gather(before, behind)
        with pytest.raises(ZeroDivisionError):
            await broken

    assert run_scenario(scenario, rate_limit=None, concurrency_limit=2).order == "ac"
