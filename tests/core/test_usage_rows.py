"""Usage totals, the rows of reports, and what a report can be asked for."""

from collections.abc import Iterable, Sequence
from datetime import date
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.usage_rows import (
    COLUMNS,
    TOTALS,
    UsageKey,
    UsageQuery,
    UsageQueryError,
    UsageTotals,
    as_rows,
    group,
    parse_query,
    total,
)

TODAY = date(2026, 11, 28)

Record = dict[UsageKey, UsageTotals]

keys = st.builds(
    UsageKey,
    st.sampled_from(["2026-11-27", "2026-11-28"]),
    st.sampled_from(["search", "chat"]),
    st.sampled_from(["gpt-4o", "o3", "(unknown)"]),
)
totals = st.builds(UsageTotals, *[st.integers(0, 10**12)] * len(TOTALS))
exchanges = st.lists(st.tuples(keys, totals), max_size=30)
subsets = [each for size in (1, 2, 3) for each in permutations(COLUMNS, size)]


def record(parts: Iterable[tuple[UsageKey, UsageTotals]]) -> Record:
    result: Record = {}
    for key, part in parts:
        result.setdefault(key, UsageTotals()).add(part)
    return result


# Totals.


def test_totals_add_up_field_by_field() -> None:
    first = UsageTotals(*range(1, 11))
    first.add(UsageTotals(*range(100, 1100, 100)))
    assert first.values() == (101, 202, 303, 404, 505, 606, 707, 808, 909, 1010)
    assert dict(zip(TOTALS, first.values(), strict=True)) == {
        "exchanges": 101,
        "refused": 202,
        "tokens_in": 303,
        "tokens_cached": 404,
        "tokens_out": 505,
        "tokens_reasoning": 606,
        "tokens_estimated": 707,
        "queued_us": 808,
        "cost_nano_usd": 909,
        "unpriced": 1010,
    }


@given(exchanges, st.lists(st.integers(0, 30)), st.sampled_from(subsets))
def test_sums_do_not_depend_on_how_exchanges_are_split(
    parts: list[tuple[UsageKey, UsageTotals]], cuts: list[int], by: Sequence[str]
) -> None:
    edges = [0, *sorted(cuts), len(parts)]
    batches = [record(parts[start:end]) for start, end in pairwise(edges)]
    whole = record(parts)
    assert record(item for batch in batches for item in batch.items()) == whole
    assert total(sums for _, sums in group(whole, by)) == total(part for _, part in parts)


@given(exchanges, st.sampled_from(subsets))
def test_groups_are_the_sums_of_their_exchanges(
    parts: list[tuple[UsageKey, UsageTotals]], by: Sequence[str]
) -> None:
    grouped = group(record(parts), by)
    found = [names for names, _ in grouped]
    assert found == sorted(set(found))
    for names, sums in grouped:
        own = [part for key, part in parts if tuple(getattr(key, c) for c in by) == names]
        assert sums == total(own)
        assert own


def test_grouping_leaves_the_record_as_it_was() -> None:
    usage = {UsageKey("2026-11-28", "a", "m"): UsageTotals(1)}
    usage[UsageKey("2026-11-28", "b", "m")] = UsageTotals(2)
    assert group(usage, ["day"]) == [(("2026-11-28",), UsageTotals(3))]
    assert [each.exchanges for each in usage.values()] == [1, 2]


# Rows.


def test_row_has_the_documented_columns() -> None:
    sums = UsageTotals(9, 1, 1000, 200, 300, 40, 50, 1_250_000, 1_234_567_890, 0)
    rows = as_rows([(("2026-11-28", "search"), sums)], ("day", "client"))
    assert [list(row.items()) for row in rows] == [
        [
            ("day", "2026-11-28"),
            ("client", "search"),
            ("exchanges", 9),
            ("refused", 1),
            ("tokens_in", 1000),
            ("tokens_cached", 200),
            ("tokens_out", 300),
            ("tokens_estimated", 50),
            ("queued_seconds", 1.25),
            ("cost_usd", 1.23456789),
        ]
    ]


def test_row_with_an_unpriced_exchange_has_no_cost() -> None:
    [row] = as_rows([(("search",), UsageTotals(2, cost_nano_usd=5, unpriced=1))], ("client",))
    assert row["cost_usd"] is None


def test_row_without_cost_costs_zero() -> None:
    [row] = as_rows([(("search",), UsageTotals(2))], ("client",))
    assert row["cost_usd"] == 0


# Queries.


def test_default_report_covers_seven_days_with_today() -> None:
    query = parse_query(TODAY)
    assert query == UsageQuery("2026-11-22", "2026-11-28", ("client", "model", "day"), None)


@pytest.mark.parametrize(
    ("since", "first"),
    [
        ("1d", "2026-11-28"),
        ("30d", "2026-10-30"),
        ("today", "2026-11-28"),
        ("2026-11-03", "2026-11-03"),
        ("2026-11", "2026-11-01"),
        ("2024-02", "2024-02-01"),
    ],
)
def test_since(since: str, first: str) -> None:
    assert parse_query(TODAY, since=since).since == first


@pytest.mark.parametrize(
    ("until", "last"),
    [
        ("", "2026-11-28"),
        ("today", "2026-11-28"),
        ("2026-11-03", "2026-11-03"),
        ("2026-11", "2026-11-30"),
        ("2024-02", "2024-02-29"),
    ],
)
def test_until_includes_the_day(until: str, last: str) -> None:
    assert parse_query(TODAY, since="2020-01-01", until=until).until == last


@pytest.mark.parametrize(
    "text",
    [
        *("0d", "-7d", "7", "d", "24h", "10000d", "yesterday", " 7d", "7d\n", "\u0667d"),
        *("2026", "2026-02-30", "2026-13", "2026-11-1", "20261101", "2026-W01", "0000-01"),
        *("2026-11-01T00:00", "2026-11-01Z"),
    ],
)
def test_unreadable_day_is_an_error_that_says_what_was_expected(text: str) -> None:
    with pytest.raises(UsageQueryError, match=r"expected a number of days such as 7d") as since:
        parse_query(TODAY, since=text)
    assert repr(text) in str(since.value)
    with pytest.raises(
        UsageQueryError, match=r"expected today, a day such as 2026-11-30"
    ) as until:
        parse_query(TODAY, until=text)
    assert repr(text) in str(until.value)
    assert "\n" not in str(since.value) + str(until.value)


def test_error_quotes_only_the_start_of_a_long_text() -> None:
    with pytest.raises(UsageQueryError) as error:
        parse_query(TODAY, since="x" * 10_000)
    assert len(str(error.value)) < 250


def test_number_of_days_is_no_end() -> None:
    with pytest.raises(UsageQueryError, match="until is '7d'"):
        parse_query(TODAY, until="7d")


def test_since_after_until_is_an_error() -> None:
    with pytest.raises(
        UsageQueryError, match="since is 2026-11-22, after until, which is 2026-11"
    ):
        parse_query(TODAY, until="2026-11-21")
    assert parse_query(TODAY, until="2026-11-22").since == "2026-11-22"


@pytest.mark.parametrize("by", [",".join(each) for each in subsets])
def test_any_order_and_subset_of_columns_can_be_grouped_by(by: str) -> None:
    assert ",".join(parse_query(TODAY, by=by).by) == by


def test_spaces_between_columns_are_ignored() -> None:
    assert parse_query(TODAY, by="client, day").by == ("client", "day")


@pytest.mark.parametrize("by", ["client,cost", "client,client", ",", "client,", "Client", "*"])
def test_other_columns_are_an_error(by: str) -> None:
    with pytest.raises(UsageQueryError, match="expected one or more of client, model and day"):
        parse_query(TODAY, by=by)


def test_empty_client_stands_for_all() -> None:
    assert parse_query(TODAY, client="").client is None
    assert parse_query(TODAY, client="search").client == "search"
    assert parse_query(TODAY, client="a\udcff").client == "a?"
