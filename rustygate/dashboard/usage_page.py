"""`GET /gate/usage`: the rows of the usage record as JSON."""

from collections.abc import Awaitable, Callable
from time import time_ns

from aiohttp import web

from rustygate.aiohttp_internals.response import OwnResponse
from rustygate.core.periods import date_of
from rustygate.core.usage_rows import UsageQuery, UsageQueryError, parse_query
from rustygate.dashboard.headers import STATE_HEADERS
from rustygate.errors import BadRequest, Refusal

PARAMETERS = ("since", "until", "by", "client")


class UsagePage:
    """Reports usage.

    Args:
        report: the rows as JSON. Raises a refusal if they cannot be read.
    """

    def __init__(self, report: Callable[[UsageQuery], Awaitable[str]]) -> None:
        self._report = report

    async def get(self, request: web.Request) -> web.Response:
        """The rows, or an error that says what was expected."""
        try:
            text = await self._report(_query(request))
        except Refusal as refusal:
            return refusal.response(STATE_HEADERS.items())
        return OwnResponse(text=text, headers=STATE_HEADERS, content_type="application/json")


def _query(request: web.Request) -> UsageQuery:
    unknown = [name for name in request.query if name not in PARAMETERS]
    if unknown:
        shown = ascii(unknown[0][:40])
        raise BadRequest(f"Unknown parameter {shown}: expected {', '.join(PARAMETERS)}.")
    asked = {name: request.query[name] for name in PARAMETERS if name in request.query}
    try:
        return parse_query(date_of(time_ns()), **asked)
    except UsageQueryError as error:
        raise BadRequest(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
