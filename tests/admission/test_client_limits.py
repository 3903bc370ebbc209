"""Clients' own limits, on a virtual clock."""

import asyncio

import pytest

from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from tests.support.harness import (
    Harness,
    one_and_three,
    rate_limit,
    run_ready_tasks,
    run_scenario,
    set_rate_limit,
)


@one_and_three
def test_client_at_its_limit_does_not_block_others(gates: int) -> None:
    async def scenario(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits(requests_per_second=1, burst=1)})
        tasks = [harness.spawn("a", model="m") for _ in range(3)]
        await run_ready_tasks()
        assert (await harness.admit("b", model="m")).queued == 0
        await asyncio.gather(*tasks)

    harness = run_scenario(scenario, gates, rate_limit=None)
    assert [time for client, time in harness.admitted if client == "a"] == pytest.approx(
        [0, 1, 2], abs=0.01
    )


@one_and_three
def test_limits_of_client_and_lane_apply_together(gates: int) -> None:
    """A shared lane with one request per second; a client with one per two seconds."""

    async def scenario(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits(requests_per_second=0.5, burst=1)})
        set_rate_limit(harness, rate_limit(60, 0))
        await harness.until_told()
        tasks = [harness.spawn(client, model="m") for client in "aaaabbbb"]
        await asyncio.gather(*tasks)

    harness = run_scenario(scenario, gates, rate_limit=None)
    # In a group, the lane's level counts from the call that reports it.
    late = 0.01 if gates == 1 else 0.12
    assert harness.times == pytest.approx(list(range(1, 9)), abs=late)
    assert harness.order == "abababab"


def test_limits_can_change_while_a_client_waits() -> None:
    async def scenario(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits(requests_per_second=0.1, burst=1)})
        tasks = [harness.spawn("a") for _ in range(3)]
        await asyncio.sleep(1)
        harness.gate.limit_clients({"a": Limits(requests_per_second=1, burst=1)})
        await run_ready_tasks()
        harness.gate.limit_clients({})
        await asyncio.gather(*tasks)

    assert run_scenario(scenario, rate_limit=None).times == pytest.approx([0, 1, 1], abs=0.01)


def test_first_limits_apply_to_requests_that_already_wait() -> None:
    async def scenario(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits()})
        tasks = [harness.spawn("a") for _ in range(4)]
        await run_ready_tasks()
        harness.gate.limit_clients({"a": Limits(requests_per_second=0.2, burst=1)})
        await asyncio.gather(*tasks)

    times = run_scenario(scenario, rate_limit=1, rate_limit_burst=1).times
    assert times == pytest.approx([0, 1, 6, 11], abs=0.01)


def test_restored_limits_apply_to_requests_that_still_wait() -> None:
    async def scenario(harness: Harness) -> None:
        limits = {"a": Limits(requests_per_second=0.2, burst=1)}
        first = harness.spawn("b")
        await run_ready_tasks()
        harness.gate.limit_clients(limits)
        tasks = [first, *(harness.spawn("a") for _ in range(3))]
        await run_ready_tasks()
        harness.gate.limit_clients({})
        harness.gate.limit_clients(limits)
        tasks.append(harness.spawn("a"))
        await asyncio.gather(*tasks)

    times = run_scenario(scenario, rate_limit=1, rate_limit_burst=1).times
    assert times == pytest.approx([0, 1, 6, 11, 16], abs=0.01)


@pytest.mark.parametrize("ending", ["settled", "given back"])
def test_units_taken_from_old_limits_are_not_returned_to_new_ones(ending: str) -> None:
    async def scenario(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits(tokens_per_minute=1000)})
        async with harness.gate.admission(harness.exchange("a", tokens=1000)) as admission:
            harness.gate.limit_clients({"a": Limits(tokens_per_minute=60)})
            await harness.admit("a", tokens=60)
            if ending == "settled":
                admission.settle(0)
            else:
                admission.give_back()
            assert (await harness.admit("a", tokens=30)).queued == pytest.approx(
                30 * SECOND, rel=0.01
            )

    run_scenario(scenario, rate_limit=None, rate_limit_timeout=90)


def test_reading_the_same_limits_again_refills_no_budget() -> None:
    async def scenario(harness: Harness) -> None:
        for _ in range(3):
            harness.gate.limit_clients({"a": Limits(requests_per_second=1, burst=1)})
            await harness.admit("a")

    assert run_scenario(scenario, rate_limit=None).times == pytest.approx([0, 1, 2], abs=0.01)


def test_removed_and_restored_client_keeps_its_slots() -> None:
    async def scenario(harness: Harness) -> None:
        one = {"a": Limits(concurrency=1)}
        harness.gate.limit_clients(one)
        holder = harness.spawn("a", 5)
        await run_ready_tasks()
        harness.gate.limit_clients({})
        harness.gate.limit_clients(one)
        assert (await harness.admit("a")).queued == pytest.approx(5 * SECOND, rel=0.01)
        await holder

    run_scenario(scenario, rate_limit=None)
