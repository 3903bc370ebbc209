"""A real browser for the live page: the system's Chromium, and what went wrong in a page."""

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright

from rustygate.core.usage_rows import UsageQuery
from rustygate.dashboard.pages import Dashboard
from rustygate.system.shared_counts import lone_count

# The names under which systems install it.
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

NO_CHROMIUM = "no Chromium is installed: apt-get install chromium"

LOOPBACK = "127.0.0.1"

_AXE = files("axe_playwright_python").joinpath("axe.min.js")


def find_chromium() -> str | None:
    """The system's Chromium. None is downloaded."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


@asynccontextmanager
async def running_chromium(program: str) -> AsyncIterator[Browser]:
    """A browser without windows."""
    async with async_playwright() as playwright:
        # Chromium's sandbox does not run as root, as in most containers.
        browser = await playwright.chromium.launch(
            executable_path=program, chromium_sandbox=os.geteuid() != 0
        )
        yield browser
        await browser.close()


class Visit:
    """A page in a browser context of its own. It remembers all that must not happen.

    Attributes:
        faults: errors of scripts and of the console, where violations of the policy are reported.
        requests: the URLs of all requests.
    """

    def __init__(self, context: BrowserContext, page: Page, url: str) -> None:
        self.context = context
        self.page = page
        self.url = url
        self.faults: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._record_message)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    @classmethod
    async def open(cls, browser: Browser, url: str, **options: Any) -> "Visit":
        """Open a URL; options are those of the browser context."""
        context = await browser.new_context(**options)
        visit = cls(context, await context.new_page(), url)
        await visit.page.goto(url, wait_until="commit")
        return visit

    def _record_message(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.faults.append(message.text)

    def forget(self) -> None:
        """Forget what a test has provoked."""
        self.faults.clear()
        self.requests.clear()

    async def check(self) -> None:
        """Check that nothing went wrong, and that the page asked nobody but the gate."""
        assert self.faults == []
        origin = self.url.removesuffix("/gate")
        strangers = [url for url in self.requests if not url.startswith(f"{origin}/gate")]
        assert strangers == []

    def section(self, name: str) -> Locator:
        return self.page.locator(f"section#{name}")

    def rows(self, name: str) -> Locator:
        """The rows of the table in an element."""
        return self.page.locator(f"#{name} tbody tr")

    def row(self, name: str, text: str) -> Locator:
        """The row of a table whose heading is this text."""
        heading = self.page.get_by_role("rowheader", name=text, exact=True)
        return self.rows(name).filter(has=heading)

    async def column(self, name: str, label: str) -> list[str]:
        """The texts in a column of a table, from top to bottom."""
        labels = await self.page.locator(f"#{name} thead th").all_inner_texts()
        place = [text.strip(" ↑↓") for text in labels].index(label)
        cells = self.rows(name).locator(f"xpath=./*[{place + 1}]")
        return await cells.all_text_contents()

    async def focused(self) -> str:
        """The text of the element that has the focus."""
        text: str = await self.page.evaluate("document.activeElement.textContent.trim()")
        return text

    async def accessibility_faults(self) -> list[str]:
        """What axe-core finds: the WCAG rules and good practice."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(_AXE.read_text())
        found = await self.page.evaluate("axe.run()")
        return [
            f"{rule['id']}: {node['html'][:150]} {node['failureSummary']}"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]


@asynccontextmanager
async def served(handlers: Mapping[str, Any]) -> AsyncIterator[str]:
    """A server with these pages; the value is its URL."""
    application = web.Application()
    for path, handler in handlers.items():
        application.router.add_get(path, handler)
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, shutdown_timeout=0
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def served_dashboard(build_state: Callable[[], dict[str, Any]]) -> AsyncIterator[str]:
    """The live page, showing states of the test's choice; the value is its URL."""

    dashboard = Dashboard(_Sources(build_state), 100, lone_count())
    async with served(dashboard.pages) as url:
        try:
            yield f"{url}/gate"
        finally:
            dashboard.close()


@dataclass
class _Sources:
    """The state of the test's choice, and no usage."""

    build_state: Callable[[], dict[str, Any]]

    async def state_text(self) -> str:
        return json.dumps(self.build_state())

    async def usage_text(self, query: UsageQuery) -> str:
        return "[]"

    async def budgets_text(self) -> str:
        return "[]"
