"""Durations as headers have them: Go's, and `Retry-After`."""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache

from rustygate.core.bucket import MINUTE, SECOND

MS = 1_000_000

# Longer than any quota's period; what claims to take longer is a mistake.
MAX_DURATION = 32 * 86_400 * SECOND

# Most answers say `6ms` or `0s`; the others come once.
DURATION_CACHE_SIZE = 512

# An HTTP-date has 29 characters, in its older forms up to 33.
DATE_PREFIX = 40

_DURATION = re.compile(
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
    """Nanoseconds of a duration as Go writes it, or of plain seconds; None if it is neither,
    or longer than any quota's period."""
    found = _DURATION.fullmatch(text)
    if not found or not text:
        return None
    hours, minutes, whole, fraction, unit = found.groups()
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
    """Nanoseconds to wait, by the headers that say so; OpenAI's own comes before RFC 9110's."""
    wait_ms = _decimal(headers.get("retry-after-ms", ""))
    if wait_ms is not None:
        return int(wait_ms * MS)
    retry_after = headers.get("retry-after", "")
    wait_s = _decimal(retry_after)
    return _date(retry_after, epoch_ns) if wait_s is None else int(wait_s * SECOND)


_DECIMAL = re.compile(r"\d{1,12}(?:\.\d{0,12})?", re.ASCII)


def _decimal(text: str) -> float | None:
    return float(text) if _DECIMAL.fullmatch(text) else None


def _date(text: str, epoch_ns: int) -> int | None:
    """Nanoseconds until an HTTP-date (RFC 9110, 5.6.7), which is in the past if negative."""
    try:
        date = parsedate_to_datetime(text[:DATE_PREFIX])
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return int(date.replace(tzinfo=date.tzinfo or UTC).timestamp()) * SECOND - epoch_ns
