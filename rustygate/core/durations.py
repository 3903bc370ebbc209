"""Times to wait, as upstream writes them: Go durations, `retry-after-ms` and `Retry-After`.

The values come from outside. Whatever is in them, these functions return and do not raise; what
makes no sense counts as missing.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache

from rustygate.core.bucket import MINUTE, SECOND

MS = 1_000_000

# 32 days, longer than any quota's period. A longer duration is a mistake.
MAX_DURATION = 32 * 86_400 * SECOND

# Most responses say `6ms` or `0s`; other durations hardly ever repeat.
DURATION_CACHE_SIZE = 512

# An HTTP-date has 29 characters, up to 33 in the obsolete formats.
MAX_DATE_LENGTH = 40

_GO_DURATION = re.compile(
    r"(?:(\d{1,6})h)?(?:(\d{1,9})m)?(?:(\d{1,12})(?:\.(\d{0,12}))?(s|ms|us|\u00b5s|\u03bcs|ns)?)?",
    re.ASCII,
)
_UNITS = {
    None: SECOND,
    "s": SECOND,
    "ms": MS,
    "us": 1000,
    "\u00b5s": 1000,
    "\u03bcs": 1000,
    "ns": 1,
}


@lru_cache(maxsize=DURATION_CACHE_SIZE)
def parse_go_duration(text: str) -> int | None:
    """Nanoseconds of a duration as Go writes it (time.Duration.String: `6ms`, `6m0s`), or of
    plain seconds. None if it is neither, or longer than any quota's period."""
    match = _GO_DURATION.fullmatch(text)
    if not match or not text:
        return None
    hours, minutes, whole, fraction, unit = match.groups()
    total = 0
    if hours or minutes:
        if whole and not unit:
            return None
        total = (int(hours or 0) * 60 + int(minutes or 0)) * MINUTE
    if fraction:
        total += int(whole + fraction) * _UNITS[unit] // 10 ** len(fraction)
    elif whole:
        total += int(whole) * _UNITS[unit]
    return total if total <= MAX_DURATION else None


def retry_after(headers: Mapping[str, str], epoch_ns: int) -> int | None:
    """Nanoseconds to wait, by OpenAI's `retry-after-ms` or else RFC 9110's `Retry-After`.

    None if neither is there. A date in the past gives a negative number.
    """
    wait_ms = _decimal(headers.get("retry-after-ms", ""))
    if wait_ms is not None:
        return int(wait_ms * MS)
    value = headers.get("retry-after", "")
    wait_s = _decimal(value)
    return _time_until(value, epoch_ns) if wait_s is None else int(wait_s * SECOND)


_DECIMAL = re.compile(r"\d{1,12}(?:\.\d{0,12})?", re.ASCII)


def _decimal(text: str) -> float | None:
    return float(text) if _DECIMAL.fullmatch(text) else None


def _time_until(http_date: str, epoch_ns: int) -> int | None:
    """Nanoseconds until an HTTP-date (RFC 9110, 5.6.7); negative if it is in the past."""
    try:
        date = parsedate_to_datetime(http_date[:MAX_DATE_LENGTH])
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return int(date.replace(tzinfo=date.tzinfo or UTC).timestamp()) * SECOND - epoch_ns
