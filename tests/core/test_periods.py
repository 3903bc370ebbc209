"""UTC days and months."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import SECOND
from rustygate.core.periods import (
    DAY,
    date_of,
    day_of,
    end_of_day,
    end_of_month,
    last_of_month,
    month_of,
)


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


# Up to the year 2300: beyond what 64 bits of nanoseconds hold.
instants = st.integers(0, instant("2300-01-01"))


@pytest.mark.parametrize(
    ("at", "day", "day_ends", "month_ends"),
    [
        ("2026-11-28 12:00", "2026-11-28", "2026-11-29", "2026-12-01"),
        ("2026-11-28 00:00", "2026-11-28", "2026-11-29", "2026-12-01"),
        ("2026-12-31 23:59:59", "2026-12-31", "2027-01-01", "2027-01-01"),
        ("2028-02-28 23:59:59", "2028-02-28", "2028-02-29", "2028-03-01"),
        ("2100-02-28 23:59:59", "2100-02-28", "2100-03-01", "2100-03-01"),
        ("1970-01-01 00:00", "1970-01-01", "1970-01-02", "1970-02-01"),
    ],
)
def test_periods_of_an_instant(at: str, day: str, day_ends: str, month_ends: str) -> None:
    now = instant(at)
    assert day_of(now) == day
    assert month_of(now) == day[:7]
    assert date_of(now).isoformat() == day
    assert end_of_day(now) == instant(day_ends)
    assert end_of_month(now) == instant(month_ends)


def test_last_nanosecond_belongs_to_the_old_day() -> None:
    midnight = instant("2026-12-01")
    assert day_of(midnight - 1) == "2026-11-30"
    assert day_of(midnight) == "2026-12-01"
    assert end_of_day(midnight - 1) == end_of_month(midnight - 1) == midnight


@given(instants)
def test_periods_end_at_the_first_instant_of_the_next(now: int) -> None:
    end = end_of_day(now)
    assert now < end <= now + DAY
    assert day_of(end - 1) == day_of(now) != day_of(end)
    end = end_of_month(now)
    assert now < end <= now + 31 * DAY
    assert month_of(end - 1) == month_of(now) != month_of(end)


@given(instants)
def test_day_agrees_with_the_calendar(now: int) -> None:
    assert day_of(now) == datetime.fromtimestamp(now // SECOND, UTC).date().isoformat()


@pytest.mark.parametrize("month", ["2026-13", "2026-00", "0000-01", "november"])
def test_month_that_does_not_exist_is_an_error(month: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        last_of_month(month)
