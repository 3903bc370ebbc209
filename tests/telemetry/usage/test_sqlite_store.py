"""The usage record in SQLite, with real files: what is kept, and what goes wrong."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import date, timedelta
from pathlib import Path
from random import Random
from time import process_time

import pytest

from rustygate.core.usage_rows import COLUMNS, UsageKey, UsageTotals
from rustygate.telemetry.usage.memory_store import MemoryUsageStore
from rustygate.telemetry.usage.sqlite_report import BUSY_S, read_usage, schema_version
from rustygate.telemetry.usage.sqlite_store import MIGRATIONS, SqliteUsageStore, migrate
from rustygate.telemetry.usage.store import UsageStoreError, UsageStoreUnusable
from tests.support.disks import make_read_only, make_writable, small_disk
from tests.support.gate import Log
from tests.telemetry.usage.samples import DAY, EVER, batch, by


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


@asynccontextmanager
async def store_at(path: Path) -> AsyncIterator[SqliteUsageStore]:
    store = SqliteUsageStore(path)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteUsageStore]:
    async with store_at(path) as store:
        yield store


async def written(path: Path, *clients: str) -> None:
    """Write a row of each client, and close the database."""
    async with store_at(path) as store:
        for client in clients:
            await store.add(batch(client))


def other_connection(path: Path) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(path, isolation_level=None))


def content(path: Path) -> bytes:
    return path.read_bytes()


def broken_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob("usage.db.broken-*Z"))


# What is kept.


async def test_totals_are_added_up(store: SqliteUsageStore) -> None:
    full = UsageTotals(*range(1, 11))
    key = UsageKey(DAY, "a", "m")
    for _ in range(3):
        await store.add({key: full})
    [(found, totals)] = await store.rows_by(EVER)
    assert found == key
    assert totals.values() == tuple(3 * amount for amount in range(1, 11))


async def test_record_is_there_after_a_restart(path: Path) -> None:
    await written(path, "a", "b")
    await written(path, "b", "c")
    async with store_at(path) as store:
        found = {key[0]: totals.exchanges for key, totals in await store.rows_by(by("client"))}
    assert found == {"a": 1, "b": 2, "c": 1}


@pytest.mark.parametrize("columns", [COLUMNS, ("day", "client"), ("model",)])
@pytest.mark.parametrize("client", [None, "c1", "nobody"])
async def test_reports_are_those_of_the_store_in_memory(
    store: SqliteUsageStore, columns: tuple[str, ...], client: str | None
) -> None:
    memory, random = MemoryUsageStore(), Random(1)
    first = date.fromisoformat(DAY)
    for _ in range(60):
        usage = batch(
            f"c{random.randrange(3)}",
            f"m{random.randrange(3)}",
            (first - timedelta(days=random.randrange(5))).isoformat(),
            tokens_in=random.randrange(10**12),
            cost_nano_usd=random.randrange(10**15),
        )
        await store.add(usage)
        await memory.add(usage)
    query = by(*columns, since="2026-11-25", until="2026-11-27", client=client)
    found = await store.rows_by(query)
    assert found == await memory.rows_by(query)
    assert bool(found) == (client != "nobody")


@pytest.mark.parametrize(
    "name", ["(other)", "it's", '"; DROP TABLE total; --', "ü\u202e", "x" * 999]
)
async def test_any_label_is_kept(store: SqliteUsageStore, name: str) -> None:
    await store.add(batch(name, name))
    await store.add(batch(name, "m"))
    found = await store.rows_by(by("client", "model", client=name))
    assert [key for key, _ in found] == sorted([(name, name), (name, "m")])


async def test_view_shows_the_record_in_words(path: Path, store: SqliteUsageStore) -> None:
    await store.add(batch(cost_nano_usd=1_500_000_000, queued_us=250_000, tokens_in=5))
    await store.add(batch("b", unpriced=1, cost_nano_usd=7))
    query = "SELECT day, client, model, tokens_in, queued_seconds, cost_usd FROM usage"
    with other_connection(path) as shell:
        assert shell.execute(query).fetchall() == [
            (DAY, "a", "m", 5, 0.25, 1.5),
            (DAY, "b", "m", 0, 0, None),
        ]


async def test_400_days_are_kept(path: Path, store: SqliteUsageStore) -> None:
    await store.add(batch("old", day="2025-10-23"))
    for day in ("2025-10-24", "2026-01-01"):
        await store.add(batch(day=day))
    await store.add(batch(day=DAY))
    assert [key for key, _ in await store.rows_by(EVER)] == [
        (day, "a", "m") for day in ("2025-10-24", "2026-01-01", DAY)
    ]
    with other_connection(path) as shell:
        assert shell.execute("SELECT name FROM label ORDER BY name").fetchall() == [("a",), ("m",)]
    await store.add(batch("old"))
    assert [key for key, _ in await store.rows_by(by("client"))] == [("a",), ("old",)]


async def test_clock_that_is_set_back_deletes_nothing(store: SqliteUsageStore) -> None:
    for day in (DAY, "2025-11-01", "2026-11-27", DAY):
        await store.add(batch(day=day))
    days = {key[0]: totals.exchanges for key, totals in await store.rows_by(EVER)}
    assert days == {DAY: 2, "2026-11-27": 1, "2025-11-01": 1}


# Other processes.


async def test_report_is_read_while_another_process_has_locked_it(
    path: Path, store: SqliteUsageStore
) -> None:
    await store.add(batch())
    with other_connection(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UsageStoreError, match="database is locked"):
            await store.add(batch("b"))
        assert [key for key, _ in await store.rows_by(by("client"))] == [("a",)]
        other.execute("COMMIT")
    await store.add(batch("b"))
    assert [key for key, _ in await store.rows_by(by("client"))] == [("a",), ("b",)]


async def test_event_loop_does_not_wait_for_the_disk(path: Path, store: SqliteUsageStore) -> None:
    """The database is locked for as long as a write waits."""
    with other_connection(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        adding = asyncio.create_task(store.add(batch()))
        ticks = 0
        while not adding.done():
            await asyncio.sleep(BUSY_S / 20)
            ticks += 1
        other.execute("COMMIT")
    assert isinstance(adding.exception(), UsageStoreError)
    assert ticks >= 2


async def test_database_that_is_locked_at_the_start_is_used_later(path: Path, log: Log) -> None:
    await written(path, "a")
    with other_connection(path) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        async with store_at(path) as store:
            assert f"cannot open {path} yet (database is locked)" in log.text
            with pytest.raises(UsageStoreError, match="database is locked"):
                await store.add(batch("b"))
            other.close()
            await store.add(batch("b"))
            assert [key for key, _ in await store.rows_by(by("client"))] == [("a",), ("b",)]
    assert broken_files(path) == []


async def test_another_process_reads_while_the_gate_writes(
    path: Path, store: SqliteUsageStore
) -> None:
    await store.add(batch())
    assert read_usage(path, by("client")) == [(("a",), UsageTotals(exchanges=1))]


async def test_record_is_read_without_write_permission(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        await written(disk / "usage.db", "a")
        make_read_only(disk)
        assert len(read_usage(disk / "usage.db", EVER)) == 1


async def test_disk_that_becomes_read_only_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        await written(disk / "usage.db", "a")
        make_read_only(disk)
        store = SqliteUsageStore(disk / "usage.db")
        await store.open()
        with pytest.raises(UsageStoreError, match=r"readonly|unable to open"):
            await store.add(batch("b"))
        make_writable(disk)
        await store.add(batch("b"))
        assert [key for key, _ in await store.rows_by(by("client"))] == [("a",), ("b",)]
        await store.close()


async def test_deleted_database_is_created_again(path: Path, store: SqliteUsageStore) -> None:
    await store.add(batch("a"))
    for file in path.parent.glob("usage.db*"):
        file.unlink()
    await store.add(batch("b"))
    assert [key for key, _ in await store.rows_by(by("client"))] == [("b",)]


# Damage.


def damage_start(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 400)


def damage_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(3 * 4096))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [damage_start, damage_middle, cut], ids=lambda d: d.__name__)
async def test_broken_database_is_put_aside_at_the_start(
    path: Path, log: Log, damage: Callable[[Path], None]
) -> None:
    await written(path, *(f"c{number}" for number in range(50)))
    damage(path)
    broken = content(path)
    async with store_at(path) as store:
        await store.add(batch("new"))
        assert [key for key, _ in await store.rows_by(by("client"))] == [("new",)]
    [aside] = broken_files(path)
    assert aside.read_bytes() == broken
    assert "usage.db is damaged (" in log.text
    assert f"renamed it to {aside} and created a new one" in log.text


async def test_database_that_breaks_while_it_is_used_is_put_aside(
    path: Path, log: Log, store: SqliteUsageStore
) -> None:
    for number in range(50):
        await store.add(batch(f"c{number}"))
    with other_connection(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage_middle(path)
    for number in range(50, 60):
        await store.add(batch(f"c{number}"))
    found = {key[0]: totals.exchanges for key, totals in await store.rows_by(by("client"))}
    assert set(found.values()) == {1}
    assert {f"c{number}" for number in range(51, 60)} <= set(found)
    assert len(broken_files(path)) == 1
    assert log.text.count("and created a new one") == 1


async def test_damage_that_a_report_finds_is_put_aside(
    path: Path, log: Log, store: SqliteUsageStore
) -> None:
    for number in range(50):
        await store.add(batch(f"c{number}"))
    with other_connection(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage_middle(path)
    with pytest.raises(UsageStoreError, match="malformed"):
        await store.rows_by(EVER)
    assert await store.rows_by(EVER) == []
    assert len(broken_files(path)) == 1


async def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 400 * 1024) as disk:
        async with store_at(disk / "usage.db") as store:
            await store.add(batch("first"))
            filler = disk / "filler"
            filler.write_bytes(b"x" * (os.statvfs(disk).f_bavail * 4096))
            many = {
                UsageKey(DAY, f"client-{number}", "m"): UsageTotals(exchanges=1)
                for number in range(1000)
            }
            for _ in range(3):
                with pytest.raises(UsageStoreError, match=r"full|I/O"):
                    await store.add(many)
            filler.unlink()
            await store.add(many)
            rows = dict(await store.rows_by(by("client")))
    assert len(rows) == 1001
    assert {totals.exchanges for totals in rows.values()} == {1}


# Schemas.


async def test_newer_schema_is_not_touched(path: Path) -> None:
    with other_connection(path) as newer:
        newer.executescript("CREATE TABLE future (x); PRAGMA user_version = 99")
    before = content(path)
    with pytest.raises(UsageStoreUnusable) as raised:
        await SqliteUsageStore(path).open()
    assert (
        str(raised.value)
        == f"{path} has schema version 99, and this gate supports at most 1; upgrade the gate"
    )
    assert content(path) == before
    assert os.listdir(path.parent) == ["usage.db"]


NEXT = (*MIGRATIONS, "ALTER TABLE total ADD COLUMN colour TEXT; CREATE TABLE extra (x);")


async def test_older_schema_is_migrated(path: Path) -> None:
    await written(path, "a")
    with other_connection(path) as database:
        assert schema_version(database) == 1
        migrate(database, NEXT)
        assert schema_version(database) == 2
        assert database.execute("SELECT exchanges, colour FROM total").fetchall() == [(1, None)]
        migrate(database, NEXT)


async def test_failed_migration_changes_nothing(path: Path) -> None:
    await written(path, "a")
    with other_connection(path) as database:
        with pytest.raises(sqlite3.OperationalError):
            migrate(database, (*NEXT, "CREATE TABLE more (x); CREATE TABLE extra (x);"))
        assert schema_version(database) == 2
        tables = database.execute("SELECT name FROM sqlite_schema WHERE name = 'more'").fetchall()
        assert tables == []


# Size and speed.


@pytest.fixture(scope="module")
def month_of_usage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 days of 200 clients x 20 models."""
    path = tmp_path_factory.mktemp("month") / "usage.db"
    store, random = SqliteUsageStore(path), Random(1)
    for number in range(30):
        day = (date.fromisoformat(DAY) - timedelta(days=number)).isoformat()
        store._add(
            {
                UsageKey(day, f"team-search-{client}", f"gpt-4o-mini-2024-07-18-{model}"): amounts(
                    random
                )
                for client in range(200)
                for model in range(20)
            }
        )
    store._close()
    return path


def amounts(random: Random) -> UsageTotals:
    return UsageTotals(*(random.randrange(10**limit) for limit in (3, 2, 7, 6, 6, 5, 0, 9, 10, 1)))


def test_year_takes_less_than_200_megabytes(month_of_usage: Path) -> None:
    size = month_of_usage.stat().st_size * 365 / 30
    assert 20e6 < size < 120e6


@pytest.mark.parametrize("columns", [("client",), ("client", "model"), ("day",), ("model",)])
def test_report_of_a_year_takes_less_than_a_second(
    month_of_usage: Path, columns: tuple[str, ...]
) -> None:
    times = []
    for _ in range(3):
        began = process_time()
        found = read_usage(month_of_usage, by(*columns, since="2025-11-29"))
        times.append(process_time() - began)
    # Other processes slow it down.
    took_s = min(times)
    assert (
        len(found)
        == {"day": 30, "client": 200, "model": 20, "client,model": 4000}[",".join(columns)]
    )
    assert took_s * 365 / 30 < 3
