"""What an attempt returns or frees goes to the waiters at once, on a virtual clock."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rustygate.admission.admission import Admission
from rustygate.core.clients import Limits
from tests.support.harness import (
    Harness,
    rate_limit,
    run_ready_tasks,
    run_scenario,
    set_rate_limit,
)

Act = Callable[[Admission], None]


def waits_until_act(
    act: Act, *, limits: Limits | None = None, learned: int = 0, tokens: int = 0, **settings: Any
) -> list[float]:
    """When a request that waits for another one's budgets is admitted. The other one acts at 1 s
    and then stays in flight."""

    async def scenario(harness: Harness) -> None:
        if limits is not None:
            harness.gate.limit_clients({"a": limits})
        if learned:
            set_rate_limit(harness, rate_limit(learned, 1))
            await run_ready_tasks()
        exchange = harness.exchange("a", model="m", tokens=tokens)
        async with harness.gate.admission(exchange) as admission:
            waiter = harness.spawn("a", model="m", tokens=tokens)
            await asyncio.sleep(1)
            act(admission)
            await waiter

    settings = {"rate_limit": None, "rate_limit_timeout": 100, **settings}
    return run_scenario(scenario, **settings).times


def test_turn_without_admission_delays_the_waiters() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.admit("a", model="m")
        waiter = harness.spawn("a", model="m")
        await asyncio.sleep(5)
        turn = harness.gate.admission(harness.exchange("b", model="m"))
        turn.charge()
        turn.leave()
        await waiter
        assert turn.lane.users == 0

    times = run_scenario(
        scenario, rate_limit=0.1, rate_limit_burst=1, rate_limit_timeout=100
    ).times
    assert times == pytest.approx([0, 20], abs=0.01)


@pytest.mark.parametrize(
    "budgets",
    [
        {"rate_limit": 0.1, "rate_limit_burst": 1},
        {"limits": Limits(requests_per_second=0.1, burst=1)},
        {"learned": 6},
    ],
    ids=["gate", "client", "lane"],
)
def test_unit_that_is_given_back_is_granted_at_once(budgets: dict[str, Any]) -> None:
    assert waits_until_act(lambda each: None, **budgets) == pytest.approx([10], abs=0.01)
    assert waits_until_act(Admission.give_back, **budgets) == pytest.approx([1], abs=0.01)


@pytest.mark.parametrize(
    "budgets",
    [{"tokens_per_minute": 60}, {"limits": Limits(tokens_per_minute=60)}],
    ids=["gate", "client"],
)
@pytest.mark.parametrize(("used", "admitted_at"), [(0, 1), (40, 40), (60, 60), (80, 80)])
def test_settled_tokens_are_granted_at_once(
    budgets: dict[str, Any], used: int, admitted_at: int
) -> None:
    """Also after the slots were released."""

    def settle(admission: Admission) -> None:
        admission.release()
        admission.settle(used)

    times = waits_until_act(settle, tokens=60, **budgets)
    assert times == pytest.approx([admitted_at], abs=0.01)


@pytest.mark.parametrize(
    "budgets",
    [
        {"concurrency_limit": 1},
        {"limits": Limits(concurrency=1)},
        {"rate_limit": None, "rate_limit_burst": 1},
    ],
    ids=["gate", "client", "lane"],
)
def test_slot_that_is_freed_is_granted_at_once(budgets: dict[str, Any]) -> None:
    def release_twice(admission: Admission) -> None:
        admission.release()
        admission.release()

    assert waits_until_act(release_twice, **budgets) == pytest.approx([1], abs=0.01)


@pytest.mark.parametrize("ok", [True, False])
def test_response_frees_the_slot_of_the_lane(ok: bool) -> None:
    """A slot of a lane lasts until upstream responds; the gate's own lasts until the end."""
    times = waits_until_act(lambda each: each.record_response(ok), rate_limit_burst=1)
    assert times == pytest.approx([1], abs=0.01)


def test_slot_of_a_lane_is_freed_once() -> None:
    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(ok=False)
            admission.record_response(ok=False)
        tasks = [harness.spawn("a", hold_s=5, model="m") for _ in range(2)]
        await asyncio.gather(*tasks)

    times = run_scenario(scenario, rate_limit=None, rate_limit_burst=1).times
    assert times == pytest.approx([0, 5])
