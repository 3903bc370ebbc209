"""The file that keeps a gate's levels over restarts: `levels.json` in DATA_DIR.

It is written every few seconds while levels change, and at shutdown: as a new file that replaces
the old one. A file that cannot be read is renamed, and never keeps the gate from starting. If the
disk cannot be written to, one warning is logged until writing works again.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from time import time_ns

import msgspec
from loguru import logger
from msgspec.structs import replace

from rustygate.admission.client_budgets import Spending
from rustygate.admission.gate import Gate
from rustygate.core.saved_levels import FILE_NAME, VERSION, SavedLevels, decode_levels
from rustygate.system.data_dir import put_aside

# A gate that is killed loses at most the changes of this time.
INTERVAL_S = 3.0


class LevelsFile:
    """Keeps the levels of one gate: `load` them once, `start` to save them, and `close`."""

    def __init__(
        self, directory: Path, gate: Gate, spending: Spending, clock: Callable[[], int] = time_ns
    ) -> None:
        self._path = directory / FILE_NAME
        self._gate = gate
        self._spending = spending
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        # The content of the file, except for its time.
        self._saved: SavedLevels | None = None
        self._failing = False
        self._writing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<LevelsFile {self._path}>"

    def load(self) -> None:
        """Restore the levels in the file, if it exists."""
        now = self._clock()
        try:
            saved = decode_levels(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a file of levels"
            self._put_aside(now, reason or "cannot be read")
            return
        if isinstance(saved, int):
            self._put_aside(now, f"version {saved}; this gate reads version {VERSION}")
        else:
            self._gate.restore_levels(saved, now)
            self._spending.restore_unrecorded(saved.unrecorded)

    def _put_aside(self, now: int, reason: str) -> None:
        try:
            place = f"renamed it to {put_aside(self._path, now)}"
        except OSError as error:
            place = f"could not rename it ({error.strerror})"
        logger.warning("cannot use {} ({}): {}, and limits start full", self._path, reason, place)

    def start(self) -> None:
        """Save the levels from now on."""
        self._timer = self._loop.call_later(INTERVAL_S, self._save)

    async def close(self) -> None:
        """Save the levels once more, and stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        self._write(self._levels())

    def _save(self) -> None:
        self.start()
        levels = self._levels()
        is_writing = self._writing is not None and not self._writing.done()
        if not is_writing and replace(levels, saved_at=0) != self._saved:
            self._writing = self._loop.run_in_executor(None, self._write, levels)

    def _levels(self) -> SavedLevels:
        levels = self._gate.save_levels(self._clock())
        return replace(levels, unrecorded=self._spending.save_unrecorded())

    def _write(self, levels: SavedLevels) -> None:
        """Replace the file. Runs in a thread, except at shutdown."""
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode(levels))
            os.replace(new, self._path)
        except OSError as error:
            if not self._failing:
                logger.warning("cannot save levels to {}: {}", self._path, error.strerror)
            self._failing = True
            return
        self._saved = replace(levels, saved_at=0)
        if self._failing:
            logger.info("levels are saved to {} again", self._path)
        self._failing = False
