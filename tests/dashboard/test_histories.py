"""Samples every five seconds, whether anybody looks or not."""

import asyncio

import pytest

from rustygate.core.verdict import Action
from tests.support.gate_state import Watched
from tests.support.harness import Harness, run_scenario


def test_admissions_per_second_are_those_of_the_last_seconds() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        watched.histories.start()
        for _ in range(80):
            harness.spawn()
        rates = []
        for _ in range(40):
            await asyncio.sleep(1)
            rates.append(watched.state()["admitted_per_s"])
        assert rates[0] == pytest.approx(4, abs=1.01)
        assert rates[5:19] == pytest.approx([4] * 14, abs=0.3)
        assert 0 < rates[22] < 4
        assert rates[30:] == [0] * 10
        watched.histories.stop()

    run_scenario(scenario, rate_limit=4, rate_limit_burst=1, rate_limit_timeout=100)


def test_history_of_the_gate_has_admissions_and_waiters() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        watched.histories.start()
        await asyncio.sleep(0.25)
        for _ in range(21):
            harness.spawn()
        await asyncio.sleep(15)
        history = watched.state()["history"]
        assert [len(values) for values in history.values()] == [120, 120]
        assert history["admitted"][-4:] == [0, 10, 10, 1]
        assert history["waiting"][-4:] == [0, 11, 1, 0]
        watched.histories.stop()

    run_scenario(scenario, rate_limit=2, rate_limit_burst=1)


def test_429s_count_for_five_minutes() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        watched.histories.start()
        watched.metrics.count_upstream_429("m", Action.PAUSE)
        watched.metrics.count_upstream_429("m", Action.SLOW)
        await asyncio.sleep(299)
        assert watched.state()["upstream_429_5m"] == 2
        await asyncio.sleep(7)
        assert watched.state()["upstream_429_5m"] == 0
        assert watched.state()["verdicts"] == {"pass": 0, "pause": 1, "slow": 1}
        watched.histories.stop()

    run_scenario(scenario)


def test_stopped_histories_have_no_timer() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        watched.histories.start()
        watched.histories.stop()
        harness.spawn()
        await asyncio.sleep(20)
        assert watched.histories.admitted.steps() == [0] * 120

    run_scenario(scenario)
