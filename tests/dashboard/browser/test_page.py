"""What the live page shows, in a real browser."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import expect

from tests.support.browser import Visit
from tests.support.page_states import DASH, NASTY_NAMES, client, exchange, lane, waiter, worker

Live = Callable[..., Awaitable[Visit]]
State = dict[str, Any]


async def test_head_shows_state_and_vital_numbers(live: Live) -> None:
    visit = await live()
    page = visit.page
    await expect(page).to_have_title("(34) RustyGate")
    await expect(page.locator("#state")).to_have_text("serving")
    await expect(page.locator("#about")).to_have_text("version 1.2.3, up 3 h 12 min")
    vitals = await page.locator(".vital .figure").all_inner_texts()
    assert vitals == ["12", "34", "9.5", "1 min 15 s", "0", "1"]
    await expect(page.locator(".limit")).to_contain_text("5 / 20")
    await expect(page.locator("#workers")).to_be_hidden()


async def test_workers_are_counted_and_explained_if_there_are_several(
    live: Live, state: State
) -> None:
    state["workers"] = [worker(1), worker(2, in_flight=1, restarts=3)]
    visit = await live()
    await expect(visit.page.locator("#workers")).to_have_text("2 workers")
    await visit.page.locator("#workers").focus()
    await expect(visit.page.locator("#tip .tip-value")).to_have_text(
        "1: serving, 4 in flight, 1,200 connections, replaced 0 times, process 4001\n"
        "2: serving, 1 in flight, 1,200 connections, replaced 3 times, process 4002"
    )


async def test_lane_row_shows_levels_forecasts_and_pauses(live: Live) -> None:
    visit = await live()
    texts = await visit.row("lanes", "gpt-5-mini").locator("th, td").all_inner_texts()
    assert texts == [
        "gpt-5-mini", "paused 3.0 s", "125 / 500", "1.5M / 2M", "4 s ago", "30 req, 12K tok",
        "7", "250 ms", "2.5 s", "1 min 01 s", "4.0/s",
    ]  # fmt: skip
    fills = visit.row("lanes", "gpt-5-mini").locator(".meter .fill")
    assert [await fills.nth(at).get_attribute("width") for at in (0, 1)] == ["25", "75"]
    await expect(visit.row("lanes", "gpt-5-mini").locator(".wrong")).to_have_text("paused 3.0 s")
    await expect(visit.row("lanes", "gpt-5").locator(".wrong")).to_have_count(0)


async def test_client_row_shows_share_against_its_due(live: Live, state: State) -> None:
    state["clients"][0]["budget_left"] = {"tokens_per_day": 1_995_000, "usd_per_month": 41.2}
    visit = await live()
    texts = await visit.row("clients", "search").locator("th, td").all_inner_texts()
    assert texts == [
        "search", "2", "default", "3", "1", "30%", "25%", "1.23M", "$1.50",
        "2M tok/day, $41.20/month",
    ]  # fmt: skip
    mark = visit.row("clients", "search").locator(".mark")
    assert await mark.get_attribute("x") == "24.6"
    # A client that waits and gets far less than its due is marked.
    await expect(visit.row("clients", "chat").locator(".wrong")).to_have_text("10%")
    await expect(visit.row("clients", "search").locator(".wrong")).to_have_count(0)


async def test_queue_is_in_the_order_of_admission_with_reasons(live: Live) -> None:
    visit = await live()
    assert await visit.column("queue", "Next") == ["1", "2"]
    assert await visit.column("queue", "Id") == ["aaaa-1", "aaaa-2"]
    assert await visit.column("queue", "Waits for") == ["the lane's tokens", "its turn"]


async def test_exchange_row_splits_its_time_into_phases(live: Live, state: State) -> None:
    refused = {"outcome": "refused", "reason": "queue_timeout", "status": 429}
    unsent = {"first_byte_ms": None, "total_ms": 400, "attempts": 0}
    state["recent"].insert(0, exchange(3, **refused, **unsent))
    visit = await live()
    assert await visit.column("recent", "Queued") == ["400 ms"] * 3
    assert await visit.column("recent", "Upstream") == ["0 s", "200 ms", "200 ms"]
    assert await visit.column("recent", "Body") == [DASH, "2.0 s", "2.0 s"]
    await expect(visit.page.locator("#recent thead")).to_contain_text("0 to 3 s")
    phases = visit.rows("recent").nth(1).locator(".timeline rect")
    widths = [await phases.nth(at).get_attribute("width") for at in range(3)]
    starts = [await phases.nth(at).get_attribute("x") for at in range(3)]
    assert (starts, widths) == (["0", "13.3", "20"], ["13.3", "6.7", "66.7"])
    await expect(visit.page.locator("#recent .wrong")).to_have_text("429 queue timeout")


async def test_counts_and_usage_are_shown(live: Live) -> None:
    visit = await live()
    assert await visit.column("refusals", "Count") == ["3"]
    assert await visit.column("verdicts", "Count") == ["2"]
    assert await visit.column("retries", "Count") == ["2"]
    assert await visit.column("usage", "Day") == ["2026-11-28", "2026-11-27"]
    assert await visit.column("usage", "Cost") == ["unknown", "$2.50"]
    total = await visit.page.locator("#usage tfoot").locator("th, td").all_inner_texts()
    assert total == [
        "total", "2,000", "20", "4.5M", "4M", "1M", "500K", "0", "3 min 00 s", "unknown",
    ]  # fmt: skip


async def test_gate_without_work_says_so_in_words(live: Live, state: State) -> None:
    nothing: State = {"lanes": [], "clients": [], "queue": [], "recent": [], "usage": []}
    state.update(nothing, refusals={}, verdicts={}, retries={}, waiting=0)
    visit = await live()
    await expect(visit.page).to_have_title("RustyGate")
    assert await visit.page.locator(".empty:visible").all_inner_texts() == [
        "No lanes yet. A model gets a lane with its first response.",
        "No clients yet. A client appears with its first request.",
        "No requests are waiting.",
        "No exchanges have ended yet.",
        "No requests were refused.",
        "No 429s from upstream.",
        "No requests were sent again.",
        "No usage yet.",
    ]


async def test_page_survives_a_state_without_most_keys(live: Live, state: State) -> None:
    state.clear()
    state.update(state="serving", lanes=[{"model": "gpt-5"}], clients=[{"client": "chat"}])
    visit = await live()
    await expect(visit.row("lanes", "gpt-5")).to_contain_text("no limit")
    await expect(visit.row("clients", "chat")).to_contain_text(DASH)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"state": "draining"}, "draining"),
        ({"upstream_429_5m": 4}, "429s in 5 min"),
        ({"group": {"state": "alone", "members": 3}}, "Members"),
        ({"workers": [worker(1), worker(2, state="silent")]}, "1 of 2 workers serve"),
    ],
    ids=["draining", "429s", "alone", "silent worker"],
)
async def test_trouble_stands_out(live: Live, state: State, changes: State, wrong: str) -> None:
    visit = await live()
    await expect(visit.page.locator("header .wrong, .vital.wrong")).to_have_count(0)
    state.update(changes)
    await expect(visit.page.locator("header .wrong, .vital.wrong")).to_contain_text(wrong)


async def test_each_second_the_same_nodes_show_new_numbers(live: Live, state: State) -> None:
    visit = await live()
    await visit.page.evaluate("for (const node of document.querySelectorAll('*')) node.old = true")
    state.update(waiting=35, in_flight=13)
    state["lanes"][0]["waiting"] = 8
    state["recent"] = [exchange(3), exchange(2, client="chat")]
    await expect(visit.page).to_have_title("(35) RustyGate")
    assert await visit.column("lanes", "Waiting") == ["8", "7"]
    assert await visit.column("recent", "Id") == ["bbbb-3", "bbbb-2"]
    # The row of the exchange that went away is used for the one that came.
    created = "[...document.querySelectorAll('*')].filter(node => !node.old).map(n => n.outerHTML)"
    assert await visit.page.evaluate(created) == []


async def test_equal_state_changes_nothing_in_the_page(live: Live) -> None:
    visit = await live()
    changes = """async () => {
        const seen = [];
        const watch = new MutationObserver((records) => seen.push(...records));
        watch.observe(document, {subtree: true, childList: true, characterData: true});
        const source = new EventSource("gate/events");
        let states = 0;
        await new Promise((resolve) => source.onmessage = () => ++states > 2 && resolve());
        source.close();
        return seen.map((record) => record.target.outerHTML ?? record.target.data);
    }"""
    assert await visit.page.evaluate(changes) == []


@pytest.mark.parametrize("name", NASTY_NAMES.values(), ids=NASTY_NAMES)
async def test_nasty_names_stay_text(live: Live, state: State, name: str) -> None:
    state["lanes"] = [lane(name)]
    state["clients"] = [client(name, priority=name)]
    state["queue"] = [waiter(1, client=name, model=name, blocked_by=name)]
    state["recent"] = [exchange(1, client=name, model=name, path=name, reason=name, outcome=name)]
    state["refusals"] = {name: 1}
    visit = await live()
    for table in ("lanes", "clients"):
        cell = visit.rows(table).locator("th bdi")
        assert await cell.evaluate("node => [node.textContent, node.childElementCount]") == [
            name,
            0,
        ]
        assert await cell.evaluate("node => getComputedStyle(node).unicodeBidi") == "isolate"
    assert await visit.page.locator("main img, main script, main b").count() == 0
    widths = "[document.documentElement.scrollWidth, window.innerWidth]"
    width, window = await visit.page.evaluate(widths)
    assert width == window
    heights = await visit.rows("recent").evaluate_all("rows => rows.map(row => row.offsetHeight)")
    assert max(heights) < 40
    await expect(visit.page).to_have_title("(34) RustyGate")


async def test_row_whose_data_stay_keeps_its_place_while_others_come(
    live: Live, state: State
) -> None:
    visit = await live()
    state["clients"] = [client("zoe"), client("search"), client("anna"), client("chat")]
    await expect(visit.rows("clients")).to_have_count(4)
    assert await visit.column("clients", "Client") == ["anna", "chat", "search", "zoe"]
