"""The lanes on the page: levels, limits, what was learned, and forecasts that come true."""

import asyncio

import pytest

from rustygate.dashboard.lane_rows import LANES_SHOWN
from tests.support.gate_state import Watched
from tests.support.harness import Harness, rate_limit, run_scenario, set_rate_limit


def test_lane_has_its_learned_limits_and_levels() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        set_rate_limit(harness, rate_limit(60, 30))
        await asyncio.sleep(2)
        row = watched.lane("m")
        assert row["budgets"] == [
            {"budget": "requests", "level": 32, "limit": 60, "per_minute": 60.0}
        ]
        assert (row["paused_s"], row["waiting"], row["in_flight"]) == (0, 0, 0)
        assert row["learned_s"] == pytest.approx(2, abs=0.01)
        assert row["others_per_min"] == {"requests": 0}
        assert row["pace_per_min"] is None

    run_scenario(scenario)


def test_own_budgets_stand_at_the_top() -> None:
    async def scenario(harness: Harness) -> None:
        harness.spawn("a", 1, tokens=100)
        await asyncio.sleep(0.001)
        assert Watched(harness.gate).state()["budgets"] == [
            {"budget": "requests", "level": 19, "limit": 20, "per_minute": 600.0},
            {"budget": "tokens", "level": 6000 - 100, "limit": 6000, "per_minute": 6000.0},
            {"budget": "slots", "level": 2, "limit": 3, "per_minute": None},
        ]
        await asyncio.sleep(1)

    run_scenario(scenario, tokens_per_minute=6000, concurrency_limit=3)


def test_unconfirmed_lane_is_shown_only_while_something_waits() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        harness.spawn("a", model="invented", hold_s=1)
        await asyncio.sleep(0.1)
        assert watched.state()["lanes"] == []
        harness.spawn("a", model="invented")
        await asyncio.sleep(0.1)
        assert watched.lane("invented")["waiting"] == 1
        assert watched.lane("invented")["learned_s"] is None
        await asyncio.sleep(2)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)


def test_pause_and_pace_are_shown() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        exchange = harness.exchange("a", model="m")
        async with harness.gate.admission(exchange) as admission:
            admission.record_response(ok=True)
            admission.pause(4_000_000_000, slow=True)
        await asyncio.sleep(1)
        row = watched.lane("m")
        assert row["paused_s"] == pytest.approx(3, abs=0.001)
        assert row["pace_per_min"] == pytest.approx(60, abs=1)

    run_scenario(scenario)


def test_forecast_is_the_wait_that_a_newcomer_then_has() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        set_rate_limit(harness, rate_limit(1000))
        await asyncio.sleep(5)
        for _ in range(10):
            harness.spawn("a", model="m")
            harness.spawn("b", model="m", priority="batch")
        await asyncio.sleep(0.5)
        forecast = watched.lane("m")["forecast_s"]
        assert list(forecast) == ["interactive", "default", "batch"]
        newcomers = [
            asyncio.create_task(harness.admit("new", model="m", priority=name))
            for name in forecast
        ]
        waits = [(await each).queued / 1e9 for each in newcomers]
        assert list(forecast.values()) == pytest.approx(waits, abs=2.01)
        await asyncio.sleep(100)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=3600)


def test_forecast_is_0_while_nothing_is_short() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(1000))
        await asyncio.sleep(1)
        forecast = Watched(harness.gate).lane("m")["forecast_s"]
        assert forecast == {"interactive": 0, "default": 0, "batch": 0}

    run_scenario(scenario)


def test_history_has_the_admissions_of_each_five_seconds() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        watched.histories.start()
        set_rate_limit(harness, rate_limit(1000))
        await asyncio.sleep(6)
        for _ in range(7):
            harness.spawn("a", model="m")
        await asyncio.sleep(5)
        history = watched.lane("m")["history"]
        assert len(history) == 120
        assert history[-2:] == [1, 7]
        assert sum(history) == 8
        watched.histories.stop()

    run_scenario(scenario)


def test_lanes_are_bounded_and_those_with_waiters_are_shown() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        for number in range(LANES_SHOWN + 20):
            set_rate_limit(harness, rate_limit(1000), f"m{number:03}")
        await asyncio.sleep(1)
        for _ in range(300):
            harness.spawn("a", model="m000")
        await asyncio.sleep(0.1)
        models = [row["model"] for row in watched.state()["lanes"]]
        assert len(models) == LANES_SHOWN
        assert models == sorted(models)
        assert models[:2] == ["m000", "m021"]
        await asyncio.sleep(30)

    run_scenario(scenario, rate_limit=100, rate_limit_burst=200)
