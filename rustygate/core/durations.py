"""Times to wait, in every form that upstreams write them.

Durations: Go's (`1m30s`, `6ms`), words (`5 seconds`), plain seconds (`5.5`). Instants: an
HTTP-date, RFC 3339, and seconds or milliseconds since the epoch. The time of day is passed in.

The values come from outside. Whatever is in them, these functions return and do not raise; what
makes no sense counts as missing.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from rustygate.core.bucket import MINUTE, SECOND

MS = 1_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

# Longer than any quota's period. A longer duration is a mistake.
MAX_DURATION = 32 * DAY

# The longest forms are an HTTP-date, up to 33 characters in the obsolete formats, and RFC 3339
# with a long fraction. Longer texts are not parsed.
MAX_LENGTH = 60

# Plain numbers from these on are instants: seconds since the epoch (from 2001) and milliseconds.
_EPOCH_S, _EPOCH_MS, _EPOCH_END = 10**9, 10**11, 10**14

# Nanoseconds of each unit, and how it is written.
_UNITS = (
    (DAY, r"d(?:ays?)?"),
    (HOUR, r"h(?:(?:ou)?rs?)?"),
    (MINUTE, r"m(?:in(?:ute)?s?)?"),
    (SECOND, r"s(?:ec(?:ond)?s?)?"),
    (MS, r"m(?:illi)?s(?:ec(?:ond)?s?)?"),
    (1000, r"(?:[u\u00b5\u03bc]s|microseconds?)"),
    (1, r"(?:ns|nanoseconds?)"),
)
_NUMBER = r"(?:\d{1,14}(?:\.\d{0,20})?|\.\d{1,20})"

# Characters that may surround a value.
_AROUND = " \t\"'+"

# A duration in units, the longest first. It matches the empty text, too.
DURATION = "".join(rf"(?:({_NUMBER}) ?{unit}(?![a-z]),? ?(?:and )?)?" for _, unit in _UNITS)

_duration = re.compile(DURATION, re.ASCII | re.IGNORECASE)
_plain_number = re.compile(_NUMBER, re.ASCII)
_rfc3339 = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", re.ASCII | re.IGNORECASE)


def parse_duration(text: str) -> int | None:
    """Nanoseconds of a duration in units, or of plain seconds. None if it is neither, or longer
    than any quota's period."""
    if len(text) > MAX_LENGTH:
        return None
    if _plain_number.fullmatch(text):
        return _plausible(_scaled(text, SECOND))
    match = _duration.fullmatch(text)
    return sum_of_units(match.groups()) if match else None


def sum_of_units(amounts: tuple[str | None, ...]) -> int | None:
    """Nanoseconds of what the groups of `DURATION` matched."""
    parts = [
        _scaled(amount, unit)
        for amount, (unit, _) in zip(amounts, _UNITS, strict=True)
        if amount is not None
    ]
    return _plausible(sum(parts)) if parts else None


def time_until(text: str, epoch_ns: int) -> int | None:
    """Nanoseconds until an instant, 0 if it is in the past; None if the text is no instant."""
    instant = None if len(text) > MAX_LENGTH else _instant(text)
    return None if instant is None else max(0, instant - epoch_ns)


def parse_wait(text: str, epoch_ns: int) -> int | None:
    """Nanoseconds to wait, by a duration or an instant. None if it is neither, or a duration of
    0; 0 for an instant in the past."""
    text = text.strip(_AROUND)
    first = text.partition(",")[0]
    # A header that was sent twice.
    text = first if _plain_number.fullmatch(first) else text
    wait = parse_duration(text)
    return time_until(text, epoch_ns) if wait is None else wait or None


def retry_after(headers: Mapping[str, str], epoch_ns: int) -> int | None:
    """Nanoseconds to wait, by OpenAI's `retry-after-ms` or else RFC 9110's `Retry-After`.

    None if neither is there and makes sense.
    """
    wait_ms = headers.get("retry-after-ms", "").strip()
    if _plain_number.fullmatch(wait_ms):
        wait = _scaled(wait_ms, MS)
        if wait:
            return wait
    return parse_wait(headers.get("retry-after", ""), epoch_ns)


def _scaled(number: str, unit: int) -> int:
    """A decimal number times a unit, exactly, rounded down."""
    whole, _, fraction = number.partition(".")
    scale: int = 10 ** len(fraction)
    return int(whole or 0) * unit + int(fraction or 0) * unit // scale


def _plausible(duration: int) -> int | None:
    return duration if duration <= MAX_DURATION else None


def _instant(text: str) -> int | None:
    """Nanoseconds since the epoch."""
    if _plain_number.fullmatch(text):
        seconds = float(text)
        if _EPOCH_S <= seconds < _EPOCH_MS:
            return _scaled(text, SECOND)
        return _scaled(text, MS) if _EPOCH_MS <= seconds < _EPOCH_END else None
    try:
        date = _date(text)
        return int(date.replace(tzinfo=date.tzinfo or UTC).timestamp() * 1000) * MS
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def _date(text: str) -> datetime:
    """A date by RFC 3339, or an HTTP-date (RFC 9110, 5.6.7)."""
    if _rfc3339.match(text):
        return datetime.fromisoformat(text.upper())
    return parsedate_to_datetime(text)
