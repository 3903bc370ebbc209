"""What waits, by class and client, if there are too many clients to count each one."""

import asyncio

import pytest

from rustygate.admission.activity import OTHER_CLIENTS
from rustygate.dashboard import waiting
from rustygate.dashboard.client_rows import CLIENTS_SHOWN
from rustygate.dashboard.waiting import sum_waiting
from tests.support.gate_state import Watched
from tests.support.harness import Harness, run_scenario


def test_clients_beyond_the_limit_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CLIENT_LIMIT", 2)

    async def scenario(harness: Harness) -> None:
        # The first one is admitted at once, so its client is active.
        for name in ("active", "a", OTHER_CLIENTS, "b", "b", "c", "active"):
            harness.spawn(name)
        await asyncio.sleep(0)
        [default] = [each for each in sum_waiting(harness.gate.dispatcher, 0).by_class if each]
        assert {name: sums[0] for name, sums in default.items()} == {
            "a": 1,
            OTHER_CLIENTS: 4,
            "active": 1,
        }
        assert default[OTHER_CLIENTS][2] == 3.0
        await asyncio.sleep(100)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=3600)


def test_client_with_the_name_of_the_others_is_one_of_them() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        for name in (OTHER_CLIENTS, *(f"c{number}" for number in range(CLIENTS_SHOWN + 5))):
            harness.spawn(name)
            harness.spawn(name)
        await asyncio.sleep(0)
        rows = watched.state()["clients"]
        assert [row["client"] for row in rows].count(OTHER_CLIENTS) == 1
        assert sum(row["waiting"] for row in rows) == harness.gate.snapshot()["waiters"]
        await asyncio.sleep(500)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=3600)
