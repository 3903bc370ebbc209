"""`GET /gate/usage`: the rows of the usage record as JSON, as `rustygate usage` reports them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import time_ns

import msgspec
from aiohttp import web

from rustygate.aiohttp_internals.response import OwnResponse
from rustygate.core.periods import date_of
from rustygate.core.usage_rows import (
    Grouped,
    UsageQuery,
    UsageQueryError,
    as_rows,
    parse_query,
)
from rustygate.dashboard.headers import STATE_HEADERS
from rustygate.errors import BadRequest, Refusal, UsageUnreadable
from rustygate.telemetry.usage.store import UsageStoreError

PARAMETERS = ("since", "until", "by", "client")

# About 10 MB of JSON. A week of 200 clients with 20 models each has 28,000 rows.
ROWS_LIMIT = 50_000


# The totals of a report, grouped. Raises UsageStoreError.
ReadUsage = Callable[[UsageQuery], Awaitable[Grouped]]


class UsagePage:
    """Reports usage."""

    def __init__(self, read: ReadUsage) -> None:
        self._read = read

    async def get(self, request: web.Request) -> web.Response:
        """The rows, or an error that says what was expected."""
        try:
            query = _query(request)
            rows = await self._rows(query)
        except Refusal as refusal:
            return refusal.response(STATE_HEADERS.items())
        # In the event loop, this could take a tenth of a second.
        text = await asyncio.to_thread(_encode, rows, query)
        return OwnResponse(text=text, headers=STATE_HEADERS, content_type="application/json")

    async def _rows(self, query: UsageQuery) -> Grouped:
        try:
            rows = await self._read(query)
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


def _query(request: web.Request) -> UsageQuery:
    unknown = [name for name in request.query if name not in PARAMETERS]
    if unknown:
        shown = ascii(unknown[0][:40])
        raise BadRequest(f"Unknown parameter {shown}: expected {', '.join(PARAMETERS)}.")
    asked = {name: request.query[name] for name in PARAMETERS if name in request.query}
    try:
        return replace(parse_query(date_of(time_ns()), **asked), rows_limit=ROWS_LIMIT)
    except UsageQueryError as error:
        raise BadRequest(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
