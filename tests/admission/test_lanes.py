"""Lanes: limits learned from upstream, pauses, and the bounded set, on a virtual clock."""

import asyncio
from itertools import pairwise

import pytest

from rustygate.admission.lanes import MAX_LANES, Lanes
from rustygate.core.bucket import SECOND
from rustygate.plan import virtual_clock
from tests.support.harness import (
    Harness,
    one_and_three,
    rate_limit,
    run_ready_tasks,
    run_scenario,
    set_rate_limit,
)


def test_unknown_model_has_a_burst_in_flight_until_the_first_response() -> None:
    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.record_response(ok=True)
        await asyncio.gather(*(harness.admit(hold_s=5, model="m") for _ in range(10)))

    harness = run_scenario(scenario, rate_limit=None, rate_limit_burst=3)
    assert harness.times == pytest.approx([0] * 3 + [5] * 7, abs=0.01)


def test_failed_response_does_not_open_a_lane() -> None:
    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.record_response(ok=False)
        await asyncio.gather(*(harness.admit(hold_s=5, model="m") for _ in range(6)))

    harness = run_scenario(scenario, rate_limit=None, rate_limit_burst=3)
    assert harness.times == pytest.approx([0] * 3 + [5] * 3, abs=0.01)


def test_lane_keeps_the_learned_request_limit() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(60, 2))
        await run_ready_tasks()
        await asyncio.gather(*(harness.admit(model="m") for _ in range(5)))

    harness = run_scenario(scenario, rate_limit=None)
    assert harness.times == pytest.approx([0, 0, 1, 2, 3], abs=0.01)


def test_lane_keeps_the_learned_token_limit() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(600, 100, tokens=True))
        await run_ready_tasks()
        await asyncio.gather(*(harness.admit(model="m", tokens=50) for _ in range(4)))

    harness = run_scenario(scenario, rate_limit=None)
    assert harness.times == pytest.approx([0, 0, 5, 10], abs=0.01)


@one_and_three
def test_class_keeps_its_share_when_limits_are_learned_while_others_wait(gates: int) -> None:
    """Requests queued before the first limit must not cost less than later ones."""

    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.record_response(
            ok=True, update=rate_limit(60, 0)
        )
        batch = [harness.spawn("b", model="m", priority="batch") for _ in range(20)]
        await run_ready_tasks()
        await asyncio.sleep(2.5)
        web = [harness.spawn("w", model="m", priority="interactive") for _ in range(5)]
        await asyncio.gather(*batch, *web)

    harness = run_scenario(
        scenario, gates, rate_limit=None, rate_limit_burst=1, rate_limit_timeout=600
    )
    assert harness.order[3:9].count("w") >= 4


def test_learned_limits_only_tighten_the_operators_limit() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(10_000, 10_000))
        await run_ready_tasks()
        await asyncio.gather(*(harness.admit(model="m") for _ in range(3)))

    harness = run_scenario(scenario, rate_limit=1, rate_limit_burst=2)
    assert harness.times == pytest.approx([0, 1, 2], abs=0.01)


def test_one_response_is_enough_to_raise_or_lower_a_limit() -> None:
    async def scenario(harness: Harness) -> None:
        for limit in (60, 600, 6, 600):
            harness.on_response = lambda admission, now=limit: admission.record_response(
                True, rate_limit(now, 0)
            )
            await harness.admit(model="m")

    harness = run_scenario(scenario, rate_limit=None)
    assert harness.times == pytest.approx([0, 1, 1.1, 11.1], abs=0.01)


def test_later_admissions_are_deducted_from_the_reported_remainder() -> None:
    """A response's `remaining` does not include requests admitted after its own request."""

    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as first:
            first.record_response(ok=True, update=rate_limit(60, 59))
            await asyncio.gather(*(harness.admit(model="m") for _ in range(10)))
            first.record_response(ok=True, update=rate_limit(60, 11))
        await asyncio.gather(*(harness.admit(model="m") for _ in range(3)))

    harness = run_scenario(scenario, rate_limit=None)
    assert harness.times[10:] == pytest.approx([0, 1, 2], abs=0.01)


def test_other_consumers_of_the_quota_slow_the_lane() -> None:
    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.record_response(
            ok=True, update=rate_limit(60, 0)
        )
        for _ in range(5):
            await harness.admit(model="m")

    assert run_scenario(scenario, rate_limit=None).times == pytest.approx(
        [0, 1, 2, 3, 4], abs=0.01
    )


def test_response_to_an_older_exchange_does_not_override_a_newer_one() -> None:
    async def scenario(harness: Harness) -> None:
        old, new = (harness.gate.admission(harness.exchange("a", model="m")) for _ in range(2))
        async with old, new:
            new.record_response(ok=True, update=rate_limit(60, 0))
            old.record_response(ok=True, update=rate_limit(60, 60))
            await harness.admit(model="m")

    assert run_scenario(scenario, rate_limit=None).times == pytest.approx([1], abs=0.01)


def test_paused_lane_does_not_block_other_lanes() -> None:
    """Nor the same client's requests for another model."""

    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.pause(5 * SECOND)
        waiting = harness.spawn("a", model="m")
        await run_ready_tasks()
        assert (await harness.admit("a", model="other")).queued == 0
        assert (await harness.admit("b")).queued == 0
        assert (await waiting).queued == pytest.approx(5 * SECOND, rel=0.01)

    run_scenario(scenario, rate_limit=None)


def refuse(harness: Harness, wait_s: float = 1, accepted: int = 0, refused: int = 1) -> None:
    """Let upstream refuse requests that were sent together with others, which it accepts."""
    exchanges = [harness.exchange("a", model="m") for _ in range(accepted + refused)]

    async def send() -> None:
        admissions = [harness.gate.admission(exchange) for exchange in exchanges]
        for admission in admissions:
            await admission.__aenter__()
        for number, admission in enumerate(admissions):
            admission.record_response(ok=number < accepted)
            if number >= accepted:
                admission.pause(int(wait_s * SECOND))
            await admission.__aexit__(None, None, None)

    asyncio.get_running_loop().create_task(send()).add_done_callback(lambda done: done.result())


@pytest.mark.parametrize(
    ("wait_s", "accepted", "refused", "gap_s"),
    [(1, 1, 7, 1), (1, 5, 3, 0.2), (1, 0, 8, 1), (5, 1, 1, 5), (4, 8, 2, 0.5), (0.25, 4, 4, 0.25)],
)
def test_refused_lane_resumes_at_the_pace_that_upstream_sustained(
    wait_s: float, accepted: int, refused: int, gap_s: float
) -> None:
    """One by one, even if responses take long."""

    async def scenario(harness: Harness) -> None:
        refuse(harness, wait_s, accepted, refused)
        await run_ready_tasks()
        harness.on_response = lambda admission: admission.record_response(ok=True)
        await asyncio.gather(*(harness.admit(hold_s=50, model="m") for _ in range(3)))

    times = run_scenario(scenario, rate_limit=None).times
    assert times[0] == pytest.approx(wait_s, abs=0.01)
    for sooner, later in pairwise(times):
        assert gap_s * 1.01 <= later - sooner <= gap_s * 1.1


def test_each_success_releases_the_next_request_sooner() -> None:
    async def scenario(harness: Harness) -> None:
        refuse(harness, accepted=1)
        await run_ready_tasks()
        harness.on_response = lambda admission: admission.record_response(ok=True)
        await asyncio.gather(*(harness.admit(model="m") for _ in range(5)))

    times = run_scenario(scenario, rate_limit=None).times
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert gaps == pytest.approx([1.08 / 1.6**step for step in (1, 2, 3, 4)], abs=0.001)


def test_pace_ends_when_limits_become_known() -> None:
    async def scenario(harness: Harness) -> None:
        refuse(harness, accepted=1)
        await run_ready_tasks()
        harness.on_response = lambda admission: admission.record_response(True, rate_limit(60, 5))
        await asyncio.gather(*(harness.admit(model="m") for _ in range(5)))

    times = run_scenario(scenario, rate_limit=None).times
    assert times == pytest.approx([1, 1, 1, 1, 1], abs=0.01)


@pytest.mark.parametrize(("quiet_s", "gap_s"), [(50, 1.08), (70, 0)])
def test_pace_ends_after_an_idle_period(quiet_s: float, gap_s: float) -> None:
    async def scenario(harness: Harness) -> None:
        refuse(harness, accepted=1)
        await run_ready_tasks()
        await asyncio.sleep(quiet_s)
        await asyncio.gather(*(harness.admit(model="m") for _ in range(3)))

    times = run_scenario(scenario, rate_limit=None).times
    assert times[2] - times[1] == pytest.approx(gap_s, abs=0.01)


def test_slowed_lane_halves_its_rate_and_recovers() -> None:
    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.record_response(ok=True)
        for _ in range(20):
            await harness.admit(model="m")
            await asyncio.sleep(0.5)
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(ok=False)
            admission.pause(1, slow=True)
            admission.record_response(ok=True)
        harness.admitted.clear()
        harness.began = harness.gate.now()
        for _ in range(100):
            await harness.admit(model="m")

    gaps = [
        later - sooner for sooner, later in pairwise(run_scenario(scenario, rate_limit=None).times)
    ]
    assert gaps[0] == pytest.approx(1, rel=0.1)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.85


def test_one_burst_of_slow_downs_halves_the_rate_once() -> None:
    async def scenario(harness: Harness) -> None:
        admissions = [harness.gate.admission(harness.exchange("a", model="m")) for _ in range(8)]
        for admission in admissions:
            await admission.__aenter__()
        for admission in admissions:
            admission.pause(1, slow=True)
            admission.record_response(ok=True)
            await admission.__aexit__(None, None, None)
        await asyncio.sleep(1)
        await harness.admit(model="m")
        await harness.admit(model="m")

    times = run_scenario(scenario, rate_limit=None).times
    assert times[1] - times[0] == pytest.approx(2 / 8, rel=0.1)


@one_and_three
def test_clients_take_turns_in_a_busy_lane(gates: int) -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(60, 0))
        await harness.until_told()
        tasks = [harness.spawn(client, model="m") for client in "aaaabb"]
        await run_ready_tasks()
        tasks.append(harness.spawn("c", model="m"))
        await asyncio.gather(*tasks)

    assert run_scenario(scenario, gates, rate_limit=None).order == "abcabaa"


@one_and_three
def test_newcomer_does_not_overtake_waiters_of_a_lane(gates: int) -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(60, 0))
        await harness.until_told()
        tasks = [harness.spawn("a", model="m", tokens=1) for _ in range(3)]
        await asyncio.sleep(1 - 1e-9)
        tasks.append(harness.spawn("b", model="m"))
        await asyncio.gather(*tasks)

    assert run_scenario(scenario, gates, rate_limit=None).order == "abaa"


def test_retries_are_admitted_in_order_of_arrival() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(60, 0))
        await run_ready_tasks()
        tasks = []
        for _ in range(5):
            tasks.append(harness.spawn("a", model="m", attempts=1))
            await run_ready_tasks()
        await asyncio.gather(*tasks)
        waits = [task.result().queued for task in tasks]
        assert waits == sorted(waits)

    run_scenario(scenario, rate_limit=None)


def test_retry_goes_first_in_its_lane() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(60, 0))
        await run_ready_tasks()
        others = [harness.spawn("a", model="m") for _ in range(3)]
        await run_ready_tasks()
        await harness.admit("a", model="m", attempts=1)
        assert harness.order == "a"
        await asyncio.gather(*others)

    run_scenario(scenario, rate_limit=None)


def test_waiter_that_leaves_a_lane_leaves_its_place() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(60, 0))
        await run_ready_tasks()
        tasks = [harness.spawn(client, model="m") for client in "abc"]
        await run_ready_tasks()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    harness = run_scenario(scenario, rate_limit=None)
    assert harness.order == "bc"
    assert harness.times == pytest.approx([1, 2], abs=0.01)


def test_turn_of_a_candidate_that_leaves_goes_to_its_flow() -> None:
    """It was the candidate of its lane, and waited for the gate's own budget."""

    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(60, 0))
        await run_ready_tasks()
        tasks = [harness.spawn(client, model="m") for client in "aabb"]
        await asyncio.sleep(2)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert run_scenario(scenario, rate_limit=1 / 3, rate_limit_burst=1).order == "abb"


def test_second_limit_change_within_a_second_updates_costs_after_it() -> None:
    async def scenario(harness: Harness) -> None:
        admissions = [harness.gate.admission(harness.exchange("a", model="m")) for _ in range(3)]
        async with admissions[0], admissions[1], admissions[2]:
            admissions[0].record_response(ok=True, update=rate_limit(60, 0))
            tasks = [harness.spawn("a", model="m") for _ in range(30)]
            await run_ready_tasks()
            for admission, limit in zip(admissions[1:], (300, 10), strict=True):
                admission.record_response(ok=True, update=rate_limit(limit, 0))
        await asyncio.sleep(1.001)
        lane = harness.gate.lanes.get("m")
        assert lane.refill_periods == lane.budgets.refill_periods
        await asyncio.gather(*tasks)

    run_scenario(scenario, rate_limit=None, rate_limit_timeout=600)


def test_invented_model_names_leave_no_lane() -> None:
    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.record_response(ok=False)
        for number in range(100):
            await harness.admit(model=f"invented-{number}")
        assert len(harness.gate.lanes) == 0

    run_scenario(scenario, rate_limit=None)


@pytest.mark.parametrize("ok", [True, False])
def test_model_is_known_once_a_response_has_confirmed_it(ok: bool) -> None:
    async def scenario(harness: Harness) -> None:
        lanes = harness.gate.lanes
        assert not lanes.is_known("m")
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            assert not lanes.is_known("m")
            admission.record_response(ok)
            assert lanes.is_known("m") is ok
        assert lanes.is_known("m") is ok

    run_scenario(scenario)


def test_lane_is_found_by_its_key_without_being_used() -> None:
    async def main() -> None:
        lanes = Lanes(None, asyncio.get_running_loop())
        first, second = lanes.get("m"), lanes.get("n")
        assert lanes.find("m") is first
        assert lanes.find("x") is None
        assert [*lanes] == [first, second]
        assert lanes.get("m") is first
        assert [*lanes] == [second, first]

    virtual_clock.run(main)


def test_requests_without_a_key_share_a_lane_of_no_name() -> None:
    async def main() -> None:
        lanes = Lanes(None, asyncio.get_running_loop())
        assert lanes.get(None) is lanes.get(None) is lanes.get("")
        assert [lane.name for lane in lanes] == [""]

    virtual_clock.run(main)


def test_least_recently_used_lanes_are_deleted_when_there_are_too_many() -> None:
    names = [f"m-{number}" for number in range(MAX_LANES + 100)]

    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.record_response(
            ok=True, update=rate_limit(60, 59)
        )
        for name in ("used again", *names[:500], "used again", *names[500:]):
            await harness.admit(model=name)
        left = [each.name for each in harness.gate.lanes]
        assert left == [*names[101:500], "used again", *names[500:]]

    run_scenario(scenario, rate_limit=None)


def test_lanes_in_use_are_kept_and_do_not_stop_eviction() -> None:
    async def scenario(harness: Harness) -> None:
        harness.on_response = lambda admission: admission.record_response(
            ok=True, update=rate_limit(60, 59)
        )
        users = [
            harness.spawn(model=f"used-{number}", hold_s=1) for number in range(MAX_LANES + 50)
        ]
        await run_ready_tasks()
        assert len(harness.gate.lanes) == MAX_LANES + 50
        first = next(iter(harness.gate.lanes))
        await harness.admit(model="new")
        assert next(iter(harness.gate.lanes)) is not first
        await asyncio.gather(*users)
        assert len(harness.gate.lanes) == MAX_LANES

    run_scenario(scenario, rate_limit=None)


def test_huge_request_in_the_past_blocks_a_lane_for_a_minute_at_most() -> None:
    """A request that was in flight when a limit was learned counts as a minute's units at most."""

    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m", tokens=10)) as small:
            async with harness.gate.admission(harness.exchange("b", model="m", tokens=10**7)):
                pass
            small.record_response(True, rate_limit(200_000, 199_990, tokens=True))
        assert (await harness.admit(model="m", tokens=10)).queued <= 61 * SECOND

    run_scenario(scenario, rate_limit=None, rate_limit_timeout=100)
