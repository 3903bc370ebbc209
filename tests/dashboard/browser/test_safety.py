"""The live page among others: who sees it, what runs in it, and what happens without its gate."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import expect

from rustygate.dashboard.static_files import static_pages
from tests.dashboard.browser.conftest import OpenPage, StartGate
from tests.support.browser import Visit, served
from tests.support.http import chat
from tests.support.waiting import until

Live = Callable[..., Awaitable[Visit]]

KEY = "admin-canary-77d1"


async def test_page_follows_a_gate(start_gate: StartGate, open_page: OpenPage) -> None:
    gate = await start_gate()
    visit = await open_page(f"{gate.url}/gate")
    await expect(visit.section("recent").locator(".empty")).to_be_visible()
    await gate.request(chat("X-RustyGate-Client: search"))
    await expect(visit.rows("recent")).to_have_count(1)
    assert await visit.column("recent", "Client") == ["search"]
    await expect(visit.row("lanes", "gpt-4o")).to_contain_text("open")


async def test_page_reconnects_after_the_gate_restarts(
    start_gate: StartGate, open_page: OpenPage
) -> None:
    gate = await start_gate()
    visit = await open_page(f"{gate.url}/gate")
    page = visit.page
    await gate.request(chat())
    await expect(visit.rows("recent")).to_have_count(1)
    await gate.close()
    await expect(page.locator("#live")).to_have_text(re.compile("connection lost .* reconnecting"))
    await expect(page).to_have_title("Connection lost, RustyGate")
    await expect(page.get_by_role("status")).to_have_text("Connection lost, reconnecting.")
    # The last numbers stay, but greyed.
    await expect(visit.rows("recent")).to_have_count(1)
    opacity = "Number(getComputedStyle(document.querySelector('main')).opacity)"
    assert await page.evaluate(opacity) < 0.6
    assert all("ERR_CONN" in fault or "ERR_INCOMPLETE" in fault for fault in visit.faults)
    visit.faults.clear()
    await start_gate(PORT=gate.url.rpartition(":")[2])
    await expect(page.locator("#live")).to_have_text(re.compile("live"))
    await expect(page.get_by_role("status")).to_have_text("Connected again. The gate is serving.")
    await expect(visit.rows("recent")).to_have_count(0)
    assert await page.evaluate(opacity) == 1
    visit.faults[:] = [fault for fault in visit.faults if "ERR_CONNECTION_REFUSED" not in fault]


async def test_silent_connection_is_replaced(state: dict[str, Any], open_page: OpenPage) -> None:
    async def send_one_state(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(f"data: {json.dumps(state)}\n\n".encode())
        await asyncio.Event().wait()
        return stream

    pages = {**dict(static_pages("/gate")), "/gate/events": send_one_state}
    async with served(pages) as url:
        visit = await open_page("about:blank")
        await visit.page.clock.install(time=0)
        await visit.page.clock.pause_at(1000)
        await visit.page.goto(f"{url}/gate")
        await expect(visit.page.locator("#live")).to_have_text(re.compile("live"))
        announced = visit.page.get_by_role("status")
        await visit.page.clock.fast_forward(5000)
        await expect(announced).to_have_text("")
        await visit.page.clock.fast_forward(2000)
        await expect(announced).to_have_text("Connected again. The gate is serving.")
        assert sum(request.endswith("/events") for request in visit.requests) == 2
        await visit.page.close()
    visit.forget()


async def test_page_reloads_itself_after_an_upgrade(live: Live, state: dict[str, Any]) -> None:
    visit = await live()
    await visit.page.evaluate("window.isOld = true")
    # The old page may show the new version before it is gone.
    async with visit.page.expect_event("load"):
        state.update(version="1.2.4")
    await expect(visit.page.locator("#about")).to_contain_text("version 1.2.4")
    assert await visit.page.evaluate("window.isOld") is None


async def test_without_the_key_a_browser_gets_the_401_and_no_more(
    start_gate: StartGate, open_page: OpenPage
) -> None:
    gate = await start_gate(ADMIN_KEY=KEY)
    names = [file.name for file in files("rustygate.dashboard").joinpath("static").iterdir()]
    visit = await open_page("about:blank")
    for path in ["/gate", "/gate/state", "/gate/events", *(f"/gate/{name}" for name in names)]:
        response = await visit.context.request.get(f"{gate.url}{path}")
        if path == "/gate/index.html":
            assert response.status == 404
        else:
            assert response.status == 401
            assert (await response.json())["error"]["code"] == "invalid_admin_key"


async def test_key_as_password_opens_the_page(start_gate: StartGate, open_page: OpenPage) -> None:
    gate = await start_gate(ADMIN_KEY=KEY)
    visit = await open_page(
        f"{gate.url}/gate", http_credentials={"username": "any", "password": KEY}
    )
    await expect(visit.page.locator("#state")).to_have_text("serving")
    await expect(visit.page.locator("#live")).to_have_text(re.compile("live"))
    assert KEY not in await visit.page.content()
    # The browser is asked for the key by the first 401.
    visit.faults[:] = [fault for fault in visit.faults if "401" not in fault]


ATTEMPTS = {
    "fetch": "fetch(url + '/state').then(() => 'read')",
    "opaque fetch": "fetch(url + '/state', {mode: 'no-cors'}).then(() => 'read')",
    "events": """new Promise((resolve, reject) => {
        const source = new EventSource(url + '/events');
        source.onopen = () => resolve('read');
        source.onerror = () => (source.close(), reject());
    })""",
    "script": """new Promise((resolve, reject) => {
        const script = document.body.appendChild(document.createElement('script'));
        Object.assign(script, {onload: () => resolve('read'), onerror: reject});
        script.src = url + '/app.js';
    })""",
    "image": """new Promise((resolve, reject) => {
        const image = new Image();
        Object.assign(image, {onload: () => resolve('read'), onerror: reject});
        image.src = url + '/icon.svg';
    })""",
}


@pytest.fixture
def foreign_page() -> dict[str, Any]:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>foreign</title>", content_type="text/html")

    return {"/": page, "/favicon.ico": page}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
async def test_foreign_page_reads_nothing(
    start_gate: StartGate, open_page: OpenPage, foreign_page: dict[str, Any], attempt: str
) -> None:
    gate = await start_gate()
    async with served(foreign_page) as url:
        visit = await open_page(url)
        script = f"(url) => {attempt}.catch(() => 'blocked')"
        assert await visit.page.evaluate(script, f"{gate.url}/gate") == "blocked"
        await visit.page.close()
    visit.forget()


async def test_foreign_page_cannot_frame_the_live_page(
    start_gate: StartGate, open_page: OpenPage, foreign_page: dict[str, Any]
) -> None:
    gate = await start_gate()
    async with served(foreign_page) as url:
        visit = await open_page(url)
        frame = "(url) => document.body.appendChild(document.createElement('iframe')).src = url"
        await visit.page.evaluate(frame, f"{gate.url}/gate")
        await until(lambda: any("frame-ancestors" in fault for fault in visit.faults))
        assert await visit.page.frame_locator("iframe").locator("header").count() == 0
        await visit.page.close()
    visit.forget()


async def test_policy_stops_scripts_and_styles_that_slip_in(live: Live) -> None:
    visit = await live()
    inject = """() => {
        const script = document.createElement('script');
        script.textContent = "document.title = 'owned'";
        document.body.innerHTML += "<p id=slipped style='color: red' onclick='1'>text</p>";
        document.body.append(script);
        return [document.title, getComputedStyle(document.querySelector('#slipped')).color];
    }"""
    title, color = await visit.page.evaluate(inject)
    assert title != "owned"
    assert color != "rgb(255, 0, 0)"
    assert any("script-src" in fault for fault in visit.faults)
    assert any("style-src" in fault for fault in visit.faults)
    visit.forget()
