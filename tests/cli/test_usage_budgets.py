"""`rustygate usage --budgets`: from CLIENTS_FILE and the usage record, or from a gate."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rustygate.cli import main
from rustygate.cli.usage_budgets import budget_lines
from rustygate.core.clients import hash_key
from rustygate.core.usage_rows import UsageKey, UsageTotals
from rustygate.telemetry.usage.sqlite_report import FILE_NAME
from rustygate.telemetry.usage.sqlite_store import SqliteUsageStore

NOW = datetime.now(UTC)
TODAY, FIRST = NOW.date().isoformat(), NOW.date().replace(day=1).isoformat()


def row(**fields: Any) -> dict[str, Any]:
    given = {"client": "search", "budget": "tokens_per_day", "spent": 81_204, "reserved": 1050}
    rest = {"limit": 2_000_000, "left": 1_917_746, "ends": "2026-11-29T00:00:00Z"}
    return given | rest | fields


USD = row(budget="usd_per_month", spent=11.02094, reserved=0.02, limit=50.0, left=38.95906)


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record of this month, and a clients file with budgets; both are set."""
    path = tmp_path / "clients.toml"
    path.write_text(
        f"""
        [client.search]
        key_sha256 = "{hash_key("rg-search")}"
        tokens_per_day = 1000
        usd_per_month = 0.5
        [client.chat]
        key_sha256 = "{hash_key("rg-chat")}"
        tokens_per_month = 100
        [client.free]
        key_sha256 = "{hash_key("rg-free")}"
        """
    )
    usage = {
        UsageKey(TODAY, "search", "gpt-4o"): UsageTotals(
            tokens_in=200, tokens_out=40, tokens_estimated=10, cost_nano_usd=100_000_000
        ),
        UsageKey(FIRST, "search", "o3"): UsageTotals(tokens_in=5, cost_nano_usd=25_000_000),
        UsageKey("2020-01-01", "chat", "o3"): UsageTotals(tokens_in=5000),
    }

    async def record() -> None:
        store = SqliteUsageStore(tmp_path / FILE_NAME)
        await store.open()
        await store.add(usage)
        await store.close()

    asyncio.run(record())
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("CLIENTS_FILE", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def budgets(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["usage", "--budgets", "--format", "json", *arguments]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_spent_is_that_of_the_day_and_the_month(
    clients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = budgets(capsys)
    expected = 255 if TODAY == FIRST else 250
    found = [(each["client"], each["budget"], each["spent"], each["left"]) for each in rows]
    assert found == [
        ("search", "tokens_per_day", expected, 1000 - expected),
        ("search", "usd_per_month", 0.125, 0.375),
        ("chat", "tokens_per_month", 0, 100),
    ]
    assert {each["reserved"] for each in rows} == {0}
    assert rows[0]["ends"] > f"{TODAY}T23:59:59Z"


def test_one_client_can_be_chosen(clients: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [each["client"] for each in budgets(capsys, "--client", "chat")] == ["chat"]
    assert budgets(capsys, "--client", "free") == []


def test_table_is_aligned() -> None:
    lines = budget_lines([row(ends="soon"), {**USD, "ends": "later"}], "table")
    assert lines == [
        "client  budget            spent  reserved      limit       left  used  ends",
        "search  tokens_per_day   81,204     1,050  2,000,000  1,917,746    4%  soon",
        "search  usd_per_month   11.0209    0.0200    50.0000    38.9591   22%  later",
    ]
    assert budget_lines([], "table") == ["no client has a budget"]


def test_csv_has_exact_amounts() -> None:
    assert budget_lines([USD], "csv") == [
        "client,budget,spent,reserved,limit,left,ends\r\n"
        "search,usd_per_month,11.02094,0.02,50.0,38.95906,2026-11-29T00:00:00Z\r"
    ]


def test_missing_clients_file_is_named(
    clients: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CLIENTS_FILE")
    assert main(["usage", "--budgets"]) == 2
    assert capsys.readouterr().err == (
        "rustygate: CLIENTS_FILE is not set: set it as for the gate, or ask the gate with --url\n"
    )
