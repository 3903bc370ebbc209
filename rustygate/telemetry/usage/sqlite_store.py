"""The usage record in SQLite: DATA_DIR/usage.db.

One thread writes, and each report is read on a connection of its own, so the event loop never
waits for the disk. The database is in WAL mode: reports, also those of other processes, and writes
do not wait for each other. Names are stored once, in the table `label`, which halves the size. The
view `usage` shows all of it in words, for the sqlite3 shell.

A broken database is put aside, and a new one is created. One with a newer schema is left alone.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import time_ns

from loguru import logger

from rustygate.core.usage_rows import COLUMNS, TOTALS, Grouped, UsageQuery
from rustygate.system.data_dir import put_aside
from rustygate.telemetry.usage.sqlite_report import (
    BUSY_S,
    day_number,
    read_usage,
    schema_version,
)
from rustygate.telemetry.usage.store import (
    Batch,
    UsageStoreError,
    UsageStoreUnusable,
    first_day_kept,
)

# The database, its log, and the index of the log.
_FILES = ("", "-wal", "-shm")

_AMOUNTS = ",\n  ".join(f"{name} INTEGER NOT NULL" for name in TOTALS)

# Each migration leads from one version of the schema to the next. `PRAGMA user_version` is the
# number of migrations applied. Days are counted from 1970.
MIGRATIONS = (
    f"""
CREATE TABLE label (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE total (
  day INTEGER NOT NULL,
  client INTEGER NOT NULL REFERENCES label,
  model INTEGER NOT NULL REFERENCES label,
  {_AMOUNTS},
  PRIMARY KEY (day, client, model)
) WITHOUT ROWID;
CREATE VIEW usage AS SELECT
  date(day * 86400, 'unixepoch') AS day, client.name AS client, model.name AS model,
  exchanges, refused, tokens_in, tokens_cached, tokens_out, tokens_reasoning, tokens_estimated,
  queued_us / 1e6 AS queued_seconds,
  CASE WHEN unpriced THEN NULL ELSE cost_nano_usd / 1e9 END AS cost_usd, unpriced
FROM total
  JOIN label AS client ON client.id = total.client
  JOIN label AS model ON model.id = total.model;
""",
)

_ADD = (
    f"INSERT INTO total VALUES ({', '.join('?' * (len(COLUMNS) + len(TOTALS)))})"
    " ON CONFLICT (day, client, model) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in TOTALS)
)


class SqliteUsageStore:
    """A `UsageStore` in a database file.

    Args:
        migrations: of the schema.
    """

    def __init__(self, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
        self._path = path
        self._migrations = migrations
        self._thread = ThreadPoolExecutor(1, "usage")
        # Of the writing thread:
        self._connection: sqlite3.Connection | None = None
        self._labels: dict[str, int] = {}
        self._pruned_before = ""
        self._is_checked = False

    def __repr__(self) -> str:
        return f"<SqliteUsageStore {self._path}>"

    async def open(self) -> None:
        """Open or create the database. Raises UsageStoreUnusable if it has a newer schema. Other
        errors may be temporary: the first batch opens it again."""
        try:
            await self._in_thread(self._opened)
        except UsageStoreUnusable:
            self._thread.shutdown(wait=False)
            raise
        except UsageStoreError as error:
            logger.warning("cannot open {} yet ({})", self._path, error)

    async def add(self, batch: Batch) -> None:
        await self._in_thread(lambda: self._add(batch))

    async def rows_by(self, query: UsageQuery) -> Grouped:
        try:
            return await asyncio.to_thread(read_usage, self._path, query)
        except sqlite3.Error as error:
            reason = str(error)
            if _is_broken(error):
                await self._in_thread(lambda: self._begin_anew(reason))
            raise UsageStoreError(reason) from error

    async def close(self) -> None:
        await self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    # In the writing thread.

    async def _in_thread(self, work: Callable[[], object]) -> None:
        """Do some work; if the database turns out to be damaged, repeat it with a new one."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[], object]) -> None:
        try:
            try:
                work()
            except sqlite3.DatabaseError as error:
                if not _is_broken(error):
                    raise
                self._begin_anew(str(error))
                work()
        except (sqlite3.Error, OSError) as error:
            with suppress(sqlite3.Error):
                self._close()
            raise UsageStoreError(str(error)) from error

    def _begin_anew(self, reason: str) -> None:
        with suppress(sqlite3.Error):
            self._close()
        aside = put_aside(self._path, time_ns(), _FILES)
        logger.warning(
            "{} is damaged ({}): renamed it to {} and created a new one", self._path, reason, aside
        )
        self._open()

    def _open(self) -> None:
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
        try:
            version = schema_version(connection)
            if version > len(self._migrations):
                raise UsageStoreUnusable(
                    f"{self._path} has schema version {version}, and this gate supports at most "
                    f"{len(self._migrations)}; upgrade the gate"
                )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            self._check(connection)
            migrate(connection, self._migrations)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _check(self, connection: sqlite3.Connection) -> None:
        """Raise an error if pages of the database are damaged. Runs once: it takes a second for a
        large database."""
        if self._is_checked:
            return
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _Broken(found)
        self._is_checked = True

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self._labels.clear()
        if connection is not None:
            connection.close()

    def _opened(self) -> sqlite3.Connection:
        """The connection; a database that was deleted is created again."""
        if self._connection is not None and not self._path.exists():
            self._close()
        if self._connection is None:
            self._open()
        assert self._connection is not None
        return self._connection

    def _add(self, batch: Batch) -> None:
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._prune(connection, first_day_kept(batch))
            connection.executemany(_ADD, list(self._rows(connection, batch)))
            connection.execute("COMMIT")
        except BaseException:
            self._labels.clear()
            self._pruned_before = ""
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _rows(self, connection: sqlite3.Connection, batch: Batch) -> Iterator[tuple[int, ...]]:
        for (day, client, model), totals in batch.items():
            labels = self._label(connection, client), self._label(connection, model)
            yield (day_number(day), *labels, *totals.values())

    def _label(self, connection: sqlite3.Connection, name: str) -> int:
        """The id of a name; a new one if it has none."""
        if name not in self._labels:
            connection.execute("INSERT OR IGNORE INTO label (name) VALUES (?)", (name,))
            found = connection.execute("SELECT id FROM label WHERE name = ?", (name,))
            (self._labels[name],) = found.fetchone()
        return self._labels[name]

    def _prune(self, connection: sqlite3.Connection, first_day: str) -> None:
        """Delete totals before a day, once a day."""
        if first_day <= self._pruned_before:
            return
        deleted = connection.execute("DELETE FROM total WHERE day < ?", (day_number(first_day),))
        if deleted.rowcount:
            self._labels.clear()
            connection.execute(
                "DELETE FROM label WHERE id NOT IN"
                " (SELECT client FROM total UNION SELECT model FROM total)"
            )
        self._pruned_before = first_day


def migrate(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    """Bring the schema to the newest version. Each step is applied completely or not at all."""
    for version in range(schema_version(connection), len(migrations)):
        step = (
            f"BEGIN IMMEDIATE; {migrations[version]} PRAGMA user_version = {version + 1}; COMMIT"
        )
        try:
            connection.executescript(step)
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


class _Broken(sqlite3.DatabaseError):
    """SQLite's own check has found damage."""


def _is_broken(error: sqlite3.Error) -> bool:
    # The lower byte is the primary result code.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, _Broken) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
