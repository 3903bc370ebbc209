"""The live page under `demo --traffic`: the whole of it, as users see it first."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.dashboard.browser.conftest import OpenPage
from tests.support.process import Process


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's URL of a running demo."""
    directory: Path = tmp_path_factory.mktemp("demo")
    process = Process("demo", "--traffic", cwd=directory, PORT="0", TOKENS_PER_MINUTE="60000")
    # What it prints fits into the pipe for four minutes.
    yield process.wait_for_line(process.stdout, r"in a browser: (\S+)$")[1]
    process.close()


async def test_demo_traffic_fills_every_section(open_page: OpenPage, demo: str) -> None:
    visit = await open_page(demo)
    await expect(visit.page.locator("#state")).to_have_text("serving")
    await expect(visit.page).to_have_title(re.compile(r"^\(\d+\) RustyGate$"))
    await expect(visit.rows("lanes")).to_have_count(2)
    await expect(visit.rows("clients")).to_have_count(3)
    await expect(visit.rows("queue")).to_have_count(20)
    await expect(visit.rows("recent")).to_have_count(50)
    assert await visit.column("lanes", "Model") == ["gpt-4o-mini", "gpt-5"]
    assert await visit.column("clients", "Client") == ["batch", "chat", "hog"]
    assert set(await visit.column("queue", "Client")) <= {"batch", "chat", "hog"}
    assert set(await visit.column("recent", "Result")) == {"200"}
    assert await visit.column("usage", "Day") != []
    for number in await visit.page.locator(".vital .figure").all_inner_texts():
        assert re.fullmatch(r"[\d.,]+( m?s)?", number)
    for share in await visit.column("clients", "Share"):
        assert 5 <= int(share.strip("%")) <= 90
    lengths = await visit.page.locator(".spark .line").evaluate_all(
        "lines => lines.map((line) => line.getAttribute('d').split('L').length)"
    )
    assert lengths == [120] * 4


async def test_page_is_updated_each_second(open_page: OpenPage, demo: str) -> None:
    visit = await open_page(demo)
    times_of_updates = """async () => {
        const live = document.querySelector("#live");
        const times = [];
        await new Promise((resolve) => new MutationObserver(() => {
            if (times.push(performance.now()) === 4) resolve();
        }).observe(live, {childList: true, characterData: true, subtree: true}));
        return times;
    }"""
    times = await visit.page.evaluate(times_of_updates)
    assert times[3] - times[0] >= 1500
    # The first state may come at once, and a busy machine may delay any.
    assert min(times[2] - times[1], times[3] - times[2]) <= 1500


async def test_nothing_jumps_while_numbers_change(open_page: OpenPage, demo: str) -> None:
    visit = await open_page(demo)
    await expect(visit.rows("queue")).to_have_count(20)
    await expect(visit.rows("recent")).to_have_count(50)
    shifts = """async () => {
        const from = performance.now();
        const shifts = [];
        new PerformanceObserver((list) => shifts.push(...list.getEntries()))
            .observe({type: "layout-shift", buffered: true});
        const source = new EventSource("gate/events");
        let states = 0;
        await new Promise((resolve) => source.onmessage = () => ++states > 3 && resolve());
        source.close();
        // The rows of waiters and exchanges move on, as they are meant to.
        return shifts.filter((shift) => shift.startTime > from)
            .flatMap((shift) => shift.sources.map(({node}) => node))
            .filter((node) => !node?.closest("#queue tbody, #recent tbody"))
            .map((node) => node?.outerHTML);
    }"""
    assert await visit.page.evaluate(shifts) == []


async def test_demo_traffic_fits_a_phone(open_page: OpenPage, demo: str) -> None:
    visit = await open_page(demo, viewport={"width": 360, "height": 740}, is_mobile=True)
    await expect(visit.rows("recent")).to_have_count(50)
    widths = "[document.documentElement.scrollWidth, window.innerWidth]"
    assert await visit.page.evaluate(widths) == [360, 360]
