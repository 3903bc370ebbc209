"""`rustygate usage`: the tokens and cost of clients and models, by day.

It reads DATA_DIR, even while the gate runs, or the Redis of a group, or asks a gate at `--url`.
"""

import argparse
import asyncio
import json
import os
import shutil
import sqlite3
from pathlib import Path
from time import time_ns
from urllib.parse import urlencode

from rustygate.cli.environment import ADMIN_KEY_ONLY, DOTENV
from rustygate.cli.errors import CommandError, describe_error
from rustygate.cli.gate_http import AdminPages
from rustygate.cli.output import print_lines
from rustygate.cli.usage_budgets import Row, ask_budgets, budget_lines, read_budgets
from rustygate.cli.usage_table import to_csv, to_json, to_table
from rustygate.config import Settings, load, names
from rustygate.core.periods import date_of
from rustygate.core.usage_rows import (
    DEFAULT_BY,
    DEFAULT_SINCE,
    Grouped,
    UsageQuery,
    UsageQueryError,
    from_rows,
    parse_query,
)
from rustygate.system.terminal import has_color, is_terminal
from rustygate.telemetry.usage.sqlite_report import FILE_NAME, read_usage
from rustygate.telemetry.usage.store import UsageStoreError

# A gate answers at once unless the report is a large one.
TIMEOUT_S = 30.0

_UNNEEDED = {**ADMIN_KEY_ONLY, names.TLS_CERT_FILE: "", names.TLS_KEY_FILE: ""}

_STDOUT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        default="",
        metavar="DAY",
        help="the first UTC day: 7d (today and the six days before), today, 2026-11-01 or 2026-11 "
        f"(default: {DEFAULT_SINCE})",
    )
    parser.add_argument(
        "--until", default="", metavar="DAY", help="the last UTC day (default: today)"
    )
    parser.add_argument(
        "--by",
        default="",
        metavar="COLUMNS",
        help=f"the columns to group by, in any order (default: {','.join(DEFAULT_BY)})",
    )
    parser.add_argument("--client", metavar="NAME", help="report this client only")
    parser.add_argument(
        "--format", choices=("table", "csv", "json"), default="table", help="default: table"
    )
    parser.add_argument(
        "--url",
        metavar="BASE-URL",
        help=f"ask the gate at this URL instead of reading its record; {names.ADMIN_KEY} is sent "
        "if it is set",
    )
    parser.add_argument(
        "--budgets",
        action="store_true",
        help="report what is spent and left of the budgets of clients for this day and month",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.budgets:
        print_lines(*budget_lines(_budgets(arguments), arguments.format))
        return 0
    query = _query(arguments)
    settings = load({**os.environ, **_UNNEEDED}, dotenv=DOTENV)
    grouped = (
        _read(settings, query)
        if arguments.url is None
        else _ask(arguments, query, settings.admin_key)
    )
    print_lines(*_lines(grouped, query, arguments.format))
    return 0


def _budgets(arguments: argparse.Namespace) -> list[Row]:
    """The requested budgets."""
    unneeded = {**_UNNEEDED}
    if arguments.url is None:
        del unneeded[names.CLIENTS_FILE]
    settings = load({**os.environ, **unneeded}, dotenv=DOTENV)
    if arguments.url is None:
        rows = read_budgets(settings, _read)
    else:
        pages = AdminPages(arguments.url, settings.admin_key, TIMEOUT_S, "does not report budgets")
        rows = ask_budgets(pages)
        pages.close()
    return [row for row in rows if arguments.client in (None, row["client"])]


def _query(arguments: argparse.Namespace) -> UsageQuery:
    try:
        return parse_query(
            date_of(time_ns()),
            since=arguments.since,
            until=arguments.until,
            by=arguments.by,
            client=arguments.client,
        )
    except UsageQueryError as error:
        raise CommandError(f"--{error}", exit_code=2) from error


def _lines(grouped: Grouped, query: UsageQuery, form: str) -> list[str]:
    if form == "json":
        return [to_json(grouped, query.by)]
    if form == "csv":
        return [to_csv(grouped, query.by)]
    if not grouped:
        return [f"no usage from {query.since} to {query.until} (UTC)"]
    width = shutil.get_terminal_size().columns if is_terminal(_STDOUT) else None
    return to_table(grouped, query.by, width=width, colored=has_color(_STDOUT))


# From DATA_DIR or Redis.


def _read(settings: Settings, query: UsageQuery) -> Grouped:
    if settings.redis_url is not None:
        return asyncio.run(_read_redis(settings, query))
    if settings.data_dir is None:
        raise CommandError(
            "DATA_DIR is not set: set it or REDIS_URL as for the gate, or ask the gate with --url",
            exit_code=2,
        )
    path = Path(settings.data_dir) / FILE_NAME
    try:
        return read_usage(path, query)
    except sqlite3.Error as error:
        raise CommandError(f"cannot read {path}: {_sqlite_reason(path, error)}") from error


async def _read_redis(settings: Settings, query: UsageQuery) -> Grouped:
    # Not imported without a group, to save time.
    from rustygate.telemetry.usage.redis_usage_store import RedisUsageStore

    store = RedisUsageStore.of(settings)
    try:
        return await store.rows_by(query)
    except UsageStoreError as error:
        group = settings.gate_group
        raise CommandError(f"cannot read the usage of group {group}: {error}") from error
    finally:
        await store.close()


def _sqlite_reason(path: Path, error: sqlite3.Error) -> str:
    try:
        path.open("rb").close()
    except OSError as cause:
        return describe_error(cause)
    return str(error)


# Over HTTP.


def _ask(arguments: argparse.Namespace, query: UsageQuery, admin_key: str | None) -> Grouped:
    parameters = {
        name: getattr(arguments, name)
        for name in ("since", "until", "by", "client")
        if getattr(arguments, name)
    }
    pages = AdminPages(arguments.url, admin_key, TIMEOUT_S, "does not report usage")
    try:
        body = pages.get(f"/gate/usage?{urlencode(parameters)}")
        return from_rows(json.loads(body), query.by)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise pages.error("unexpected response; is it a gate?") from error
    finally:
        pages.close()
