"""The state takes work by the number of lanes and flows, not of waiters.

Work is counted in calls of functions, which do not depend on the machine.
"""

import asyncio
import sys
from collections.abc import Callable
from types import FrameType

from tests.support.gate_state import Watched
from tests.support.harness import (
    Harness,
    rate_limit,
    run_ready_tasks,
    run_scenario,
    set_rate_limit,
)


def count_calls(function: Callable[[], object]) -> int:
    """How many Python and C functions a call takes."""
    count = 0

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def calls_with(waiters: int, clients: int, models: int) -> int:
    """The calls for a state while this many wait."""
    counts: list[int] = []

    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        for model in range(models):
            set_rate_limit(harness, rate_limit(600), f"m{model}")
        await asyncio.sleep(1)
        tasks = [
            harness.spawn(f"c{number % clients}", model=f"m{number % models}", tokens=100)
            for number in range(waiters)
        ]
        await run_ready_tasks()
        assert len(watched.state()["queue"]) == 20
        counts.append(count_calls(watched.state))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_scenario(scenario, rate_limit=100, rate_limit_burst=10, rate_limit_timeout=10**6)
    return counts[0]


# An order of magnitude: ten thousand calls take two to five milliseconds.
def test_ten_thousand_waiters_take_no_more_than_two_thousand() -> None:
    many, few = (calls_with(waiters, clients=200, models=20) for waiters in (10_000, 2_000))
    assert many < 1.2 * few
    assert 5_000 < many < 80_000


def test_quiet_gate_takes_next_to_nothing() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        assert count_calls(watched.state) < 1000
        assert count_calls(watched.histories._sample) < 80
        watched.histories.stop()

    run_scenario(scenario)
