"""The stores of the usage record, and their errors.

    UsageStoreError          temporary; the same batch may be added later
     +-- UsageStoreUnusable  permanent

Messages are short reasons and never contain a password.
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
    """The store has a record that this version must not change."""


class UsageStore(Protocol):
    """Keeps totals by day, client and model."""

    async def add(self, batch: Batch) -> None:
        """Add totals to the stored ones, all of them or none. Raises UsageStoreError.

        After an error, the batch may have been added or not. The caller retries the same batch
        until it succeeds, without another in between; it is added once.
        """
        ...

    async def rows_by(self, query: UsageQuery) -> Grouped:
        """The totals of a report, grouped. Raises UsageStoreError."""
        ...

    async def close(self) -> None:
        """Release all resources."""
        ...


def first_day_kept(batch: Batch) -> str:
    """The oldest day to keep, by the newest day of a batch."""
    newest = max(key.day for key in batch)
    return (date.fromisoformat(newest) - timedelta(days=KEPT_DAYS)).isoformat()
