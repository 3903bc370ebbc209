"""The deadlines of waiters: one timer of the event loop for all of them.

A timer for each waiter would cost more than the rest of its wait, because the loop keeps its
timers in a heap that compares them in Python. Most waiters are admitted long before their
deadlines, so an unneeded deadline stays in the heap until its time comes, or until most of the
heap is unneeded.
"""

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from rustygate.admission.waiter import Waiter, clock_ns
from rustygate.core.bucket import SECOND

# How many unneeded deadlines may stay, in addition to as many as are needed.
MAX_OLD = 100


class Deadlines:
    """The deadlines of waiters.

    Args:
        expire: called with each waiter at its deadline.
    """

    def __init__(self, expire: Callable[[Waiter], None], loop: asyncio.AbstractEventLoop) -> None:
        self._expire = expire
        self._loop = loop
        self._numbers = count()
        # The heap contains only the numbers, so it does not keep old waiters in memory.
        self._waiters: dict[int, Waiter] = {}
        self._heap: list[tuple[int, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float = inf

    def __len__(self) -> int:
        """How many deadlines are kept, including those no longer needed."""
        return len(self._heap)

    def __repr__(self) -> str:
        return f"<Deadlines of {len(self._waiters)} waiters, {len(self)} kept>"

    def add(self, waiter: Waiter) -> int:
        """Add the deadline of a waiter; returns the number for `remove`."""
        number, deadline = next(self._numbers), waiter.exchange.deadline
        self._waiters[number] = waiter
        heappush(self._heap, (deadline, number))
        if deadline < self._timer_at:
            self._set_timer(deadline)
        return number

    def remove(self, number: int) -> None:
        """Remove the deadline of a waiter that was admitted, left or expired."""
        waiters = self._waiters
        waiters.pop(number, None)
        if not waiters:
            self._heap.clear()
            self._set_timer(inf)
        elif len(self._heap) > 2 * len(waiters) + MAX_OLD:
            self._heap = [entry for entry in self._heap if entry[1] in waiters]
            heapify(self._heap)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at < inf:
            self._timer = self._loop.call_at(at / SECOND, self._on_timer)

    def _on_timer(self) -> None:
        # The clock may be a nanosecond behind the timer.
        due = max(self._timer_at, clock_ns(self._loop))
        try:
            while self._heap and self._heap[0][0] <= due:
                _, number = heappop(self._heap)
                waiter = self._waiters.pop(number, None)
                if waiter is not None:
                    self._expire(waiter)
        finally:
            self._set_next_timer()

    def _set_next_timer(self) -> None:
        heap = self._heap
        while heap and heap[0][1] not in self._waiters:
            heappop(heap)
        self._set_timer(heap[0][0] if heap else inf)
