"""Warns about refused requests, at most once a minute: how many, and why.

Each refusal also has its exchange's line. Those are easily overlooked, and switched off at `warn`.
"""

import asyncio
from collections import Counter

from loguru import logger

from rustygate.core.plural import counted

# How long refusals are counted before they are logged.
INTERVAL_S = 60.0


class RefusalLog:
    """Counts refusals by reason from the first one on, and logs them after `INTERVAL_S`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<RefusalLog {dict(self._counts)}>"

    def count(self, reason: str) -> None:
        """Count a refusal."""
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL_S, self.flush)
        self._counts[reason] += 1

    def flush(self) -> None:
        """Log the refusals since the last time, if there are any."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        counts, self._counts = self._counts, Counter()
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        requests = counted(counts.total(), "request")
        logger.warning("refused {} within {:g} s: {}", requests, INTERVAL_S, reasons)
