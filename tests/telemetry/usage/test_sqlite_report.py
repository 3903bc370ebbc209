"""Reports from the usage database: the same as from the totals in memory."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date, timedelta
from itertools import permutations
from pathlib import Path
from random import Random

import pytest

from rustygate.core.usage_rows import COLUMNS, TOTALS, UsageKey, UsageQuery, UsageTotals
from rustygate.telemetry.usage import sqlite_report
from rustygate.telemetry.usage.selection import select
from rustygate.telemetry.usage.sqlite_report import day_name, day_number, read_usage
from rustygate.telemetry.usage.sqlite_store import SqliteUsageStore

LAST = date(2026, 11, 28)
DAYS = 300


def day(ago: int) -> str:
    return (LAST - timedelta(days=ago)).isoformat()


def random_usage() -> dict[UsageKey, UsageTotals]:
    random = Random(14)
    keys = (
        UsageKey(day(random.randrange(DAYS)), random.choice("abc"), random.choice("mno"))
        for _ in range(900)
    )
    return {key: UsageTotals(*(random.randrange(10**12) for _ in TOTALS)) for key in keys}


USAGE = random_usage()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("usage") / "usage.db"

    async def write() -> None:
        store = SqliteUsageStore(path)
        await store.open()
        await store.add(USAGE)
        await store.close()

    asyncio.run(write())
    return path


@pytest.mark.parametrize(
    "by", [each for size in (1, 2, 3) for each in permutations(COLUMNS, size)], ids=",".join
)
@pytest.mark.parametrize("client", [None, "b", "nobody"])
@pytest.mark.parametrize(("since", "until"), [(299, 0), (120, 0), (119, 1), (90, 90), (9999, 301)])
def test_report_is_that_of_the_totals(
    database: Path, by: Sequence[str], client: str | None, since: int, until: int
) -> None:
    query = UsageQuery(day(since), day(until), tuple(by), client)
    assert read_usage(database, query) == select(query, USAGE)


@pytest.mark.parametrize("cores", [None, 1, 2, 3, 64])
@pytest.mark.parametrize("days", [1, 59, 60, 119, 120, 121, 365, 400])
def test_slices_cover_each_day_once(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, days: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    query = UsageQuery(day(days - 1), day(0), ("client",), "a", 5)
    slices = list(sqlite_report._slices(query, min(4, cores or 1)))
    covered = [
        number
        for part in slices
        for number in range(day_number(part.since), day_number(part.until) + 1)
    ]
    assert covered == list(range(day_number(day(days - 1)), day_number(day(0)) + 1))
    assert 1 <= len(slices) <= max(1, min(4, cores or 1, days // 60))
    assert {replace(part, since="", until="") for part in slices} == {
        replace(query, since="", until="")
    }


def test_report_shows_that_it_has_more_rows_than_the_limit(database: Path) -> None:
    whole = select(UsageQuery(day(299), day(0), ("day",)), USAGE)
    limit = len(whole)
    for days in (299, 90):
        query = UsageQuery(day(days), day(0), ("day",), rows_limit=limit)
        assert len(read_usage(database, query)) <= limit
        assert len(read_usage(database, replace(query, rows_limit=5))) > 5


def test_days_are_numbered_from_1970_on() -> None:
    assert (day_number("1970-01-01"), day_number("2026-11-28")) == (0, 20_785)
    for text in ("0001-01-01", "2028-02-29", "9999-12-31"):
        assert day_name(day_number(text)) == text


def test_missing_database_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    with pytest.raises(sqlite3.OperationalError):
        read_usage(path, UsageQuery(day(0), day(0)))
    assert not path.exists()


def test_report_by_client_does_not_sort_all_rows(database: Path) -> None:
    """The inner sums are in the order of the primary key; the outer ones sort few rows."""
    statement, values = sqlite_report._statement(UsageQuery(day(9), day(0), ("client",)))
    with closing(sqlite3.connect(database)) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert sum("TEMP B-TREE" in step for step in plan) == 1
    assert any(
        step.startswith("SEARCH total USING PRIMARY KEY (day>? AND day<?)") for step in plan
    )
