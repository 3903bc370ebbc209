"""UTC days and months, by which usage is recorded and budgets are renewed.

An instant is integer nanoseconds of the wall clock since 1970, as `time.time_ns` returns it. A
period is named as in ISO 8601: `2026-11-28`, `2026-11`.
"""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from rustygate.core.bucket import SECOND

DAY = 86_400 * SECOND
_EPOCH = date(1970, 1, 1)


def day_of(instant: int) -> str:
    """The day of an instant, such as `2026-11-28`."""
    return _day_name(instant // DAY)


def month_of(instant: int) -> str:
    """The month of an instant, such as `2026-11`."""
    return day_of(instant)[:7]


def end_of_day(instant: int) -> int:
    """When the day of an instant ends: the first instant of the next one."""
    return (instant // DAY + 1) * DAY


def end_of_month(instant: int) -> int:
    """When the month of an instant ends: the first instant of the next one."""
    last = last_of_month(month_of(instant))
    return ((last - _EPOCH).days + 1) * DAY


def iso_time(instant: int) -> str:
    """An instant to the second, such as `2026-11-29T00:00:00Z`."""
    return datetime.fromtimestamp(instant // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def date_of(instant: int) -> date:
    """The day of an instant as a date."""
    return _EPOCH + timedelta(days=instant // DAY)


def last_of_month(month: str) -> date:
    """The last day of a month such as `2026-11`. Raises ValueError if there is no such month."""
    first = date.fromisoformat(f"{month}-01")
    return first.replace(day=monthrange(first.year, first.month)[1])


# Called for each exchange; nearly all are on the same day.
@lru_cache(maxsize=4)
def _day_name(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).isoformat()
