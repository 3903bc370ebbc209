"""Three gates in a group share one quota as one gate does, wherever their clients connect."""

import asyncio
from random import Random
from statistics import quantiles

import pytest

from rustygate.admission.group.dispatcher import GroupDispatcher
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from tests.support.group import GroupHarness, jain, run_group

RUN_S = 20

PLACES = {"one": [0], "two": [0, 1], "all": [0, 1, 2]}


def flood_unevenly(harness: GroupHarness) -> None:
    """One client is at one gate, one at two, and one at all three."""
    for client, gates in PLACES.items():
        for gate in gates:
            harness.flood(client, gate, 20)


@pytest.mark.parametrize(("rate", "burst"), [(40, 2), (100, 1), (1, 3)])
def test_unevenly_placed_clients_get_equal_shares_of_the_whole_quota(
    rate: float, burst: int
) -> None:
    run_s = RUN_S if rate > 1 else 300

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        flood_unevenly(harness)
        await asyncio.sleep(run_s)
        await harness.stop_demand()
        await asyncio.sleep(5)
        harness.assert_conserved()

    harness = run_group(scenario, rate_limit=rate, rate_limit_burst=burst)
    assert harness.errors == []
    assert jain(harness.count(client, 1.5) for client in PLACES) >= 0.99
    assert 0.97 * rate * run_s <= harness.total() <= rate * run_s + burst + 1
    assert burst <= harness.excess() <= burst + 0.1


@pytest.mark.parametrize(("rate", "burst"), [(40, 2), (100, 1)])
def test_light_client_waits_at_most_60_ms_more_than_at_one_gate(rate: float, burst: int) -> None:
    def p95(gates: int) -> float:
        async def scenario(harness: GroupHarness) -> None:
            await asyncio.sleep(1)
            for client, places in PLACES.items():
                for gate in places:
                    harness.flood(client, gate % gates, 20)
            harness.trickle("light", [gates - 1], 0.37)
            await asyncio.sleep(60)

        harness = run_group(scenario, gates, rate_limit=rate, rate_limit_burst=burst)
        return quantiles(harness.waits["light"], n=20)[-1]

    assert p95(3) <= p95(1) + 0.06


@pytest.mark.parametrize("rate", [1, 40, 1000])
def test_member_calls_at_most_60_times_in_a_second(rate: float) -> None:
    calls: list[int] = []

    async def scenario(harness: GroupHarness) -> None:
        flood_unevenly(harness)
        for _ in range(20):
            await asyncio.sleep(1)
            calls.extend(store.calls for store in harness.stores)
            for store in harness.stores:
                store.calls = 0

    run_group(scenario, rate_limit=rate, rate_limit_burst=2)
    assert max(calls) <= 60
    assert min(calls) >= 9


def test_idle_member_calls_every_half_second() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(20)
        assert all(38 <= store.calls <= 50 for store in harness.stores)

    run_group(scenario)


def test_uncontended_request_is_admitted_without_a_round_trip() -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.trickle("a", [0, 1, 2], 0.1)
        await asyncio.sleep(20)

    harness = run_group(scenario, rate_limit=100, rate_limit_burst=20)
    waits = harness.waits["a"]
    assert sum(wait == 0 for wait in waits) >= 0.97 * len(waits)
    assert max(waits) <= 0.001


@pytest.mark.parametrize(("budget", "waits"), [(None, False), (60_000, True)])
def test_request_larger_than_those_before_it_waits_for_a_round_trip_if_tokens_are_limited(
    budget: int | None, waits: bool
) -> None:
    async def scenario(harness: GroupHarness) -> None:
        for _ in range(20):
            await asyncio.sleep(0.1)
            await harness.admit("a", 0, tokens=10)
        assert harness.waits["a"][-1] == 0
        await harness.admit("a", 0, tokens=11)
        assert (harness.waits["a"][-1] > 0) is waits

    run_group(scenario, rate_limit=100, rate_limit_burst=20, tokens_per_minute=budget)


def test_only_clients_without_limits_are_admitted_without_a_round_trip() -> None:
    """Only the group knows how much a client has left of its own limits."""

    async def scenario(harness: GroupHarness) -> None:
        limits = {"limited": Limits(requests_per_second=1, burst=1), "free": Limits()}
        for gate in harness.gates:
            gate.limit_clients(limits, dict.fromkeys(limits, 1.0), version=1)
        for _ in range(20):
            await asyncio.sleep(0.1)
            await harness.admit("free", 0)
        assert harness.waits["free"][-1] == 0
        await asyncio.gather(*(harness.admit("limited", 0) for _ in range(3)))
        assert harness.waits["limited"] == pytest.approx([0, 1, 2], abs=0.05)

    run_group(scenario, rate_limit=100, rate_limit_burst=20)


def test_uncontended_requests_are_reported_together() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(2)
        harness.stores[0].calls = 0
        for _ in range(100):
            harness.spawn("a", 0, hold_s=0.01)
            await asyncio.sleep(0.05)
        assert 20 <= harness.stores[0].calls <= 75

    run_group(scenario, gates=2, rate_limit=100, rate_limit_burst=20)


def test_member_calls_little_more_often_than_an_idle_one_while_budgets_are_ample() -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.on_response = lambda admission: admission.record_response(True)
        harness.trickle("a", [0], 0.01)
        await asyncio.sleep(5)
        harness.waits.clear()
        harness.stores[0].calls = 0
        await asyncio.sleep(20)
        assert 38 <= harness.stores[0].calls <= 65

    harness = run_group(scenario, rate_limit=1000, rate_limit_burst=1000)
    assert set(harness.waits["a"]) == {0}


def test_member_calls_about_once_for_each_grant_while_they_are_rare() -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.on_response = lambda admission: admission.record_response(True)
        harness.flood("a", 0, 20, hold_s=0.005)
        await asyncio.sleep(2)
        harness.stores[0].calls = 0
        await asyncio.sleep(20)
        assert 20 * 20 <= harness.stores[0].calls <= 1.3 * 20 * 20

    harness = run_group(scenario, rate_limit=20, rate_limit_burst=2)
    assert 20 * 20 - 1 <= harness.total(2) <= 20 * 20 + 1


def test_first_request_of_a_lane_waits_for_one_round_trip() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        exchange = await harness.admit("a", 0)
        assert 0.0005 * SECOND <= exchange.queued <= 0.001 * SECOND

    run_group(scenario)


def test_slots_are_shared() -> None:
    most = 0

    async def scenario(harness: GroupHarness) -> None:
        nonlocal most
        await asyncio.sleep(1)
        for client, gate in (("a", 0), ("b", 1), ("b", 2)):
            harness.flood(client, gate, 20, hold_s=0.2)
        for _ in range(500):
            await asyncio.sleep(0.02)
            most = max(most, sum(gate.snapshot()["in_flight"] for gate in harness.gates))

    harness = run_group(scenario, rate_limit=None, concurrency_limit=6)
    assert most == 6
    assert harness.errors == []
    assert jain([harness.count("a"), harness.count("b")]) >= 0.99
    # A slot that becomes free is reported with the next call, and granted in another one's.
    assert harness.total() >= 0.8 * 6 * 10 / 0.2


def test_tokens_are_settled_in_the_group() -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.on_response = lambda admission: admission.settle(10)
        await asyncio.sleep(1)
        for gate in range(3):
            harness.flood("a", gate, 5, tokens=20)
        await asyncio.sleep(60)

    harness = run_group(scenario, rate_limit=None, tokens_per_minute=600)
    # A burst of 600, and 600 in a minute, at 10 each.
    assert harness.total() == pytest.approx(120, abs=4)


def test_classes_share_by_weight_over_gates() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        harness.flood("a", 0, 20, priority="interactive")
        harness.flood("b", 1, 20, priority="batch")
        await asyncio.sleep(20)

    harness = run_group(scenario, rate_limit=40, rate_limit_burst=1)
    assert harness.count("a", 2) / harness.count("b", 2) == pytest.approx(16, rel=0.05)


def test_clients_that_come_and_go_leave_nothing_behind() -> None:
    """While another client waits all the time, so that the busy period does not end."""

    async def scenario(harness: GroupHarness) -> None:
        harness.flood("heavy", 0, 10)
        for number in range(2500):
            harness.spawn(f"c{number}", 0)
            await asyncio.sleep(0.012)
        await asyncio.sleep(1)
        dispatcher, lane = harness.gates[0].dispatcher, harness.gates[0].lanes.find("")
        assert isinstance(dispatcher, GroupDispatcher)
        assert lane is not None
        assert len(lane.flows) <= 5
        assert repr(dispatcher.demand).startswith("<Demand of 1 flows")
        assert len(lane._by_gate[1]) <= 1100
        assert len(lane._by_lane[1]) <= 1100

    run_group(scenario, gates=2, rate_limit=100, rate_limit_burst=2)


@pytest.mark.parametrize(("delay_s", "used"), [(0.005, 0.99), (0.02, 0.99), (0.05, 0.9)])
def test_slow_store_costs_no_quota_up_to_the_horizon(delay_s: float, used: float) -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.group.delay_s = delay_s
        await asyncio.sleep(1)
        flood_unevenly(harness)
        await asyncio.sleep(RUN_S)

    harness = run_group(scenario, rate_limit=100, rate_limit_burst=1)
    assert harness.states() == ["together"] * 3
    assert used * 100 * 18 <= harness.total(2, 20) <= 100 * 18 + 1
    assert jain(harness.count(client, 2) for client in PLACES) >= 0.99


@pytest.mark.parametrize("seed", range(3))
def test_no_window_holds_more_than_burst_and_rate_while_floats_come_and_go(seed: int) -> None:
    async def scenario(harness: GroupHarness) -> None:
        random = Random(seed)
        await asyncio.sleep(1)
        for _ in range(300):
            for _ in range(random.choice([1, 1, 1, 2, 8])):
                harness.spawn(random.choice("abc"), random.randrange(3))
            await asyncio.sleep(random.expovariate(12))
        await asyncio.sleep(3)
        harness.assert_conserved()

    harness = run_group(scenario, rate_limit=30, rate_limit_burst=20)
    assert harness.errors == []
    assert 15 <= harness.excess() <= 20.1


def test_float_goes_back_while_requests_wait_at_another_gate() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for _ in range(4):
            await harness.admit("a", 0)
            await asyncio.sleep(0.1)
        own = harness.group.scheduler.own
        await asyncio.sleep(0.5)
        assert own.held == 4
        harness.flood("b", 1, 60)
        # At most half a second until the other gate calls and hears of it, and 25 ms until it
        # calls again. Then at most 100 ms until this gate calls.
        await asyncio.sleep(0.53)
        assert own.held == 0
        await asyncio.sleep(0.11)
        assert 40 <= harness.total() <= 42
        await harness.stop_demand()

    harness = run_group(scenario, 2, rate_limit=1, rate_limit_burst=40, rate_limit_timeout=100)
    assert harness.errors == []
