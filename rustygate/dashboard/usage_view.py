"""The usage on the live page: what clients used today, and the last two weeks by day.

It comes from the usage record, which may be on a slow disk or on another machine. So it is read
every few seconds, and only while the page is open. If reading takes long, a state contains what
was read before.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from time import monotonic, time_ns

from rustygate.core.periods import date_of
from rustygate.core.usage_rows import Row, UsageQuery, UsageTotals, amounts, as_rows, total
from rustygate.system.background import start_task
from rustygate.telemetry.usage.recorder import UsageRecorder
from rustygate.telemetry.usage.store import UsageStoreError

DAYS = 14

# The usage of today, and of the days before, is read again when it is older than this.
TODAY_AGE_S, DAYS_AGE_S = 2.0, 60.0

# How long a state may wait for the usage.
WAIT_S = 0.2


class UsageView:
    """The usage that was read last.

    Args:
        wall_clock: the time since 1970, in nanoseconds.

    Attributes:
        today: the totals of today, by the label of the client.
    """

    def __init__(self, usage: UsageRecorder, wall_clock: Callable[[], int] = time_ns) -> None:
        self._usage = usage
        self._wall_clock = wall_clock
        self._day = ""
        self._days: list[Row] = []
        self._today_read = self._days_read = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self.today: Mapping[str, UsageTotals] = {}

    def rows(self) -> list[Row]:
        """The days with usage among the last ones, oldest first."""
        before = [row for row in self._days if row["day"] != self._day]
        if not self.today:
            return before
        return [*before, {"day": self._day, **amounts(total(self.today.values()))}]

    async def refresh(self) -> None:
        """Read again what is out of date; if that takes long, return before it is done."""
        if self._reading is None and monotonic() - self._today_read >= TODAY_AGE_S:
            self._reading = start_task("reading usage", self._read())
        if self._reading is not None:
            await asyncio.wait((self._reading,), timeout=WAIT_S)

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))

    async def _read(self) -> None:
        try:
            await self._read_today()
            if monotonic() - self._days_read >= DAYS_AGE_S:
                await self._read_days()
        except UsageStoreError:
            # The recorder logs this failure.
            pass
        finally:
            self._reading = None

    async def _read_today(self) -> None:
        day = date_of(self._wall_clock()).isoformat()
        grouped = await self._usage.rows_by(UsageQuery(day, day, ("client",)))
        if day != self._day:
            self._days_read = float("-inf")
        self._day, self.today = day, {client: totals for (client,), totals in grouped}
        self._today_read = monotonic()

    async def _read_days(self) -> None:
        today = date_of(self._wall_clock())
        since = (today - timedelta(days=DAYS - 1)).isoformat()
        grouped = await self._usage.rows_by(UsageQuery(since, today.isoformat(), ("day",)))
        self._days = as_rows(grouped, ("day",))
        self._days_read = monotonic()
