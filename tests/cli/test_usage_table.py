"""How `rustygate usage` prints totals."""

import csv
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.cli.output import printable
from rustygate.cli.usage_table import to_csv, to_json, to_table
from rustygate.core.usage_rows import Grouped, UsageTotals, from_rows

BY = ("client", "day")

SEARCH = UsageTotals(
    exchanges=12_345,
    refused=6,
    tokens_in=1_234_567,
    tokens_cached=1_000_000,
    tokens_out=89_012,
    tokens_reasoning=500,
    tokens_estimated=345,
    queued_us=67_890_123,
    cost_nano_usd=2_567_890_123,
)
CHAT = UsageTotals(exchanges=7, tokens_in=10, tokens_out=20, cost_nano_usd=49_500)
GROUPED: Grouped = [(("chat", "2026-11-27"), CHAT), (("search", "2026-11-28"), SEARCH)]


TABLE = """\
client  day         exchanges  refused  tokens in     cached  tokens out  estimated  queued s  cost USD
chat    2026-11-27          7        0         10          0          20          0       0.0  < 0.0001
search  2026-11-28     12,345        6  1,234,567  1,000,000      89,012        345      67.9    2.5679
total                  12,352        6  1,234,577  1,000,000      89,032        345      67.9    2.5679\
"""  # noqa: E501


def costs(*totals: UsageTotals) -> list[str]:
    """The cells of the cost in a table, the total last."""
    lines = to_table([((str(n),), each) for n, each in enumerate(totals)], ("client",))
    return [re.split("  +", line)[-1] for line in lines[1:]]


def spend(nano: int, unpriced: int = 0) -> UsageTotals:
    return UsageTotals(exchanges=1, cost_nano_usd=nano, unpriced=unpriced)


# The table.


def test_table_is_aligned_with_totals() -> None:
    assert "\n".join(to_table(GROUPED, BY)) == TABLE


def test_numbers_are_right_aligned() -> None:
    header, *rows = to_table(GROUPED, BY)
    assert {len(row) for row in rows} == {len(header)}
    ends = [header.index(name) + len(name) for name in ("exchanges", "tokens out", "queued s")]
    for row in rows:
        assert [row[end - 1].isdigit() and row[end] == " " for end in ends] == [True] * 3


def test_table_leaves_out_empty_columns_if_it_is_too_wide() -> None:
    grouped: Grouped = [(("a-client-with-a-name", "2026-11-28"), CHAT)]
    full = to_table(grouped, BY)
    assert to_table(grouped, BY, width=len(full[0])) == full
    narrow = to_table(grouped, BY, width=len(full[0]) - 1)
    assert re.split("  +", narrow[0]) == [*BY, "exchanges", "tokens in", "tokens out", "cost USD"]
    assert max(map(len, narrow)) <= 80
    # Amounts are never left out.
    assert to_table(GROUPED, BY, width=20) == to_table(GROUPED, BY)


@pytest.mark.parametrize(
    ("totals", "cells"),
    [
        ([spend(0)], ["0.0000", "0.0000"]),
        ([spend(1_230_000_000)], ["1.2300", "1.2300"]),
        ([spend(1)], ["< 0.0001", "< 0.0001"]),
        ([spend(100_000)], ["0.0001", "0.0001"]),
        ([spend(99_999)], ["< 0.0001", "< 0.0001"]),
        ([spend(0, 1)], ["unknown", "unknown"]),
        ([spend(1_230_000_000, 1)], [">= 1.2300", ">= 1.2300"]),
        ([spend(1_230_000_000), spend(0, 2)], ["1.2300", "unknown", ">= 1.2300"]),
        ([spend(99_999_000_000), spend(0)], ["99.9990", "0.0000", "99.9990"]),
        ([spend(1_234_567_891_234), spend(1)], ["1,234.57", "< 0.01", "1,234.57"]),
    ],
)
def test_costs(totals: list[UsageTotals], cells: list[str]) -> None:
    assert costs(*totals) == cells


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("abc\u202edef\u200f", r"abc\u202edef\u200f"),
        ("\u2066x\u2069\u200b\ufeff", r"\u2066x\u2069\u200b\ufeff"),
        ("x\x9b31m", r"x\x9b31m"),
        ("über / 模型 'x'", "über / 模型 'x'"),
        ("<b>&amp;", "<b>&amp;"),
    ],
)
def test_names_are_escaped_for_the_terminal(name: str, shown: str) -> None:
    assert printable(name) == shown
    grouped: Grouped = [((name,), CHAT)]
    for text in ("\n".join(to_table(grouped, ["client"])), to_csv(grouped, ["client"])):
        assert shown in text
        assert name == shown or name not in text


def test_wide_and_combining_characters_are_aligned() -> None:
    names = ["abcd", "模型", "a\u0301bcd"]
    lines = to_table([((name,), CHAT) for name in names], ("client",))
    assert [line.index(" ") for line in lines[1:]] == [4, 2, 5, 5]
    assert lines[2].startswith("模型            7")
    assert lines[1].startswith("abcd            7")


def test_colour_marks_header_unknown_costs_and_totals() -> None:
    grouped: Grouped = [(("unknown-client",), spend(0, 1)), (("a",), spend(5))]
    header, first, second, last = to_table(grouped, ("client",), colored=True)
    assert header.startswith("\x1b[2mclient")
    assert first.startswith("unknown-client ")
    assert first.endswith("\x1b[33munknown\x1b[0m")
    assert "\x1b" not in second
    assert last.startswith("\x1b[1mtotal")
    assert last.endswith("\x1b[0m")


# CSV.


def read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(f"{text}\n", newline="")))


def test_csv_has_the_documented_columns_and_exact_numbers() -> None:
    header = (
        "exchanges,refused,tokens_in,tokens_cached,tokens_out,tokens_estimated,queued_seconds,"
        "cost_usd"
    )
    assert to_csv(GROUPED, BY) == (
        f"client,day,{header}\r\n"
        "chat,2026-11-27,7,0,10,0,20,0,0,0.0000495\r\n"
        "search,2026-11-28,12345,6,1234567,1000000,89012,345,67.890123,2.567890123\r"
    )
    assert to_csv([], ("day",)) == f"day,{header}\r"


def test_unknown_cost_is_an_empty_cell() -> None:
    assert read_csv(to_csv([(("a",), spend(5, 1))], ["client"]))[1][-1] == ""


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_csv_has_no_formulas(start: str) -> None:
    name = f'{start}HYPERLINK("http://x","y")'
    assert read_csv(to_csv([((name,), CHAT)], ["client"]))[1][0] == f"'{name}"


@given(st.lists(st.text(), min_size=1))
def test_csv_can_be_read_whatever_the_names(names: list[str]) -> None:
    rows = read_csv(to_csv([((name,), CHAT) for name in names], ["client"]))
    assert [len(row) for row in rows] == [9] * (len(names) + 1)
    for row, name in zip(rows[1:], names, strict=True):
        assert row[0].removeprefix("'") == printable(name).removeprefix("'")
        assert row[0].isprintable()


# JSON.


def test_json_has_a_row_on_each_line() -> None:
    lines = to_json(GROUPED, BY).splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("[", "]", 4)
    assert json.loads(lines[2])["cost_usd"] == 2.567890123
    assert to_json([], BY) == "[]"


amounts = st.builds(UsageTotals, *[st.integers(0, 10**12)] * 5, st.just(0), st.integers(0, 10**12))


@given(st.lists(st.tuples(st.tuples(st.text()), amounts)), st.integers(0, 10**12))
def test_rows_can_be_read_back(grouped: Grouped, number: int) -> None:
    for _, totals in grouped:
        totals.queued_us = number
        totals.cost_nano_usd = number
    assert from_rows(json.loads(to_json(grouped, ["client"])), ["client"]) == grouped


def test_json_is_ascii() -> None:
    text = to_json([(("\x1b[31m\u202e模",), CHAT)], ["client"])
    assert text.isascii()
    assert json.loads(text)[0]["client"] == "\x1b[31m\u202e模"


def test_unknown_cost_is_read_back_as_unknown() -> None:
    grouped: Grouped = [(("a",), spend(5, 3))]
    [(_, totals)] = from_rows(json.loads(to_json(grouped, ["client"])), ["client"])
    assert (totals.unpriced, totals.cost_nano_usd) == (1, 0)


@pytest.mark.parametrize(
    "rows", [{}, {"error": {}}, [1], [[]], [{}], [{"client": "a"}], "text", 5, None]
)
def test_something_else_is_no_report(rows: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_rows(rows, ["client"])
