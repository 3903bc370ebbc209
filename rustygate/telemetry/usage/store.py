"""Where the usage record is kept, and what can go wrong with it.

    UsageStoreError          not now; the same batch may be added later
     +-- UsageStoreUnusable  never, as it is

Messages are plain reasons, without a password.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Protocol

from rustygate.core.usage_rows import Grouped, UsageKey, UsageQuery, UsageTotals

Batch = Mapping[UsageKey, UsageTotals]

# Thirteen months: a month can be compared with the same one a year earlier.
KEPT_DAYS = 400


class UsageStoreError(Exception):
    """Usage could not be written or read."""


class UsageStoreUnusable(UsageStoreError):
    """The record there must not be touched."""


class UsageStore(Protocol):
    """Keeps totals by day, client and model."""

    async def add(self, batch: Batch) -> None:
        """Add totals to those that are kept, all of them or none. Raises UsageStoreError.

        It may have counted all the same then, so the same batch is given again until it succeeds,
        and no other in between. It counts once.
        """
        ...

    async def rows_by(self, query: UsageQuery) -> Grouped:
        """The totals of a report, grouped. Raises UsageStoreError."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


def first_day_kept(batch: Batch) -> str:
    """The oldest day to keep, by the newest day of a batch."""
    newest = max(key.day for key in batch)
    return (date.fromisoformat(newest) - timedelta(days=KEPT_DAYS)).isoformat()
