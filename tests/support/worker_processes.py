"""A gate with several workers as processes; see `tests.support.gates`."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.gates import Gates, RunningGate
from tests.support.waiting import SOON_S


class GateWithWorkers(Gates):
    """A gate with several workers."""

    def __init__(
        self,
        directory: Path,
        upstream_url: str | None = None,
        workers: int = 3,
        **settings: object,
    ) -> None:
        super().__init__(directory, upstream_url)
        self._settings = settings | {"WORKERS": workers}

    async def start(self) -> None:
        """Start the gate, and wait until its workers serve."""
        await self.start_upstream()
        await self.launch().start()
        self.watch_machine()

    def launch(self) -> RunningGate:
        """Start the process of the gate, or of one that replaces it."""
        return self.run_gate(**self._settings)

    @property
    def gate(self) -> RunningGate:
        return self.gates[-1]

    async def workers(self) -> list[dict[str, Any]]:
        """Those of /gate/state, which one of them answers."""
        workers: list[dict[str, Any]] = json.loads(await self.page(self.gate, "/gate/state"))[
            "workers"
        ]
        return workers

    async def signal_worker(self, number: int, which: signal.Signals) -> int:
        """Send a signal to one of the workers; returns its process id."""
        pid: int = (await self.workers())[number]["pid"]
        os.kill(pid, which)
        return pid

    async def until_serving(self, limit_s: float = SOON_S) -> None:
        """Wait until all workers serve."""
        async with asyncio.timeout(limit_s):
            while {each["state"] for each in await self.workers()} != {"serving"}:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running_workers(
    directory: Path, upstream_url: str | None = None, workers: int = 3, **settings: Any
) -> AsyncIterator[GateWithWorkers]:
    """A gate whose workers serve."""
    gate = GateWithWorkers(directory, upstream_url, workers, **settings)
    try:
        await gate.start()
        yield gate
    finally:
        await gate.close()
