"""`rustygate usage --budgets`: what is spent and left of the budgets of clients."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from time import time_ns
from typing import Any

import msgspec

from rustygate.admission.client_budgets import Spending
from rustygate.cli.errors import CommandError
from rustygate.cli.gate_http import AdminPages
from rustygate.cli.output import printable
from rustygate.config import Settings, names, read_clients_file
from rustygate.core.price_list import PriceList
from rustygate.core.saved_levels import FILE_NAME, SavedSpending, decode_levels
from rustygate.core.usage_rows import Grouped, UsageQuery
from rustygate.telemetry.usage.spending import set_spending, spending_query

Row = dict[str, Any]


class _Row(msgspec.Struct):
    client: str
    budget: str
    # Tokens are whole numbers.
    spent: int | float
    reserved: int | float
    limit: int | float
    left: int | float
    ends: str


COLUMNS = _Row.__struct_fields__


def read_budgets(settings: Settings, read: Callable[[Settings, UsageQuery], Grouped]) -> list[Row]:
    """The budgets in CLIENTS_FILE, with the spending in the usage record."""
    if settings.clients_file is None:
        raise CommandError(
            f"{names.CLIENTS_FILE} is not set: set it as for the gate, or ask the gate with --url",
            exit_code=2,
        )
    now = time_ns()
    clients = read_clients_file(settings.clients_file).by_name
    spending = Spending(PriceList(), lambda: now)
    spending.set_limits({name: client.spending for name, client in clients.items()})
    set_spending(spending, read(settings, spending_query(now)), now)
    if settings.redis_url is None and settings.data_dir is not None:
        spending.restore_unrecorded(_read_unrecorded(Path(settings.data_dir)))
    return [dict(row) for row in spending.rows()]


def _read_unrecorded(directory: Path) -> tuple[SavedSpending, ...]:
    """What the gate has saved apart from the usage record."""
    try:
        saved = decode_levels((directory / FILE_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return ()
    return () if isinstance(saved, int) else saved.unrecorded


def ask_budgets(pages: AdminPages) -> list[Row]:
    """The budgets of a running gate, with what is reserved."""
    body = pages.get("/gate/budgets")
    try:
        rows = msgspec.json.decode(body, type=list[_Row])
    except (ValueError, RecursionError) as error:
        raise pages.error("unexpected response; is it a gate of this version?") from error
    return [msgspec.structs.asdict(row) for row in rows]


def budget_lines(rows: Sequence[Row], form: str) -> list[str]:
    """The budgets as a table, CSV (RFC 4180) or JSON."""
    if form == "json":
        return [json.dumps(rows, indent=1)]
    if form == "csv":
        return [_csv(rows)]
    if not rows:
        return ["no client has a budget"]
    return _aligned([[*COLUMNS[:-1], "used", COLUMNS[-1]], *map(_cells, rows)])


def _csv(rows: Sequence[Row]) -> str:
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([row[name] for name in COLUMNS])
    return output.getvalue()[:-1]


def _cells(row: Row) -> list[str]:
    digits = 4 if str(row["budget"]).startswith("usd_") else 0
    amounts = (f"{row[name]:,.{digits}f}" for name in ("spent", "reserved", "limit", "left"))
    used = f"{row['spent'] / row['limit']:.0%}"
    return [printable(row["client"]), printable(row["budget"]), *amounts, used, row["ends"]]


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: names to the left, numbers to the right."""
    columns = [
        [cell.ljust(width) if title in _NAMES else cell.rjust(width) for cell in column]
        for column in zip(*cells, strict=True)
        for width, title in [(max(map(len, column)), column[0])]
    ]
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


_NAMES = frozenset({"client", "budget", "ends"})
