"""Waiting for events. A time limit turns a hang into a failure and affects nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from math import ceil
from typing import Any
from urllib.parse import urlsplit

# Everything a test waits for happens at once, but a busy machine may need longer.
SOON_S = 60.0

# The documented "within a second", plus some time for a busy machine.
A_SECOND_S = 1.5

# How often `until` checks its condition.
_POLL_INTERVAL_S = 0.002

# `within` counts the time in naps of this length. A longer one counts no more.
_NAP_S = 0.02


def soon() -> asyncio.Timeout:
    """A time limit on everything awaited inside."""
    return asyncio.timeout(SOON_S)


@asynccontextmanager
async def within(limit_s: float) -> AsyncIterator[None]:
    """A time limit on what the gate does in this process. Time for which the whole process is
    stalled, by a busy machine, does not count. Raises TimeoutError."""
    async with asyncio.timeout(None) as limit:
        countdown = _Countdown(limit, ceil(limit_s / _NAP_S))
        try:
            yield
        finally:
            countdown.timer.cancel()


class _Countdown:
    """Ends a time limit after this many naps."""

    def __init__(self, limit: asyncio.Timeout, naps: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._naps = naps
        self.timer = self._loop.call_later(_NAP_S, self._on_nap)

    def _on_nap(self) -> None:
        self._naps -= 1
        if self._naps > 0:
            self.timer = self._loop.call_later(_NAP_S, self._on_nap)
        else:
            self._limit.reschedule(self._loop.time())


async def until(condition: Callable[[], bool], limit_s: float = SOON_S) -> None:
    """Wait until `condition()` is true. Raises TimeoutError."""
    async with within(limit_s):
        while not condition():  # noqa: ASYNC110 - no event is set
            await asyncio.sleep(_POLL_INTERVAL_S)


async def until_refused(url: str) -> None:
    """Wait until nobody accepts connections at a URL any more. Raises TimeoutError."""
    address = urlsplit(url)
    async with soon():
        while True:
            try:
                _, writer = await asyncio.open_connection(address.hostname, address.port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(_POLL_INTERVAL_S)


@asynccontextmanager
async def in_background(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine while the block runs."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
