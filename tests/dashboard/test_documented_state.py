"""The documented keys of the state are those that it has."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rustygate.core.clients import Client
from rustygate.core.usage_rows import UsageTotals, amounts
from rustygate.exchange import Exchange
from rustygate.telemetry.ledger import log_fields
from rustygate.telemetry.worker_metrics import WorkerStatus
from tests.support.gate_state import Watched
from tests.support.harness import Harness, rate_limit, run_scenario, set_rate_limit

PAGE = (Path(__file__).parents[2] / "docs/live-page.md").read_text()

# The contract of scripts: these keys never go away.
CONTRACT = {
    "state uptime_s in_flight waiting admitted_per_s longest_wait_s upstream_429_5m",
    "group.state group.members",
    "lanes[].model lanes[].budgets[] lanes[].paused_s lanes[].waiting lanes[].forecast_s",
    "budgets[].budget budgets[].level budgets[].limit",
    "clients[].client clients[].weight clients[].priority clients[].waiting clients[].in_flight",
    "clients[].share clients[].share_due clients[].tokens_today clients[].cost_today_usd",
    "queue[].id queue[].client queue[].model queue[].cost queue[].waited_s queue[].expected_s",
    "queue[].blocked_by recent[] refusals",
}

# Objects whose keys are values: classes, budgets, reasons.
_MAPS = {"others_per_min", "forecast_s", "budget_left", "refusals", "verdicts", "retries"}


def documented() -> set[str]:
    _, _, table = PAGE.partition("| key | meaning |")
    return set(re.findall(r"^\| `([a-z0-9_.\[\]]+)` \|", table.partition("\n\n")[0], re.MULTILINE))


def keys(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all keys, as the page writes them."""
    for key, member in value.items():
        full = f"{path}{key}"
        if isinstance(member, list) and all(isinstance(each, dict) for each in member):
            assert member, f"{full} is empty"
            yield f"{full}[]"
            if full == "recent":
                yield "recent[].at"
            elif full not in {"usage", "lanes[].budgets"}:
                yield from keys(member[0], f"{full}[].")
        elif isinstance(member, dict) and key not in _MAPS:
            yield from keys(member, f"{full}.")
        else:
            yield full


WORKER = WorkerStatus(1, 4001, "serving", in_flight=3, connections=40, restarts=2)


def full_state() -> dict[str, Any]:
    """A state in which no list is empty."""
    states: list[dict[str, Any]] = []

    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate, {"a": Client("a", "0" * 64)}, [WORKER])
        set_rate_limit(harness, rate_limit(60))
        for _ in range(3):
            harness.spawn("a", model="m")
        await asyncio.sleep(0.1)
        exchange = harness.exchange("a", status=200, outcome="ok")
        watched.tally.settle(exchange)
        states.append(await watched.full_state())
        await asyncio.sleep(10)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)
    return states[0]


def test_documented_keys_are_those_of_the_state() -> None:
    assert set(keys(full_state())) == documented()


def test_keys_of_the_contract_are_there() -> None:
    assert {key for line in CONTRACT for key in line.split()} <= documented()


def test_budgets_of_lanes_are_like_the_own_ones() -> None:
    state = full_state()
    assert state["lanes"][0]["budgets"][0].keys() == state["budgets"][0].keys()


def test_exchange_has_the_fields_of_its_log_line() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        exchange = harness.exchange("a", status=429, outcome="refused", reason="queue_full")
        watched.tally.settle(exchange)
        [row] = watched.state()["recent"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row.pop("at"))
        assert row == log_fields(exchange)
        assert watched.state()["refusals"] == {"queue_full": 1}

    run_scenario(scenario)


def test_retries_are_counted_by_reason() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        assert watched.state()["retries"] == {}
        for reason in ("upstream_429", "upstream_429", "upstream_disconnected"):
            watched.tally.count_retry(reason)
        assert watched.state()["retries"] == {"upstream_429": 2, "upstream_disconnected": 1}

    run_scenario(scenario)


def test_the_last_50_exchanges_are_kept() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        exchanges = [Exchange(f"c{number}", "POST", "/" + "x" * 500) for number in range(60)]
        for exchange in exchanges:
            watched.tally.settle(exchange)
        rows = watched.state()["recent"]
        assert [row["id"] for row in rows] == [each.id for each in exchanges[:9:-1]]
        assert {len(row["path"]) for row in rows} == {200}

    run_scenario(scenario)


def test_usage_rows_have_the_columns_of_reports() -> None:
    [row] = full_state()["usage"]
    assert list(row) == ["day", *amounts(UsageTotals())]


def test_blocked_by_is_documented() -> None:
    _, _, table = PAGE.partition("| `blocked_by` |")
    words = set(re.findall(r"`([a-z ]+)`", table.partition("\n\n")[0]))
    budgets = {f"{scope}{budget}" for scope in ("", "lane ", "client ") for budget in BUDGETS}
    assert words == budgets | {"paused", "pace", "turn"}


BUDGETS = ("requests", "tokens", "slots")
