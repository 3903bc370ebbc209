"""The state of a gate in a group: its own waiters, and the group's state and limits."""

import asyncio

import pytest

from rustygate.admission.group.local_store import Fault
from tests.support.gate_state import Watched
from tests.support.group import GroupHarness, run_group


def test_members_and_states_of_the_group_are_shown() -> None:
    async def scenario(harness: GroupHarness) -> None:
        watched = Watched(harness.gates[0])
        assert watched.state()["group"]["state"] == "joining"
        await asyncio.sleep(1)
        assert watched.state()["group"] == {"state": "together", "members": 3}
        assert watched.state()["state"] == "serving"
        harness.stores[0].fault = Fault.REFUSE
        await asyncio.sleep(3)
        assert watched.state()["group"]["state"] == "alone"
        assert watched.state()["state"] == "alone"
        harness.gates[0].close()
        assert watched.state()["state"] == "draining"

    run_group(scenario)


def test_expected_waits_include_the_waiters_of_other_gates() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        watched = Watched(harness.gates[0])
        for gate in range(3):
            for number in range(40):
                harness.spawn(f"c{gate}{number % 4}", gate)
        await asyncio.sleep(2)
        queue, now = watched.state()["queue"], harness.now
        assert len(queue) == 20
        assert watched.state()["waiting"] == harness.gates[0].snapshot()["waiters"] < 40
        assert {row["client"][1] for row in queue} == {"0"}
        expected = [row["expected_s"] for row in queue]
        assert expected == sorted(expected)
        before = len([each for each in harness.admitted if each[1] == 0])
        await asyncio.sleep(20)
        came = [at - now for _, gate, at in harness.admitted if gate == 0][before : before + 20]
        # Alone, these would have taken two seconds.
        assert came[-1] > 4
        assert expected[-1] == pytest.approx(came[-1], rel=0.35)

    run_group(scenario, rate_limit=10, rate_limit_burst=1)


def test_forecast_includes_the_waiters_of_other_gates() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        watched = Watched(harness.gates[0])
        # Shown also while nothing waits for it here.
        harness.gates[0].lanes.get("m").budgets.known = True
        harness.spawn("first", 0, model="m")
        for _ in range(30):
            harness.spawn("a", 1, model="m")
            harness.spawn("b", 2, model="m")
        harness.spawn("a", 0, model="m")
        await asyncio.sleep(0.3)
        forecast = watched.lane("m")["forecast_s"]["default"]
        newcomer = harness.spawn("new", 0, model="m")
        exchange = await newcomer
        assert forecast == pytest.approx(exchange.queued / 1e9, abs=0.5)
        assert 0.05 < forecast < 1

    run_group(scenario, rate_limit=10, rate_limit_burst=1)


def test_gate_counts_its_own_admissions() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        watched = [Watched(gate) for gate in harness.gates]
        for gate, count in enumerate((6, 3, 0)):
            for _ in range(count):
                harness.spawn(f"c{gate}", gate)
        await asyncio.sleep(4)
        assert [gate.dispatcher.activity.admitted for gate in harness.gates] == [6, 3, 0]
        assert [each.state()["clients"] != [] for each in watched] == [True, True, False]
        assert watched[0].client("c0")["share"] == 1.0
        assert watched[0].client("c0")["in_flight"] == 0

    run_group(scenario, rate_limit=10, rate_limit_burst=1)
