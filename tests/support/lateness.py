"""How late timers and processes are: a measure of how busy the machine is while a test runs."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

_INTERVAL_S = 0.005

# Being late for less time costs nothing.
_NO_STALL_S = 0.01


class Lateness:
    """By how much timers of this process, and other processes, are late while `watch` runs.

    Attributes:
        worst_s: the most that one was late.
        stalled_s: the sum for this process, without what costs nothing.
        others_stalled_s: the same for the other processes.
    """

    def __init__(self) -> None:
        self.worst_s = self.stalled_s = self.others_stalled_s = 0.0
        self._waited_s: dict[int, float] = {}

    async def watch(self, others: Callable[[], Iterable[int]] = tuple) -> None:
        """`others`: the ids of other processes, which may change."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _INTERVAL_S
            await asyncio.sleep(_INTERVAL_S)
            self.stalled_s += self._record(loop.time() - due)
            for pid in others():
                self.others_stalled_s += self._record(self._newly_waited_s(pid))

    def _record(self, late_s: float) -> float:
        """Returns how much of it costs something."""
        self.worst_s = max(self.worst_s, late_s)
        return max(0.0, late_s - _NO_STALL_S)

    def _newly_waited_s(self, pid: int) -> float:
        """How long a process has waited for a processor since the last call for it."""
        waited_s = _waited_s(pid)
        before_s = self._waited_s.get(pid, waited_s)
        self._waited_s[pid] = waited_s
        return waited_s - before_s


def _waited_s(pid: int) -> float:
    """How long a process's main thread has been ready to run without a processor so far; 0 if the
    system does not say, or the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
