"""The exchanges that have not ended, so that a drain can wait for them and abort the late ones."""

import asyncio
from contextlib import suppress
from typing import Any


class RunningExchanges:
    """The tasks in which exchanges run. Such a task may outlive its exchange: it belongs to the
    client's connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"<RunningExchanges {len(self)}>"

    # A frame of the task must not refer to it: if it ends with an exception, that refers to its
    # frames, and the cycle would stay in memory until the next garbage collection.

    def begin(self) -> None:
        """An exchange begins in the current task."""
        self._tasks.add(self._current_task())

    def end(self) -> None:
        """The exchange in the current task has ended."""
        self._tasks.discard(self._current_task())
        if not self._tasks:
            self._emptied.set()

    async def finish(self, timeout_s: float) -> None:
        """Wait for the exchanges; abort those that take longer than `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wait()
        for task in self._tasks:
            task.cancel()
        await self._wait()

    async def _wait(self) -> None:
        while self._tasks:
            self._emptied.clear()
            await self._emptied.wait()

    def _current_task(self) -> "asyncio.Task[Any]":
        # To find the loop, asyncio would ask the system for the id of this process.
        task = asyncio.current_task(self._loop)
        assert task is not None
        return task
