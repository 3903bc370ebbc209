"""Three gates in a group share one quota as one gate does, wherever their clients connect."""

import asyncio

import pytest

from tests.support.group import GroupHarness, jain, run_group

RUN_S = 20


@pytest.mark.parametrize(("rate", "burst"), [(40, 2), (100, 1), (1, 3)])
def test_unevenly_placed_clients_get_equal_shares_of_the_whole_quota(
    rate: float, burst: int
) -> None:
    """One client is at one gate, one at two, and one at all three."""
    run_s = RUN_S if rate > 1 else 300

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for client, gates in {"one": [0], "two": [0, 1], "all": [0, 1, 2]}.items():
            for gate in gates:
                harness.flood(client, gate, 20)
        await asyncio.sleep(run_s)

    harness = run_group(scenario, rate_limit=rate, rate_limit_burst=burst)
    counts = [harness.count(client, 1.5) for client in ("one", "two", "all")]
    assert harness.errors == []
    assert jain(counts) >= 0.99
    assert 0.97 * rate * run_s <= harness.total() <= rate * run_s + burst + 1
