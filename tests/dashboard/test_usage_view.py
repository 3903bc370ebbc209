"""Usage on the page: tokens and cost of today by client, and the last two weeks by day."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from rustygate.core.periods import DAY
from rustygate.core.price_list import PriceList
from rustygate.core.usage_rows import Grouped, UsageKey, UsageQuery, UsageTotals
from rustygate.dashboard import usage_view
from rustygate.dashboard.usage_view import UsageView
from rustygate.telemetry.usage.memory_store import MemoryUsageStore
from rustygate.telemetry.usage.recorder import UsageRecorder
from rustygate.telemetry.usage.store import UsageStoreError
from tests.conftest import StartGate
from tests.support.dashboard import get_state
from tests.support.http import chat
from tests.support.waiting import within

NOON = 20_000 * DAY + DAY // 2
TODAY = "2024-10-04"


class Store(MemoryUsageStore):
    """A store that counts the queries, and may fail or hang."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[UsageQuery] = []
        self.fails = False
        self.hangs = False

    async def rows_by(self, query: UsageQuery) -> Grouped:
        self.queries.append(query)
        if self.fails:
            raise UsageStoreError("away")
        if self.hangs:
            await asyncio.sleep(3600)
        return await super().rows_by(query)


@pytest.fixture
async def store() -> Store:
    store = Store()
    usage: Mapping[UsageKey, UsageTotals] = {
        UsageKey(TODAY, "a", "m"): UsageTotals(1, tokens_in=5, tokens_out=2, cost_nano_usd=10**9),
        UsageKey(TODAY, "a", "n"): UsageTotals(1, tokens_estimated=4),
        UsageKey(TODAY, "b", "m"): UsageTotals(2, tokens_in=1, unpriced=1),
        UsageKey("2024-10-01", "a", "m"): UsageTotals(3, cost_nano_usd=5 * 10**8),
        UsageKey("2024-09-21", "a", "m"): UsageTotals(4),
        UsageKey("2024-09-20", "a", "m"): UsageTotals(5),
    }
    await store.add(usage)
    return store


@pytest.fixture
async def view(store: Store) -> AsyncIterator[UsageView]:
    recorder = UsageRecorder(store, PriceList(), lambda: NOON)
    view = UsageView(recorder, lambda: NOON)
    yield view
    await view.close()


async def test_today_is_by_client_and_the_rest_by_day(view: UsageView) -> None:
    await view.refresh()
    assert {client: totals.exchanges for client, totals in view.today.items()} == {"a": 2, "b": 2}
    rows = view.rows()
    assert [(row["day"], row["exchanges"]) for row in rows] == [
        ("2024-09-21", 4),
        ("2024-10-01", 3),
        (TODAY, 4),
    ]
    assert [row["cost_usd"] for row in rows] == [0, 0.5, None]


async def test_usage_is_not_read_for_each_state(view: UsageView, store: Store) -> None:
    for _ in range(5):
        await view.refresh()
    assert [query.by for query in store.queries] == [("client",), ("day",)]


async def test_usage_of_today_is_read_again(
    view: UsageView, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_view, "TODAY_AGE_S", 0)
    await view.refresh()
    await store.add({UsageKey(TODAY, "c", "m"): UsageTotals(1)})
    await view.refresh()
    assert list(view.today) == ["a", "b", "c"]
    assert view.rows()[-1]["exchanges"] == 5
    assert [query.by for query in store.queries] == [("client",), ("day",), ("client",)]


async def test_store_that_fails_leaves_what_was_read(
    view: UsageView, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_view, "TODAY_AGE_S", 0)
    await view.refresh()
    before = view.rows()
    store.fails = True
    await view.refresh()
    assert view.rows() == before != []


@pytest.mark.usefixtures("_no_task_left")
async def test_store_that_hangs_delays_a_state_only_a_little(
    view: UsageView, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_view, "WAIT_S", 0.01)
    store.hangs = True
    async with within(0.5):
        for _ in range(3):
            await view.refresh()
    assert len(store.queries) == 1
    assert view.rows() == []
    await view.close()


async def test_gate_shows_tokens_and_cost_of_its_clients(gate: StartGate, simulator: str) -> None:
    running = await gate(OPENAI_BASE_URL=simulator)
    assert (await running.request(chat("X-RustyGate-Client: spender"))).status == 200
    [line] = await running.settled()
    state = await get_state(running)
    [row] = [row for row in state["clients"] if row["client"] == "spender"]
    assert row["tokens_today"] == line["tokens_in"] + line["tokens_out"] > 0
    assert row["budget_left"] == {}
    [day] = state["usage"]
    assert (day["exchanges"], day["tokens_out"]) == (1, line["tokens_out"])
    assert row["cost_today_usd"] == day["cost_usd"] > 0
    assert state["recent"][0]["id"] == line["id"]
