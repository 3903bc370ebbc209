"""The gates of a group may have clocks that differ, and wall clocks that jump."""

import asyncio
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from tests.support.group import GroupHarness, jain, run_group

RATE = 40


class ShiftedLoop:
    """An event loop whose clock shows another time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, offset_s: float) -> None:
        self._loop, self._offset_s = loop, offset_s

    def time(self) -> float:
        return self._loop.time() + self._offset_s

    def call_at(self, when: float, callback: Callable[..., object], *values: Any) -> Any:
        return self._loop.call_at(when - self._offset_s, callback, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def add_gate(harness: GroupHarness, offset_s: float) -> None:
    loop = ShiftedLoop(asyncio.get_running_loop(), offset_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: loop)
        harness.add_gate()


def test_clocks_that_differ_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = count(10**9, 86_400)
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))

    async def scenario(harness: GroupHarness) -> None:
        for offset_s in (0.0, 86_400.0, 1e7):
            add_gate(harness, offset_s)
        clocks = [gate.now() for gate in harness.gates]
        assert max(clocks) - min(clocks) >= 10**15
        await asyncio.sleep(1)
        for client, gates in {"one": [0], "two": [0, 1], "all": [0, 1, 2]}.items():
            for gate in gates:
                harness.flood(client, gate, 20)
        await asyncio.sleep(10)
        harness.group.lose_state()
        await asyncio.sleep(10)
        assert harness.states() == ["together"] * 3
        await harness.stop_demand()
        await asyncio.sleep(3)
        harness.assert_conserved()

    harness = run_group(scenario, gates=0, rate_limit=RATE, rate_limit_burst=2)
    assert harness.errors == []
    assert 0.97 * RATE * 20 <= harness.total() <= RATE * 20 + 3
    assert harness.excess() <= 2.1
    assert jain(harness.count(client, 2) for client in ("one", "two", "all")) >= 0.99
