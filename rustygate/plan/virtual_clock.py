"""An event loop with a virtual clock, which jumps to the next timer instead of waiting for it.

On this loop the gate's own code runs through a day in seconds, for `rustygate plan`, and with
exact times, for the tests. It does no I/O: it is only for coroutines that wait for timers and for
each other.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop
from typing import Any, TypeVar

T = TypeVar("T")

# Timers that are due within this time fire together, as on the usual loop.
_RESOLUTION_S = 1e-9


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """The event loop; `time` is in seconds, as always."""

    # Private attributes of asyncio's loop, which typeshed does not declare.
    _ready: "deque[asyncio.Handle]"
    _scheduled: list[asyncio.TimerHandle]
    _timer_cancelled_count: int

    _now = 1000.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        # Like `BaseEventLoop._run_once`, without polling the selector.
        timers, ready = self._scheduled, self._ready
        while timers and timers[0].cancelled():
            self._take_timer()
        if not ready:
            if not timers:
                raise RuntimeError("deadlock: all tasks are waiting, and no timer is set")
            self._now = max(self._now, timers[0].when())
        while timers and timers[0].when() <= self._now + _RESOLUTION_S:
            self._take_timer()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _take_timer(self) -> None:
        timer = heappop(self._scheduled)
        timer._scheduled = False  # type: ignore[attr-defined]
        if timer.cancelled():
            self._timer_cancelled_count -= 1
        else:
            self._ready.append(timer)


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function to completion on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(main())
