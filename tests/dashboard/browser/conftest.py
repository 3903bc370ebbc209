"""One Chromium for all tests of the live page. They share its event loop."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, expect

from rustygate.dashboard import events
from rustygate.simulator import Options, make_app
from tests.support.browser import (
    LOOPBACK,
    NO_CHROMIUM,
    Visit,
    find_chromium,
    running_chromium,
    served_dashboard,
)
from tests.support.gate import WORKERS, Gate, captured_log, check_log
from tests.support.page_states import page_state
from tests.support.waiting import SOON_S

OpenPage = Callable[..., Awaitable[Visit]]
State = dict[str, Any]
StartGate = Callable[..., Awaitable[Gate]]

expect.set_options(timeout=SOON_S * 1000)

_PROGRAM = find_chromium()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests on one event loop, or skip them where there is no Chromium."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            if _PROGRAM is None:
                item.add_marker(pytest.mark.skip(NO_CHROMIUM))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    assert _PROGRAM is not None
    async with running_chromium(_PROGRAM) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(chromium: Browser) -> AsyncIterator[OpenPage]:
    """Opens pages. At the end, each must have run without a fault."""
    visits: list[Visit] = []

    async def open_page(url: str, **options: Any) -> Visit:
        visits.append(await Visit.open(chromium, url, **options))
        return visits[-1]

    yield open_page
    try:
        for visit in visits:
            await visit.check()
    finally:
        for visit in visits:
            await visit.context.close()


@pytest.fixture
def state() -> State:
    """The state that `live` shows. Tests change it."""
    return page_state()


@pytest_asyncio.fixture(loop_scope="session")
async def live(
    state: State, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[OpenPage]:
    """Opens the live page on `state`, and waits until it shows it. New states come faster than
    from a gate."""
    monkeypatch.setattr(events, "INTERVAL_S", 0.2)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(served_dashboard(lambda: state))

        async def live(**options: Any) -> Visit:
            visit = await open_page(url, **options)
            await expect(visit.page.locator("body.loading")).to_have_count(0)
            return visit

        yield live


@pytest_asyncio.fixture(loop_scope="session")
async def start_gate() -> AsyncIterator[StartGate]:
    """Starts gates in front of a simulator, on the browser's event loop."""
    async with AsyncExitStack() as stack:
        log = stack.enter_context(captured_log())
        runner = web.AppRunner(make_app(Options()), shutdown_timeout=0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, LOOPBACK, 0).start()
        upstream = f"http://{LOOPBACK}:{runner.addresses[0][1]}/v1"
        gates: list[Gate] = []

        async def start_gate(**settings: object) -> Gate:
            gates.append(Gate(log, upstream, None, WORKERS, **settings))
            await gates[-1].daemon.start()
            return gates[-1]

        yield start_gate
        for gate in gates:
            await gate.close()
        check_log(log)
