"""How `rustygate usage` prints totals: as a table, as CSV (RFC 4180) or as JSON.

Names of clients and models are untrusted. Control characters, and characters that change the text
direction, are escaped. In CSV, a name that a spreadsheet would read as a formula gets a leading
apostrophe.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from unicodedata import combining, east_asian_width

from rustygate.cli.output import printable
from rustygate.core.usage_rows import Grouped, UsageTotals, amounts, as_rows, total
from rustygate.system.terminal import BOLD, DIM, RESET, YELLOW

_NANO, _MICRO = 1_000_000_000, 1_000_000

_GAP = "  "

# Shown for a cost of which no part is known.
UNKNOWN = "unknown"

# Characters that start a formula in a spreadsheet.
_FORMULA_STARTS = ("=", "+", "-", "@")


def to_json(grouped: Grouped, by: Sequence[str]) -> str:
    """The rows as JSON, each on a line."""
    rows = ",\n".join(json.dumps(row) for row in as_rows(grouped, by))
    return f"[\n{rows}\n]" if rows else "[]"


def to_csv(grouped: Grouped, by: Sequence[str]) -> str:
    """The rows as CSV with a header, without the last line feed."""
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow((*by, *amounts(UsageTotals())))
    writer.writerows((*map(_safe_cell, names), *_csv_amounts(totals)) for names, totals in grouped)
    return output.getvalue()[:-1]


def _csv_amounts(totals: UsageTotals) -> Iterator[int | str]:
    for name, amount in amounts(totals).items():
        if name == "queued_seconds":
            yield _decimal(totals.queued_us, _MICRO)
        elif name == "cost_usd":
            yield "" if totals.unpriced else _decimal(totals.cost_nano_usd, _NANO)
        else:
            assert isinstance(amount, int)
            yield amount


def _decimal(amount: int, unit: int) -> str:
    """An exact decimal number without an exponent."""
    whole, part = divmod(amount, unit)
    digits = str(unit + part)[1:].rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _safe_cell(name: str) -> str:
    shown = printable(name)
    return f"'{shown}" if shown.startswith(_FORMULA_STARTS) else shown


# The table.


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table: its cells with the header first and, at the end, the total."""

    cells: list[str]
    is_number: bool = True
    is_empty: bool = False

    @property
    def width(self) -> int:
        return max(map(_width, self.cells))

    def padded(self) -> list[str]:
        """The cells, as wide as the widest."""
        width = self.width
        pads = [" " * (width - _width(cell)) for cell in self.cells]
        pairs = zip(self.cells, pads, strict=True)
        return [pad + cell if self.is_number else cell + pad for cell, pad in pairs]


def to_table(
    grouped: Grouped, by: Sequence[str], *, width: int | None = None, colored: bool = False
) -> list[str]:
    """The lines of an aligned table with a row of totals.

    Args:
        width: columns without any amount are left out of a table that is wider; None: no limit.
    """
    columns = _columns(grouped, by)
    if width is not None and _total_width(columns) > width:
        columns = [column for column in columns if not column.is_empty]
    header, *rows = map(_GAP.join, zip(*(column.padded() for column in columns), strict=True))
    lines = [header.rstrip(), *(row.rstrip() for row in rows)]
    if not colored:
        return lines
    return [f"{DIM}{lines[0]}{RESET}", *map(_colored, lines[1:-1]), f"{BOLD}{lines[-1]}{RESET}"]


def _colored(line: str) -> str:
    cells = line.removesuffix(UNKNOWN)
    return line if cells == line else f"{cells}{YELLOW}{UNKNOWN}{RESET}"


def _columns(grouped: Grouped, by: Sequence[str]) -> list[_Column]:
    parts = [totals for _, totals in grouped]
    everything = total(parts)
    parts.append(everything)
    return [
        *_name_columns([names for names, _ in grouped], by),
        *(_count_column(header, field, parts) for header, field in _COUNTS),
        _queued_column(parts),
        _Column(["cost USD", *_costs(parts)]),
    ]


def _name_columns(rows: Sequence[Sequence[str]], by: Sequence[str]) -> Iterator[_Column]:
    for index, (column, end) in enumerate(zip_longest(by, ("total",), fillvalue="")):
        cells = [column, *(printable(names[index]) for names in rows), end]
        yield _Column(cells, is_number=False)


def _count_column(header: str, field: str, parts: Sequence[UsageTotals]) -> _Column:
    counts = [getattr(part, field) for part in parts]
    return _Column([header, *(f"{count:,}" for count in counts)], is_empty=not counts[-1])


def _queued_column(parts: Sequence[UsageTotals]) -> _Column:
    cells = ["queued s", *(f"{part.queued_us / _MICRO:,.1f}" for part in parts)]
    return _Column(cells, is_empty=not parts[-1].queued_us)


_COUNTS = (
    ("exchanges", "exchanges"),
    ("refused", "refused"),
    ("tokens in", "tokens_in"),
    ("cached", "tokens_cached"),
    ("tokens out", "tokens_out"),
    ("estimated", "tokens_estimated"),
)


def _costs(parts: Sequence[UsageTotals]) -> Iterator[str]:
    # The last part is the sum.
    digits = 4 if parts[-1].cost_nano_usd < 100 * _NANO else 2
    for part in parts:
        cost = _dollars(part.cost_nano_usd, digits)
        if not part.unpriced:
            yield cost
        else:
            yield f">= {cost}" if part.cost_nano_usd else UNKNOWN


def _dollars(nano: int, digits: int) -> str:
    """Dollars, rounded; an amount that is not 0 is not shown as 0."""
    smallest = 10**-digits
    if 0 < nano < smallest * _NANO:
        return f"< {smallest}"
    return f"{nano / _NANO:,.{digits}f}"


def _total_width(columns: Iterable[_Column]) -> int:
    widths = [column.width for column in columns]
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _width(text: str) -> int:
    """The cells of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
