"""The usage record: totals by day, client and model, and the rows of reports.

All amounts are integers, rounded once per exchange. So a sum does not depend on how exchanges are
split into batches, days, members or rows.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from operator import attrgetter
from typing import Any, NamedTuple

from rustygate.core.periods import last_of_month

_NANO = 1_000_000_000
_MICRO = 1_000_000


class UsageKey(NamedTuple):
    """What usage is recorded by: a UTC day such as `2026-11-28`, and labels as in the metrics."""

    day: str
    client: str
    model: str


@dataclass(slots=True)
class UsageTotals:
    """The sums over some settled exchanges.

    Args:
        exchanges: all of them; `refused` is how many of them the gate refused.
        tokens_in: as upstream reported them, like `tokens_out`; `tokens_cached` is a part of
            `tokens_in`, and `tokens_reasoning` of `tokens_out`.
        tokens_estimated: input and output of exchanges without a reported usage. The other
            counts do not include them.
        queued_us: microseconds spent waiting for admission. In nanoseconds, 10,000 waiters would
            exceed 64 bits within ten days.
        cost_nano_usd: the known cost, in billionths of a dollar.
        unpriced: exchanges whose cost is not known.
    """

    exchanges: int = 0
    refused: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    tokens_reasoning: int = 0
    tokens_estimated: int = 0
    queued_us: int = 0
    cost_nano_usd: int = 0
    unpriced: int = 0

    def add(self, other: "UsageTotals") -> None:
        """Add other totals to these."""
        self.exchanges += other.exchanges
        self.refused += other.refused
        self.tokens_in += other.tokens_in
        self.tokens_cached += other.tokens_cached
        self.tokens_out += other.tokens_out
        self.tokens_reasoning += other.tokens_reasoning
        self.tokens_estimated += other.tokens_estimated
        self.queued_us += other.queued_us
        self.cost_nano_usd += other.cost_nano_usd
        self.unpriced += other.unpriced

    def values(self) -> tuple[int, ...]:
        """The amounts in the order of TOTALS."""
        amounts: tuple[int, ...] = _amounts_of(self)
        return amounts


# The names of the amounts, as stores keep them.
TOTALS = tuple(each.name for each in fields(UsageTotals))
_amounts_of = attrgetter(*TOTALS)

# What rows can be grouped by, and the default.
COLUMNS = ("day", "client", "model")
DEFAULT_BY = ("client", "model", "day")
DEFAULT_SINCE = "7d"

Row = dict[str, str | int | float | None]
Grouped = list[tuple[tuple[str, ...], UsageTotals]]


def group(usage: Mapping[UsageKey, UsageTotals], by: Sequence[str]) -> Grouped:
    """The totals by some columns, in ascending order of these."""
    indexes = [COLUMNS.index(column) for column in by]
    sums: dict[tuple[str, ...], UsageTotals] = {}
    for key, totals in usage.items():
        sums.setdefault(tuple(key[index] for index in indexes), UsageTotals()).add(totals)
    return sorted(sums.items(), key=lambda item: item[0])


def total(parts: Iterable[UsageTotals]) -> UsageTotals:
    """The sum of totals."""
    result = UsageTotals()
    for part in parts:
        result.add(part)
    return result


def as_rows(grouped: Grouped, by: Sequence[str]) -> list[Row]:
    """The rows of a report, as they appear in JSON."""
    return [{**dict(zip(by, names, strict=True)), **amounts(totals)} for names, totals in grouped]


def from_rows(rows: object, by: Sequence[str]) -> Grouped:
    """The totals in rows of a report, as far as rows show them.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    if not isinstance(rows, list):
        raise TypeError("not a list")
    return [(tuple(str(row[column]) for column in by), _totals_in(row)) for row in rows]


def _totals_in(row: Mapping[str, Any]) -> UsageTotals:
    cost = row["cost_usd"]
    return UsageTotals(
        **{name: int(row[name]) for name in _COUNTS},
        queued_us=round(row["queued_seconds"] * _MICRO),
        cost_nano_usd=0 if cost is None else round(cost * _NANO),
        unpriced=int(cost is None),
    )


# The amounts that a row has under the same name.
_COUNTS = (
    "exchanges",
    "refused",
    "tokens_in",
    "tokens_cached",
    "tokens_out",
    "tokens_estimated",
)


def amounts(totals: UsageTotals) -> dict[str, int | float | None]:
    """The columns of a row after those that it is grouped by.

    `cost_usd` is None if the cost of any exchange is not known.
    """
    return {
        **{name: getattr(totals, name) for name in _COUNTS},
        "queued_seconds": totals.queued_us / _MICRO,
        "cost_usd": None if totals.unpriced else totals.cost_nano_usd / _NANO,
    }


# What to report.


class UsageQueryError(ValueError):
    """The query is invalid: the message says what was expected."""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which rows to report: of the days from `since` to `until`, both included, and of one
    client if there is one.

    Args:
        rows_limit: if there are more rows, at least one more than this is returned.
    """

    since: str
    until: str
    by: tuple[str, ...] = DEFAULT_BY
    client: str | None = None
    rows_limit: int | None = None


def parse_query(
    today: date, *, since: str = "", until: str = "", by: str = "", client: str | None = None
) -> UsageQuery:
    """A report as a user asks for it; an empty text stands for the default.

    Raises UsageQueryError.
    """
    first = _parse_since(since or DEFAULT_SINCE, today)
    last = _parse_until(until or "today", today)
    if first > last:
        raise UsageQueryError(f"since is {first}, after until, which is {last}; swap them")
    columns = parse_by(by) if by else DEFAULT_BY
    # As in labels: UTF-8 cannot encode a lone surrogate.
    label = client.encode(errors="replace").decode() if client else None
    return UsageQuery(first.isoformat(), last.isoformat(), columns, label)


def parse_by(text: str) -> tuple[str, ...]:
    """Columns such as `client,day`, each at most once, in any order. Raises UsageQueryError."""
    columns = tuple(column.strip() for column in text.split(","))
    if len(set(columns)) < len(columns) or not set(columns) <= set(COLUMNS):
        expected = "expected one or more of client, model and day, each once, such as client,day"
        raise UsageQueryError(f"by is {_shown(text)}: {expected}")
    return columns


# How much of a rejected text an error quotes.
_SHOWN_LENGTH = 40

_DAYS = re.compile(r"([1-9][0-9]{0,3})d")
_MONTH = re.compile(r"[0-9]{4}-[0-9]{2}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _parse_since(text: str, today: date) -> date:
    days = _DAYS.fullmatch(text)
    if days is not None:
        return today - timedelta(days=int(days[1]) - 1)
    parsed = _parse_date(text, today)
    if parsed is None:
        expected = "expected a number of days such as 7d, today, 2026-11-01 or 2026-11"
        raise UsageQueryError(f"since is {_shown(text)}: {expected}; usage is recorded by UTC day")
    return parsed.replace(day=1) if _MONTH.fullmatch(text) else parsed


def _parse_until(text: str, today: date) -> date:
    parsed = _parse_date(text, today)
    if parsed is None:
        expected = "expected today, a day such as 2026-11-30 or a month such as 2026-11"
        raise UsageQueryError(f"until is {_shown(text)}: {expected}; usage is recorded by UTC day")
    return parsed


def _parse_date(text: str, today: date) -> date | None:
    """A day, or the last day of a month."""
    try:
        if text == "today":
            return today
        if _MONTH.fullmatch(text):
            return last_of_month(text)
        return date.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        return None


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_LENGTH])
