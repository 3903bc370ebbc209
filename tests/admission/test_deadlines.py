"""Waiters expire at their deadlines, on a virtual clock, and leave nothing behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rustygate.admission.deadlines import MAX_OLD, Deadlines
from rustygate.admission.waiter import Waiter, clock_ns
from rustygate.core.bucket import SECOND
from rustygate.plan import virtual_clock


class FakeWaiter:
    """A waiter as far as deadlines go."""

    def __init__(self, name: str, deadline: int) -> None:
        self.name = name
        self.exchange = self
        self.deadline = deadline


class Run:
    """Deadlines in seconds from now. `expired` has the names and times of those that came."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self.expired: list[tuple[str, float]] = []
        self.defect: str | None = None
        self.deadlines = Deadlines(self._expire, self._loop)

    def add(self, name: str, seconds: float) -> int:
        deadline = clock_ns(self._loop) + int(seconds * SECOND)
        waiter: Any = FakeWaiter(name, deadline)
        return self.deadlines.add(waiter)

    def _expire(self, waiter: Waiter) -> None:
        name = str(getattr(waiter, "name", ""))
        self.expired.append((name, round(self._loop.time() - self._began, 6)))
        if name == self.defect:
            raise RuntimeError("a defect")


def run(scenario: Callable[[Run], Awaitable[None]]) -> Run:
    async def main() -> Run:
        deadlines = Run()
        await scenario(deadlines)
        return deadlines

    return virtual_clock.run(main)


def test_waiters_expire_at_their_deadlines() -> None:
    async def scenario(run: Run) -> None:
        for name, seconds in (("b", 2), ("c", 3), ("a", 1), ("b again", 2)):
            run.add(name, seconds)
        await asyncio.sleep(10)

    assert run(scenario).expired == [("a", 1), ("b", 2), ("b again", 2), ("c", 3)]


def test_waiter_that_was_removed_does_not_expire() -> None:
    async def scenario(run: Run) -> None:
        first, second = run.add("a", 1), run.add("b", 2)
        run.add("c", 3)
        run.deadlines.remove(first)
        await asyncio.sleep(1.5)
        run.deadlines.remove(second)
        await asyncio.sleep(10)

    assert run(scenario).expired == [("c", 3)]


def test_removing_twice_is_harmless() -> None:
    async def scenario(run: Run) -> None:
        number = run.add("a", 1)
        await asyncio.sleep(2)
        run.deadlines.remove(number)
        run.add("b", 1)
        run.deadlines.remove(number)
        await asyncio.sleep(2)

    assert run(scenario).expired == [("a", 1), ("b", 3)]


def test_defect_in_one_expiry_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(run: Run) -> None:
        run.defect = "a"
        for name in "abc":
            run.add(name, 1)
        await asyncio.sleep(2)

    assert run(scenario).expired == [("a", 1), ("b", 1), ("c", 1)]
    assert "a defect" in caplog.text


def test_old_deadlines_are_bounded() -> None:
    async def scenario(run: Run) -> None:
        run.add("stays", 100)
        most = 0
        for _ in range(10 * MAX_OLD):
            run.deadlines.remove(run.add("leaves", 50))
            most = max(most, len(run.deadlines))
        assert most == MAX_OLD + 2
        assert repr(run.deadlines).startswith("<Deadlines of 1 waiters, ")
        await asyncio.sleep(200)
        assert repr(run.deadlines) == "<Deadlines of 0 waiters, 0 kept>"

    assert run(scenario).expired == [("stays", 100)]


def test_old_deadlines_stay_while_most_are_needed() -> None:
    """Dropping them at each removal would take too long."""

    async def scenario(run: Run) -> None:
        numbers = [run.add("a", 50) for _ in range(3 * MAX_OLD)]
        for number in numbers[:MAX_OLD]:
            run.deadlines.remove(number)
        assert len(run.deadlines) == 3 * MAX_OLD

    assert len(run(scenario).expired) == 0


def test_order_stays_when_old_deadlines_are_dropped() -> None:
    async def scenario(run: Run) -> None:
        leaving = []
        for number in range(MAX_OLD):
            run.add("stays", 1 + number * 37 % MAX_OLD)
            leaving += [run.add("leaves", 1 + number * 61 % MAX_OLD) for _ in range(3)]
        for number in leaving:
            run.deadlines.remove(number)
        assert len(run.deadlines) < 4 * MAX_OLD
        await asyncio.sleep(2 * MAX_OLD)

    assert run(scenario).expired == [("stays", second) for second in range(1, MAX_OLD + 1)]


def test_no_timer_is_left_when_nobody_waits() -> None:
    loops = []

    async def scenario(run: Run) -> None:
        loops.append(asyncio.get_running_loop())
        run.deadlines.remove(run.add("a", 100))
        assert repr(run.deadlines) == "<Deadlines of 0 waiters, 0 kept>"
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlock"):
        run(scenario)
    assert loops[0].time() == 1000
