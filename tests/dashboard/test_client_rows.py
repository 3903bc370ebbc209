"""The clients on the page: what each got in the last minute against what it was due."""

import asyncio

import pytest

from rustygate.core.clients import Client
from rustygate.dashboard.client_rows import CLIENTS_SHOWN
from tests.support.gate_state import Watched
from tests.support.harness import Harness, run_scenario


def test_contended_clients_get_and_are_due_shares_by_weight() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        watched.histories.start()
        for name, weight in (("a", 3.0), ("b", 1.0)):
            for _ in range(200):
                harness.spawn(name, weight=weight)
        await asyncio.sleep(30)
        a, b = watched.client("a"), watched.client("b")
        assert (a["weight"], b["weight"]) == (3.0, 1.0)
        assert [a["share_due"], b["share_due"]] == pytest.approx([0.75, 0.25])
        assert [a["share"], b["share"]] == pytest.approx([0.75, 0.25], abs=0.01)
        assert a["waiting"] + b["waiting"] == harness.gate.snapshot()["waiters"]
        await asyncio.sleep(200)
        watched.histories.stop()

    run_scenario(scenario, rate_limit=4, rate_limit_burst=1, rate_limit_timeout=3600)


def test_client_that_wants_little_is_due_no_more() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        for _ in range(99):
            harness.spawn("busy")
        harness.spawn("rare")
        await asyncio.sleep(9.5)
        rare, busy = watched.client("rare"), watched.client("busy")
        assert rare["share_due"] == rare["share"] == pytest.approx(0.1, abs=0.001)
        assert busy["share_due"] == busy["share"] == pytest.approx(0.9, abs=0.001)
        await asyncio.sleep(100)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=3600)


def test_classes_are_due_their_shares() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        for name in ("interactive", "default", "batch"):
            for _ in range(100):
                harness.spawn(name, priority=name)
        await asyncio.sleep(41)
        due = [watched.client(name)["share_due"] for name in ("interactive", "default", "batch")]
        got = [watched.client(name)["share"] for name in ("interactive", "default", "batch")]
        assert due == pytest.approx([16 / 21, 4 / 21, 1 / 21], abs=0.001)
        assert got == pytest.approx(due, abs=0.03)
        await asyncio.sleep(300)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=3600)


def test_shares_are_in_cost_and_not_in_count() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        for _ in range(50):
            harness.spawn("large", tokens=100)
            harness.spawn("small", tokens=50)
            harness.spawn("small", tokens=50)
        await asyncio.sleep(300)
        shares = [watched.client(name)["share"] for name in ("large", "small")]
        assert shares == pytest.approx([0.5, 0.5], abs=0.02)
        await asyncio.sleep(600)

    run_scenario(scenario, rate_limit=1000, tokens_per_minute=1000, rate_limit_timeout=3600)


def test_only_the_last_minute_counts() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        watched.histories.start()
        for _ in range(10):
            harness.spawn("early")
        await asyncio.sleep(58)
        harness.spawn("late")
        await asyncio.sleep(1)
        assert watched.client("early")["share"] == pytest.approx(10 / 11, abs=0.001)
        assert watched.client("late")["share"] == pytest.approx(1 / 11, abs=0.001)
        await asyncio.sleep(7)
        assert [row["client"] for row in watched.state()["clients"]] == ["late"]
        assert watched.client("late")["share"] == 1.0
        watched.histories.stop()

    run_scenario(scenario, rate_limit=100)


def test_client_in_flight_is_shown_however_long_it_takes() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        watched.histories.start()
        harness.spawn("long", hold_s=300)
        await asyncio.sleep(200)
        assert watched.client("long")["in_flight"] == 1
        assert watched.client("long")["share"] == 0
        assert watched.state()["in_flight"] == 1
        await asyncio.sleep(200)
        assert watched.state()["clients"] == []
        watched.histories.stop()

    run_scenario(scenario)


def test_configured_clients_are_always_shown_with_their_class() -> None:
    configured = {
        "search": Client("search", "0" * 64, weight=2.5, priority="interactive"),
        "night": Client("night", "1" * 64, priority="batch"),
    }

    async def scenario(harness: Harness) -> None:
        night, search = Watched(harness.gate, configured).state()["clients"]
        assert (night["client"], night["weight"], night["priority"]) == ("night", 1.0, "batch")
        assert (search["client"], search["weight"]) == ("search", 2.5)
        assert search["priority"] == "interactive"
        assert (search["share"], search["share_due"], search["in_flight"]) == (0, 0, 0)

    run_scenario(scenario)


def test_before_anybody_got_anything_shares_are_due_by_weight() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        watched.histories.start()
        harness.spawn("first")
        await asyncio.sleep(70)
        for _ in range(3):
            harness.spawn("a", weight=4.0)
            harness.spawn("b", weight=1.0)
        await asyncio.sleep(1)
        rows = [watched.client(name) for name in "ab"]
        assert [row["share_due"] for row in rows] == pytest.approx([0.8, 0.2])
        assert [row["share"] for row in rows] == [0, 0]
        await asyncio.sleep(1000)
        watched.histories.stop()

    run_scenario(scenario, rate_limit=0.01, rate_limit_burst=1, rate_limit_timeout=3600)


def test_rows_are_bounded_and_the_others_are_added_up() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        for number in range(700):
            harness.spawn(f"c{number}")
        await asyncio.sleep(0.5)
        rows = watched.state()["clients"]
        assert len(rows) == CLIENTS_SHOWN + 1
        assert rows[-1]["client"] == "(other)"
        assert sum(row["waiting"] for row in rows) == watched.state()["waiting"] == 690
        assert sum(row["share"] for row in rows) == pytest.approx(1, abs=0.01)
        assert sum(row["share_due"] for row in rows) == pytest.approx(1, abs=0.01)
        await asyncio.sleep(700)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=10, rate_limit_timeout=3600)
