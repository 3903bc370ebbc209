"""Reports from the usage database, even while a gate writes to it.

SQLite adds up the rows. A report over many days is split into slices of days, one per processor,
because SQLite runs without Python's lock.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path

from rustygate.core.usage_rows import TOTALS, Grouped, UsageQuery, UsageTotals
from rustygate.telemetry.usage.selection import merge

FILE_NAME = "usage.db"

# How long to wait for another process that has locked the database.
BUSY_S = 0.2

# A slice of fewer days is not worth a thread. More threads would slow down other work.
_SLICE_DAYS = 60
_SLICES_LIMIT = 4

_EPOCH = date(1970, 1, 1).toordinal()

_SUMS = ", ".join(f"sum({name}) AS {name}" for name in TOTALS)


def read_usage(path: Path, query: UsageQuery) -> Grouped:
    """The totals of a report. Raises sqlite3.Error."""
    slices = list(_slices(query, min(_SLICES_LIMIT, os.cpu_count() or 1)))
    if len(slices) == 1:
        return _read(path, query)
    with ThreadPoolExecutor(len(slices)) as threads:
        return merge(*threads.map(lambda part: _read(path, part), slices))


def _slices(query: UsageQuery, limit: int) -> Iterator[UsageQuery]:
    """Split a report into at most `limit` reports of equally many days."""
    first, last = day_number(query.since), day_number(query.until)
    count = max(1, min(limit, (last - first + 1) // _SLICE_DAYS))
    edges = [first + (last - first + 1) * number // count for number in range(count + 1)]
    for start, end in pairwise(edges):
        yield replace(query, since=day_name(start), until=day_name(end - 1))


def _read(path: Path, query: UsageQuery) -> Grouped:
    with closing(_open(path)) as connection:
        statement, values = _statement(query)
        found = connection.execute(statement, values)
        names = dict(connection.execute("SELECT id, name FROM label"))
        return sorted(_grouped(found, query.by, names), key=lambda item: item[0])


def _statement(query: UsageQuery) -> tuple[str, list[int | str]]:
    where = "day BETWEEN ? AND ?"
    values: list[int | str] = [day_number(query.since), day_number(query.until)]
    if query.client is not None:
        where += " AND client = (SELECT id FROM label WHERE name = ?)"
        values.append(query.client)
    source = f"total WHERE {where}"
    if "model" not in query.by:
        # In the order of the primary key, so without sorting all rows: half the time.
        source = f"(SELECT day, client, {_SUMS} FROM {source} GROUP BY day, client)"
    columns = ", ".join(query.by)
    statement = f"SELECT {columns}, {_SUMS} FROM {source} GROUP BY {columns}"
    if query.rows_limit is not None:
        statement += f" LIMIT {query.rows_limit + 1}"
    return statement, values


def _grouped(
    found: sqlite3.Cursor, by: Sequence[str], names: Mapping[int, str]
) -> Iterator[tuple[tuple[str, ...], UsageTotals]]:
    count = len(by)
    shown = [day_name if column == "day" else names.__getitem__ for column in by]
    for row in found:
        group = tuple(show(value) for show, value in zip(shown, row[:count], strict=True))
        yield group, UsageTotals(*row[count:])


def _open(path: Path) -> sqlite3.Connection:
    """A connection that cannot write."""
    connection = _connect(path)
    try:
        schema_version(connection)
        return connection
    except sqlite3.Error as error:
        connection.close()
        # SQLite reads a database in WAL mode only if it can create the log, or finds it. Without
        # a log the database is complete, and nobody changes it.
        may_be_whole = isinstance(error, sqlite3.OperationalError) and path.exists()
        if not may_be_whole or os.path.exists(f"{path}-wal"):
            raise
    return _connect(path, "&immutable=1")


def _connect(path: Path, options: str = "") -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro{options}"
    return sqlite3.connect(uri, timeout=BUSY_S, uri=True)


def schema_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def day_number(day: str) -> int:
    """The days from 1970 to a day such as `2026-11-28`."""
    return date.fromisoformat(day).toordinal() - _EPOCH


def day_name(number: int) -> str:
    return date.fromordinal(number + _EPOCH).isoformat()
