"""The usage record of a gate without DATA_DIR: lost when the gate stops."""

from rustygate.core.usage_rows import Grouped, UsageKey, UsageQuery, UsageTotals
from rustygate.telemetry.usage.selection import select
from rustygate.telemetry.usage.store import Batch, first_day_kept


class MemoryUsageStore:
    """A `UsageStore` in memory."""

    def __init__(self) -> None:
        self._totals: dict[UsageKey, UsageTotals] = {}
        self._first_day = ""

    def __repr__(self) -> str:
        return f"<MemoryUsageStore {len(self._totals)} totals>"

    async def add(self, batch: Batch) -> None:
        for key, totals in batch.items():
            self._totals.setdefault(key, UsageTotals()).add(totals)
        first_day = first_day_kept(batch)
        if first_day > self._first_day:
            self._first_day = first_day
            self._totals = {
                key: totals for key, totals in self._totals.items() if key.day >= first_day
            }

    async def rows_by(self, query: UsageQuery) -> Grouped:
        return select(query, self._totals)

    async def close(self) -> None:
        """Nothing to release."""
