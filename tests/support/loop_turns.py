"""Counting in which turns of the event loop something happens."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class LoopTurns:
    """How often `record` was called in each turn of the loop."""

    def __init__(self) -> None:
        self._turn = 0
        self._calls: Counter[int] = Counter()
        self._tick()

    def _tick(self) -> None:
        self._turn += 1
        self.next = asyncio.get_running_loop().call_soon(self._tick)

    def record(self) -> None:
        self._calls[self._turn] += 1

    @property
    def counts(self) -> list[int]:
        """The number of calls in each turn that had some."""
        return [*self._calls.values()]


@contextmanager
def counting_turns() -> Iterator[LoopTurns]:
    """Count the turns of the loop meanwhile."""
    turns = LoopTurns()
    try:
        yield turns
    finally:
        turns.next.cancel()
