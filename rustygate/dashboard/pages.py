"""The pages under `/gate`: the live page, its files, and the state as JSON and as events,
the usage record and the clients' budgets."""

from typing import Protocol

from aiohttp import web

from rustygate.access.admin import Page
from rustygate.aiohttp_internals.response import OwnResponse
from rustygate.core.usage_rows import UsageQuery
from rustygate.dashboard.events import Events
from rustygate.dashboard.headers import STATE_HEADERS
from rustygate.dashboard.static_files import static_pages
from rustygate.dashboard.usage_page import UsagePage
from rustygate.system.shared_counts import Count

PREFIX = "/gate"


class Sources(Protocol):
    """What the pages show, as JSON."""

    async def state_text(self) -> str: ...

    async def usage_text(self, query: UsageQuery) -> str: ...

    async def budgets_text(self) -> str: ...


class Dashboard:
    """The live page. `close` ends its streams.

    Attributes:
        pages: the handler of each path.
        events: its viewers.
    """

    def __init__(self, sources: Sources, connections: int, viewers: Count) -> None:
        """See `Events`."""
        self._sources = sources
        self.events = Events(sources.state_text, connections, viewers)
        self.pages: dict[str, Page] = {
            **dict(static_pages(PREFIX)),
            f"{PREFIX}/state": self._show_state,
            f"{PREFIX}/events": self.events.get,
            f"{PREFIX}/usage": UsagePage(sources.usage_text).get,
            f"{PREFIX}/budgets": self._show_budgets,
        }

    def close(self) -> None:
        """End the streams of all viewers."""
        self.events.close()

    async def _show_state(self, request: web.Request) -> web.Response:
        return _json_response(await self._sources.state_text())

    async def _show_budgets(self, request: web.Request) -> web.Response:
        return _json_response(await self._sources.budgets_text())


def _json_response(text: str) -> web.Response:
    return OwnResponse(text=text, headers=STATE_HEADERS, content_type="application/json")
