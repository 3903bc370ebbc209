"""Reading the live page: with a keyboard, a screen reader, on a phone, in the dark."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.support.browser import Visit
from tests.support.page_states import DASH, client, exchange, lane, waiter

Live = Callable[..., Awaitable[Visit]]
State = dict[str, Any]

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


async def press(page: Page, *keys: str) -> None:
    for key in keys:
        await page.keyboard.press(key)


async def tip(page: Page) -> str:
    """The text of the explanation that is shown."""
    await expect(page.locator("#tip")).to_be_visible()
    return await page.locator("#tip").inner_text()


async def test_tab_goes_through_the_page_in_order(live: Live) -> None:
    visit = await live()
    page = visit.page
    stops = []
    for _ in range(30):
        await page.keyboard.press("Tab")
        stops.append(await visit.focused())
    texts = [text.splitlines()[0] if text else "" for text in stops]
    tables = [
        "Model",
        "Client",
        "Next",
        "Ended",
        "Refused by the gate",
        "429s from upstream",
    ]
    sections = ["Now", "Lanes", "Clients", "Queue", "Exchanges", "Refusals", "Usage"]
    assert texts[:9] == ["Skip to the numbers", "serving", *sections]
    assert [text for text in texts if text in tables] == tables
    # Each vital number and each limit is a stop, each table only one.
    assert len(set(texts)) == 9 + 6 + 1 + 8 + 1


async def test_skip_link_leads_to_the_numbers(live: Live) -> None:
    visit = await live()
    await press(visit.page, "Tab")
    await expect(visit.page.locator(".skip")).to_be_in_viewport()
    await press(visit.page, "Enter", "Tab")
    assert (await visit.focused()).startswith("In flight")


async def test_focus_is_visible(live: Live) -> None:
    visit = await live()
    await press(visit.page, *["Tab"] * 10)
    outline = "getComputedStyle(document.activeElement).outline"
    assert re.search(r"rgb\(.*\) solid 2px", await visit.page.evaluate(outline))


async def test_focus_and_arrow_keys_explain_each_number(live: Live) -> None:
    visit = await live()
    page = visit.page
    await page.locator(".vital").nth(3).focus()
    assert "1 min 15 s" in await tip(page)
    await page.locator("#lanes thead button").first.focus()
    assert "A lane has the limits of one model" in await tip(page)
    await press(page, "ArrowDown", "ArrowRight", "ArrowRight")
    assert await visit.focused() == "125 / 500"
    text = await tip(page)
    assert "125 of 500 requests left; 500 more each minute" in text
    assert "Requests that can be sent to this model now" in text
    described = "document.activeElement.getAttribute('aria-describedby')"
    assert await page.evaluate(described) == "tip"
    await press(page, "Control+End")
    assert await visit.focused() == "4.0/s"
    await press(page, "Home")
    assert await visit.focused() == "gpt-5-mini"
    await press(page, "ArrowUp", "ArrowUp", "ArrowUp")
    assert await visit.focused() == "Model"


async def test_escape_and_leaving_close_the_explanation(live: Live) -> None:
    visit = await live()
    shown = visit.page.locator("#tip")
    await visit.page.locator(".vital").first.focus()
    await expect(shown).to_be_visible()
    await press(visit.page, "Escape")
    await expect(shown).to_be_hidden()
    await visit.page.locator("#queue td").first.hover()
    await expect(shown).to_contain_text("The client that sent the request")
    # The pointer can go over the explanation itself without closing it.
    await visit.page.locator("#tip .tip-help").hover()
    await expect(shown).to_be_visible()
    await visit.page.locator("footer").hover()
    await expect(shown).to_be_hidden()


async def test_pointer_over_a_line_reads_the_value_at_that_time(live: Live) -> None:
    visit = await live()
    box = await visit.page.locator(".vital .spark").first.bounding_box()
    assert box is not None
    await visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "5.0 s ago: 12 waiting" in await tip(visit.page)


async def test_full_name_is_readable_where_it_is_cut(live: Live, state: State) -> None:
    name = "a client with a name that is much too long for its column " * 3
    state["recent"] = [exchange(1, client=name)]
    visit = await live()
    cell = visit.rows("recent").first.locator("td").first
    assert await cell.locator("bdi").evaluate("node => node.scrollWidth > node.clientWidth")
    await cell.focus()
    assert name.strip() in await tip(visit.page)


async def test_explanation_follows_the_numbers(live: Live, state: State) -> None:
    visit = await live()
    await visit.page.locator(".vital").first.focus()
    state["in_flight"] = 77
    await expect(visit.page.locator("#tip .tip-value")).to_have_text("77")


async def test_rows_keep_still_while_one_reads_them(live: Live, state: State) -> None:
    visit = await live()
    row = visit.rows("recent").first.locator("th")
    await row.focus()
    await press(visit.page, "ArrowRight")
    state["recent"] = [exchange(3), exchange(2, client="chat", status=202)]
    held = visit.section("recent").locator(".held")
    await expect(held).to_have_text("paused while you read: 1 newer")
    assert await visit.column("recent", "Id") == ["bbbb-2", "bbbb-1"]
    # Rows that are still there go on changing.
    assert await visit.column("recent", "Result") == ["202", "200"]
    await expect(visit.rows("recent").nth(1)).to_have_class("gone")
    await press(visit.page, "Tab")
    await expect(held).to_have_text("")
    assert await visit.column("recent", "Id") == ["bbbb-3", "bbbb-2"]


async def test_column_heading_sorts(live: Live, state: State) -> None:
    state["clients"] = [client("a", waiting=3), client("b", waiting=30), client("c", waiting=None)]
    visit = await live()
    heading = visit.page.locator("#clients thead").get_by_text("Waiting")
    await heading.focus()
    await press(visit.page, "Enter")
    assert await visit.column("clients", "Waiting") == ["30", "3", DASH]
    sorted_by = visit.page.locator("#clients [aria-sort=descending]")
    await expect(sorted_by).to_have_text("Waiting")
    await press(visit.page, "Enter")
    assert await visit.column("clients", "Waiting") == ["3", "30", DASH]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_fault(live: Live, state: State, scheme: str) -> None:
    state.update(upstream_429_5m=3, state="draining")
    visit = await live(color_scheme=scheme)
    await visit.page.locator(".vital").first.focus()
    assert await visit.accessibility_faults() == []


async def test_accessibility_tree_has_landmarks_headings_and_named_tables(live: Live) -> None:
    visit = await live()
    tree = await visit.page.locator("body").aria_snapshot()
    for landmark in ("banner", 'navigation "Sections"', "main", "contentinfo"):
        assert f"- {landmark}:" in tree
    for heading in ("Lanes", "Clients", "Queue", "Exchanges", "Refusals, 429s, retries", "Usage"):
        assert re.search(rf'region "{heading}', tree)
        assert re.search(rf'heading "{heading}.*\[level=2\]', tree)
    for table in (
        "Lanes:",
        "Clients:",
        "The next requests",
        "The last exchanges",
        "Usage",
    ):
        assert f'table "{table}' in tree
    assert 'rowheader "gpt-5-mini"' in tree
    assert 'columnheader "Model"' in tree
    assert 'cell "paused 3.0 s"' in tree


async def test_only_changes_of_state_are_announced(live: Live, state: State) -> None:
    visit = await live()
    announced = visit.page.get_by_role("status")
    await expect(announced).to_have_text("")
    state.update(waiting=99)
    await expect(visit.page).to_have_title("(99) RustyGate")
    await expect(announced).to_have_text("")
    state.update(state="draining")
    await expect(announced).to_have_text("The gate is draining.")
    await expect(visit.page.locator("[aria-live], [role=status], [role=alert]")).to_have_count(1)


async def test_phone_scrolls_sideways_only_within_tables(live: Live, state: State) -> None:
    state["clients"] += [client("a client with a rather long name " * 4)]
    state["lanes"] += [lane("a-model-with-a-rather-long-name-" * 4)]
    state["queue"] = [waiter(number) for number in range(20)]
    visit = await live(**PHONE)
    widths = "[document.documentElement.scrollWidth, window.innerWidth]"
    assert await visit.page.evaluate(widths) == [360, 360]
    outside = """[...document.querySelectorAll("body *")]
        .filter((node) => !node.closest(".box, nav, .hidden, .skip, #tip"))
        .filter((node) => node.getBoundingClientRect().right > 360.5)
        .map((node) => node.outerHTML.slice(0, 100))"""
    assert await visit.page.evaluate(outside) == []


async def test_heading_of_a_row_stays_in_sight_when_its_table_scrolls(live: Live) -> None:
    visit = await live(**PHONE)
    box = visit.section("recent").locator(".box")
    await box.evaluate("node => node.scrollLeft = 200")
    left = "node => node.getBoundingClientRect().left"
    heading = await visit.rows("recent").locator("th").first.evaluate(left)
    assert heading == pytest.approx(await box.evaluate(left), abs=2)


async def test_tap_explains_within_the_screen_of_a_phone(live: Live) -> None:
    visit = await live(**PHONE)
    await visit.page.locator(".vital").nth(1).tap()
    assert "Requests in the queue" in await tip(visit.page)
    box = await visit.page.locator("#tip").bounding_box()
    assert box is not None
    assert 0 <= box["x"] < box["x"] + box["width"] <= 360
    assert 0 <= box["y"] < box["y"] + box["height"] <= 740


async def test_dark_page_is_dark(live: Live) -> None:
    lightness = {}
    for scheme in ("light", "dark"):
        visit = await live(color_scheme=scheme)
        color = await visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        lightness[scheme] = sum(map(int, re.findall(r"\d+", color)[:3])) / (3 * 255)
    assert lightness["light"] > 0.9
    assert lightness["dark"] < 0.15


async def test_nothing_moves_where_motion_is_unwanted(live: Live) -> None:
    visit = await live(reduced_motion="reduce")
    moving = """[...document.querySelectorAll('*')].filter((node) => {
        const style = getComputedStyle(node);
        return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0
            || style.scrollBehavior === 'smooth';
    }).length"""
    assert await visit.page.evaluate(moving) == 0
