"""The pages under `/gate`: the live page, its files, and the state as JSON and as events,
the usage record and the clients' budgets."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from rustygate.access.admin import Page
from rustygate.admission.client_budgets import BudgetRow
from rustygate.aiohttp_internals.response import OwnResponse
from rustygate.dashboard.events import Events
from rustygate.dashboard.headers import STATE_HEADERS
from rustygate.dashboard.static_files import static_pages
from rustygate.dashboard.usage_page import ReadUsage, UsagePage

PREFIX = "/gate"


class Dashboard:
    """The live page. `close` ends its streams.

    Attributes:
        pages: the handler of each path.
        events: its viewers.
    """

    def __init__(
        self,
        build_state: Callable[[], Awaitable[dict[str, Any]]],
        read_usage: ReadUsage,
        read_budgets: Callable[[], list[BudgetRow]],
        connections: int,
    ) -> None:
        """`connections`: the gate's connection limit."""
        self._build_state = build_state
        self._read_budgets = read_budgets
        self.events = Events(self._state_text, connections)
        self.pages: dict[str, Page] = {
            **dict(static_pages(PREFIX)),
            f"{PREFIX}/state": self._show_state,
            f"{PREFIX}/events": self.events.get,
            f"{PREFIX}/usage": UsagePage(read_usage).get,
            f"{PREFIX}/budgets": self._show_budgets,
        }

    def close(self) -> None:
        """End the streams of all viewers."""
        self.events.close()

    async def _show_state(self, request: web.Request) -> web.Response:
        return _json_response(await self._state_text())

    async def _show_budgets(self, request: web.Request) -> web.Response:
        return _json_response(msgspec.json.encode(self._read_budgets()).decode())

    async def _state_text(self) -> str:
        return msgspec.json.encode(await self._build_state()).decode()


def _json_response(text: str) -> web.Response:
    return OwnResponse(text=text, headers=STATE_HEADERS, content_type="application/json")
