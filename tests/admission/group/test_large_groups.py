"""Forty gates share one quota as a few do, without calling more often together."""

import asyncio
from statistics import quantiles

import pytest

from tests.support.group import GroupHarness, jain, run_group

GATES = 40


@pytest.mark.parametrize(("rate", "burst"), [(100, 1), (500, 50)])
def test_large_group_shares_all_of_its_quota(rate: int, burst: int) -> None:
    """Twenty clients at one gate each, ten at all."""

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for number in range(20):
            harness.flood(f"one-{number}", number, 20)
        for number in range(10):
            for gate in range(GATES):
                harness.flood(f"all-{number}", gate, 2)
        harness.trickle("light", [GATES - 1], 0.37)
        await asyncio.sleep(2)
        for store in harness.stores:
            store.calls = 0
        await asyncio.sleep(8)

    harness = run_group(scenario, GATES, rate_limit=rate, rate_limit_burst=burst)
    calls = [store.calls for store in harness.stores]
    assert harness.states() == ["together"] * GATES
    assert 0.97 * rate * 8 <= harness.total(3, 11) <= rate * 8 + burst + 1
    assert burst <= harness.excess() <= burst + 0.1
    busy = [harness.count(client, 3) for client in harness.waits if client != "light"]
    assert len(busy) == 30
    assert jain(busy) >= 0.99
    assert 0.8 * 762 * 8 <= sum(calls) <= 1.1 * 762 * 8
    assert quantiles(harness.waits["light"], n=20)[9] <= 0.25
