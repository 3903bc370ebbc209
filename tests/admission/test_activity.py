"""Who was admitted how much, and who is in flight, whatever becomes of an attempt."""

import asyncio

import pytest

from rustygate.admission.activity import CLIENT_LIMIT, OTHER_CLIENTS, Activity, ClientActivity
from rustygate.exchange import Exchange
from tests.support.harness import Harness, run_ready_tasks, run_scenario


def of(harness: Harness, client: str = "a", priority: str = "default") -> ClientActivity:
    return harness.gate.dispatcher.activity.clients[priority][client]


def test_admissions_add_up_by_class_and_client() -> None:
    async def scenario(harness: Harness) -> None:
        for client, priority in (("a", "default"), ("a", "batch"), ("b", "batch")):
            harness.spawn(client, 1, priority=priority, weight=2.0)
        harness.spawn("a", 1)
        await asyncio.sleep(0.5)
        activity = harness.gate.dispatcher.activity
        assert activity.admitted == 4
        assert {name: list(each) for name, each in activity.clients.items()} == {
            "interactive": [],
            "default": ["a"],
            "batch": ["a", "b"],
        }
        assert (of(harness).in_flight, of(harness, "b", "batch").in_flight) == (2, 1)
        # The weight is that of the last admission.
        assert (of(harness).weight, of(harness, "b", "batch").weight) == (1.0, 2.0)
        await asyncio.sleep(1)
        assert (of(harness).in_flight, of(harness, "b", "batch").in_flight) == (0, 0)

    run_scenario(scenario)


def test_cost_is_in_the_gates_unit() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.admit("requests", tokens=1)
        await harness.admit("tokens", tokens=50)
        # A request refills in 0.1 s, a token in 0.01 s.
        assert of(harness, "requests").cost == pytest.approx(0.1 * 10**9)
        assert of(harness, "tokens").cost == pytest.approx(0.5 * 10**9)

    run_scenario(scenario, rate_limit=10, tokens_per_minute=6000)


def test_attempt_that_is_cancelled_while_it_waits_does_not_count() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.admit("a")
        waiting = harness.spawn("a")
        await asyncio.sleep(0.5)
        waiting.cancel()
        await run_ready_tasks()
        assert (of(harness).in_flight, harness.gate.dispatcher.activity.admitted) == (0, 1)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)


@pytest.mark.parametrize("offset_s", [-1e-10, 1e-10], ids=["before", "after"])
def test_attempt_that_is_cancelled_in_the_moment_of_its_grant_does_not_count(
    offset_s: float,
) -> None:
    async def scenario(harness: Harness) -> None:
        await harness.admit("a")
        waiting = harness.spawn("a")
        await asyncio.sleep(0.5)
        grant = harness.gate.dispatcher._timer
        assert grant is not None
        asyncio.get_running_loop().call_at(grant.when() + offset_s, waiting.cancel)
        await asyncio.sleep(1)
        assert waiting.cancelled()
        assert (of(harness).in_flight, harness.gate.dispatcher.activity.admitted) == (0, 1)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)


def test_clients_are_bounded() -> None:
    activity = Activity()
    for number in range(CLIENT_LIMIT + 10):
        activity.admit(Exchange(f"c{number}", "POST", "/"), 2)
    clients = activity.clients["default"]
    assert len(clients) == CLIENT_LIMIT + 1
    assert (clients[OTHER_CLIENTS].cost, clients[OTHER_CLIENTS].in_flight) == (20, 10)
    assert activity.admitted == CLIENT_LIMIT + 10


def test_idle_clients_are_forgotten_after_a_minute() -> None:
    activity = Activity()
    idle = activity.admit(Exchange("idle", "POST", "/"), 2)
    busy = activity.admit(Exchange("busy", "POST", "/"), 3)
    idle.in_flight = 0
    for _ in range(12):
        activity.sample(1)
        assert (idle.lately, busy.lately) == (2, 3)
    activity.sample(1)
    assert list(activity.clients["default"]) == ["busy"]
    busy.in_flight = 0
    activity.sample(10**9)
    assert activity.clients["default"] == {}
    assert repr(busy) == "<ClientActivity 3 ns, 0 in flight>"
