"""`GET /gate/usage`: the rows of the usage record."""

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from rustygate.core.usage_rows import Grouped, UsageQuery, UsageTotals
from rustygate.dashboard import usage_report
from rustygate.errors import BadRequest, UsageUnreadable
from rustygate.telemetry.usage.store import UsageStoreError
from tests.conftest import StartGate
from tests.support.dashboard import get_page
from tests.support.http import chat, response
from tests.support.upstream import Upstream
from tests.telemetry.test_metrics import JSON, USAGE

TODAY = datetime.now(UTC).date()

QUERY = UsageQuery("2026-11-28", "2026-11-28", ("client",))


async def test_usage_up_to_now_is_reported(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(USAGE, JSON)
    running = await gate()
    for client in ("search", "search", "chat"):
        await running.request(chat(f"X-RustyGate-Client: {client}"))
    await running.settled(3)
    rows = (await get_page(running, "/gate/usage")).json
    assert [(row["client"], row["exchanges"]) for row in rows] == [("chat", 1), ("search", 2)]
    assert list(rows[1])[:4] == ["client", "model", "day", "exchanges"]
    assert rows[1]["tokens_in"] == 22
    assert rows[1]["cost_usd"] == pytest.approx(2 * (11 * 2.5 + 7 * 10) / 1e6)
    for query, columns in [
        ("by=client&since=today&client=search&until=", ["client"]),
        ("by=model,client&client=search", ["model", "client"]),
        ("by=model%2Cclient&client=search&since=&by=day", ["model", "client"]),
    ]:
        [row] = (await get_page(running, f"/gate/usage?{query}")).json
        assert list(row)[: len(columns) + 1] == [*columns, "exchanges"]
        assert row["exchanges"] == 2
    nothing = f"since={TODAY - timedelta(days=9)}&until={TODAY - timedelta(days=8)}"
    assert (await get_page(running, f"/gate/usage?{nothing}")).json == []


async def test_names_of_strangers_are_data(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(USAGE, JSON)
    running = await gate()
    name = "<script>alert(1)</script>' OR 1=1 --"
    await running.request(chat(f"X-RustyGate-Client: {name}"))
    await running.settled()
    [row] = (await get_page(running, f"/gate/usage?by=client&client={quote(name)}")).json
    assert row["client"] == name
    assert (await get_page(running, "/gate/usage?client=%ff%00")).json == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("since=24h", "Since is '24h': expected a number of days such as 7d, today, "),
        ("until=7d", "Until is '7d': expected today, a day such as "),
        ("by=client,cost", "By is 'client,cost': expected one or more of client, model and day"),
        ("since=today&until=2020-01-01", "Since is 20"),
        ("from=today", "Unknown parameter 'from': expected since, until, by, client."),
        ("%1b%5b=1", r"Unknown parameter '\x1b[': expected since, until, by, client."),
    ],
)
async def test_bad_query_says_what_was_expected(gate: StartGate, query: str, message: str) -> None:
    got = await get_page(await gate(), f"/gate/usage?{query}")
    assert (got.status, got.reason) == (400, "bad_request")
    assert got.json["error"]["message"].startswith(message)
    assert got.head["cache-control"] == "no-store"


@pytest.mark.parametrize("rows", [3, 4])
async def test_report_with_too_many_rows_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(usage_report, "ROWS_LIMIT", 3)

    async def read(query: UsageQuery) -> Grouped:
        assert query.rows_limit == 3
        return _rows(rows)

    report = usage_report.usage_report(read, QUERY)
    if rows == 3:
        assert len(json.loads(await report)) == 3
        return
    with pytest.raises(BadRequest, match="more than 3 rows: ask for fewer days"):
        await report


def _rows(count: int) -> Grouped:
    return [((str(number),), UsageTotals(1)) for number in range(count)]


async def test_record_that_cannot_be_read_is_an_error() -> None:
    async def read(_: UsageQuery) -> Grouped:
        raise UsageStoreError("database is locked")

    with pytest.raises(UsageUnreadable) as caught:
        await usage_report.usage_report(read, QUERY)
    assert (
        caught.value.message
        == "The usage record cannot be read (database is locked); try again later."
    )
    assert caught.value.status == 500
