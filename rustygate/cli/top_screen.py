"""The screen of `rustygate top`: the state of a gate as text, fitted to the terminal.

The state is that of `GET /gate/state`. Names in it are untrusted: they are shown as text, and
unprintable characters are escaped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from io import StringIO
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rustygate.cli.output import printable

State = Mapping[str, Any]

# The lines above the tables, and the lines of each table besides its rows.
HEADER_LINES = 4
_TABLE_LINES = 2

_ANY_HEIGHT = 100

_NOTHING = "-"
_BAD, _DIM, _TITLE = "bold red", "dim", "bold"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, and the text of a row. Numbers are aligned to the right."""

    title: str
    text: Callable[[State], str]
    is_name: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A table.

    Args:
        key: the key of its list in the state.
        part: the part of the free lines that it may take before the tables below it get theirs.
        importance: if not all rows fit, those of the highest importance are shown; None: the
            first ones.
    """

    title: str
    key: str
    columns: Sequence[Column]
    part: float
    is_bad: Callable[[State], bool] = lambda row: False
    importance: Callable[[State], tuple[float, ...]] | None = None

    def most_important(self, rows: Sequence[State], count: int) -> Sequence[State]:
        """At most this many of the rows, in their order, so that a row keeps its place."""
        if self.importance is None or len(rows) <= count:
            return rows[:count]
        importance = self.importance
        first = nlargest(count, range(len(rows)), key=lambda place: importance(rows[place]))
        return [rows[place] for place in sorted(first)]


def screen(state: State, height: int, notice: str = "") -> RenderableType:
    """The screen for a state.

    Args:
        height: lines of the terminal.
        notice: what is wrong, such as a gate that does not respond.
    """
    lines = list(_header(state))[:HEADER_LINES]
    if notice:
        lines[-1] = Text(printable(notice), style=_BAD, no_wrap=True, overflow="ellipsis")
    tables = _fitted(state, height - len(lines))
    return Group(*lines, *tables)


def can_show(state: object) -> bool:
    """Whether this is the state of a gate, with everything that the screen shows."""
    try:
        Console(file=StringIO()).print(screen(state, _ANY_HEIGHT))  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return True


# The header.


def _header(state: State) -> Iterator[Text]:
    group = state["group"]
    yield _line(
        Text("RustyGate", style=_TITLE),
        Text(state["state"], style="green" if state["state"] == "serving" else _BAD),
        f"up {duration(state['uptime_s'])}",
        f"group {group['state']}, {group['members']} gates" if group["members"] > 1 else "",
        _workers(state.get("workers", ())),
        _alarming("upstream's 429s in 5 min", state["upstream_429_5m"]),
    )
    yield _line(
        f"in flight {state['in_flight']:,}",
        f"waiting {state['waiting']:,}",
        f"admitted {state['admitted_per_s']:.1f}/s",
        f"longest wait {duration(state['longest_wait_s'])}",
    )
    refused = [(reason, count) for reason, count in state["refusals"].items() if count]
    refused.sort(key=lambda each: -each[1])
    yield _line("refused", *(f"{reason} {count:,}" for reason, count in refused or [("none", 0)]))
    yield Text("q quits", style=_DIM)


def _line(*parts: str | Text) -> Text:
    line = Text("  ").join(Text(part) if isinstance(part, str) else part for part in parts if part)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _workers(workers: Sequence[State]) -> Text | str:
    """How many of several workers serve; empty if the gate is a single process."""
    serving = sum(worker["state"] == "serving" for worker in workers)
    if serving == len(workers):
        return f"{serving} workers" if workers else ""
    return Text(f"{serving} of {len(workers)} workers", style=_BAD)


def _alarming(name: str, count: int) -> Text:
    return Text(f"{name} {count:,}", style=_BAD if count else "")


# The tables.


def _fitted(state: State, lines: int) -> Iterator[RenderableType]:
    """The tables, each with as many rows as fit."""
    left = lines
    for index, section in enumerate(SECTIONS):
        below = len(SECTIONS) - index - 1
        rows = state.get(section.key, ())
        room = left - _TABLE_LINES - below * (_TABLE_LINES + 1)
        if room < 1:
            return
        allowed = room if not below else max(1, int(room * section.part))
        shown = section.most_important(rows, allowed)
        yield _table(section, rows, shown)
        left -= _TABLE_LINES + max(1, len(shown))


def _table(section: Section, rows: Sequence[State], shown: Sequence[State]) -> RenderableType:
    count = f"{len(shown)} of {len(rows)}" if len(shown) < len(rows) else ""
    title = _line(Text(section.title, style=_TITLE), Text(count, style=_DIM))
    if not rows:
        return Group(title, Text("  none", style=_DIM))
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style=_DIM, expand=True)
    for column in section.columns:
        table.add_column(
            column.title,
            justify="left" if column.is_name else "right",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if column.is_name else None,
        )
    for row in shown:
        cells = (Text(column.text(row)) for column in section.columns)
        table.add_row(*cells, style=_BAD if section.is_bad(row) else "")
    return Group(title, table)


# The cells.


def name_of(key: str) -> Callable[[State], str]:
    return lambda row: printable(str(row[key])) if row[key] else _NOTHING


def number_of(key: str) -> Callable[[State], str]:
    return lambda row: count(row[key])


def seconds_of(key: str) -> Callable[[State], str]:
    return lambda row: duration(row[key]) if row[key] else _NOTHING


def _budget_of(kind: str) -> Callable[[State], str]:
    def text(row: State) -> str:
        for budget in row["budgets"]:
            if budget["budget"] == kind:
                return f"{count(budget['level'])}/{count(budget['limit'])}"
        return _NOTHING

    return text


def _forecast(row: State) -> str:
    waits = row["forecast_s"].values()
    known = [duration(wait) if wait is not None else _NOTHING for wait in waits]
    return " ".join(known) or _NOTHING


def _share(row: State) -> str:
    got, due = row["share"], row["share_due"]
    return _NOTHING if got is None or due is None else f"{got:.0%}/{due:.0%}"


def _cost(row: State) -> str:
    usd = row["cost_today_usd"]
    return "unknown" if usd is None else f"${usd:,.2f}"


def _status(row: State) -> str:
    return _NOTHING if row["status"] is None else str(row["status"])


def _milliseconds(key: str) -> Callable[[State], str]:
    return lambda row: _NOTHING if row[key] is None else duration(row[key] / 1000)


def count(number: float | None) -> str:
    """A number in at most six characters: `950`, `12.3k`, `4.1M`."""
    if number is None:
        return _NOTHING
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            return f"{number / (1e3 if unit == 'k' else limit):.1f}{unit}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """A time in at most seven characters: `85 ms`, `3.2 s`, `5m12s`, `7h05m`, `12d03h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"


SECTIONS = (
    Section(
        "LANES",
        "lanes",
        (
            Column("model", name_of("model"), is_name=True),
            Column("requests", _budget_of("requests")),
            Column("tokens", _budget_of("tokens")),
            Column("waiting", number_of("waiting")),
            Column("paused", seconds_of("paused_s")),
            Column("wait by class", _forecast),
        ),
        part=0.3,
        is_bad=lambda row: row["paused_s"] > 0,
        importance=lambda row: (row["paused_s"] > 0, row["waiting"], row["in_flight"]),
    ),
    Section(
        "CLIENTS",
        "clients",
        (
            Column("client", name_of("client"), is_name=True),
            Column("weight", lambda row: f"{row['weight']:g}"),
            Column("class", name_of("priority")),
            Column("waiting", number_of("waiting")),
            Column("in flight", number_of("in_flight")),
            Column("share/due", _share),
            Column("tokens", number_of("tokens_today")),
            Column("cost", _cost),
        ),
        part=0.4,
        importance=lambda row: (row["waiting"], row["in_flight"], row["tokens_today"]),
    ),
    Section(
        "NEXT",
        "queue",
        (
            Column("client", name_of("client"), is_name=True),
            Column("model", name_of("model"), is_name=True),
            Column("cost", number_of("cost")),
            Column("waited", seconds_of("waited_s")),
            Column("expected", seconds_of("expected_s")),
            Column("waits for", name_of("blocked_by")),
        ),
        part=0.5,
    ),
    Section(
        "LAST",
        "recent",
        (
            Column("client", name_of("client"), is_name=True),
            Column("model", name_of("model"), is_name=True),
            Column("status", _status),
            Column("outcome", name_of("outcome")),
            Column("queued", _milliseconds("queued_ms")),
            Column("total", _milliseconds("total_ms")),
        ),
        part=1.0,
        is_bad=lambda row: row["outcome"] not in ("ok", "client_left"),
    ),
)
