"""The rows of the usage record as JSON, as `rustygate usage` reports them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec

from rustygate.core.usage_rows import Grouped, UsageQuery, as_rows
from rustygate.errors import BadRequest, UsageUnreadable
from rustygate.telemetry.usage.store import UsageStoreError

# About 10 MB of JSON. A week of 200 clients with 20 models each has 28,000 rows.
ROWS_LIMIT = 50_000

# The totals of a report, grouped. Raises UsageStoreError.
ReadUsage = Callable[[UsageQuery], Awaitable[Grouped]]


async def usage_report(read: ReadUsage, query: UsageQuery) -> str:
    """The rows of a report. Raises a refusal if they cannot be read or are too many."""
    rows = await _rows(read, replace(query, rows_limit=ROWS_LIMIT))
    # In the event loop, this could take a tenth of a second.
    return await asyncio.to_thread(_encode, rows, query)


async def _rows(read: ReadUsage, query: UsageQuery) -> Grouped:
    try:
        rows = await read(query)
    except UsageStoreError as error:
        raise UsageUnreadable(str(error)) from error
    if len(rows) > ROWS_LIMIT:
        raise BadRequest(
            f"The report has more than {ROWS_LIMIT} rows: ask for fewer days with since and "
            "until, for one client, or group by fewer columns."
        )
    return rows


def _encode(rows: Grouped, query: UsageQuery) -> str:
    return msgspec.json.encode(as_rows(rows, query.by)).decode()
