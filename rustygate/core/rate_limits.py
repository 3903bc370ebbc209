"""What upstream says of its quotas: the `x-ratelimit-*` headers, and what a 429 or 503 means.

OpenAI tells with each answer how much of a minute's requests and tokens is left (its guide "Rate
limits", "Rate limits in headers"). `reset` is the time until a quota is full again, not until the
next request fits, and is written as Go writes durations (time.Duration.String): `6ms`, `6m0s`.

Headers and bodies come from beyond the gate: whatever is in them, these functions answer and do
not raise. Numbers that make no sense are taken as not said.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Literal

import msgspec

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.request_schema import UNREADABLE
from rustygate.core.usage import Inflater, is_encoded

MS = 1_000_000

# Longer than any quota's period; what claims to take longer is a mistake.
DURATION_LIMIT = 32 * 86_400 * SECOND

# Most answers say `6ms` or `0s`; the others come once.
DURATIONS_REMEMBERED = 512

# More than upstream lets anybody have in a minute; what claims more is a mistake.
QUOTA_LIMIT = 10**12

# Every pause ends, so that a lane always has a next attempt: a day's quota is asked for again
# each minute, for it may have been raised. And none is zero: the next attempt is a later one.
LONGEST_PAUSE = MINUTE
SHORTEST_PAUSE = MS

# How long a lane pauses when upstream does not say.
DEFAULT_PAUSE = SECOND

# An error is short; what is longer, once inflated, is none that can be read.
ERROR_BYTES = 64 * 1024

# The numbers stand at the head of an error's message.
MESSAGE_READ = 1000

# An HTTP-date has 29 characters, in its older forms up to 33.
DATE_READ = 40

Kind = Literal["requests", "tokens"]

# The values below are made for each answer: a Struct is a tenth of a frozen dataclass's cost.


class Quota(msgspec.Struct, frozen=True):
    """Where one quota stands; None is what upstream did not say.

    Args:
        limit: units in a minute, at least one.
        remaining: units left, at most `limit`.
        reset: the time until it is full, as upstream writes it; read only where it is needed.
    """

    limit: int
    remaining: int | None
    reset: str | None = None

    @property
    def reset_ns(self) -> int | None:
        """Nanoseconds until it is full."""
        return None if self.reset is None else go_duration(self.reset)


class RateLimitUpdate(msgspec.Struct, frozen=True):
    """What an answer's headers tell of the quotas of its model."""

    requests: Quota | None = None
    tokens: Quota | None = None


class Action(Enum):
    """What to do about an answer."""

    PASS = "pass it on"
    PAUSE = "pause its lane, then try again"
    SLOW = "the same, and halve the lane's rate"


class Verdict(msgspec.Struct, frozen=True):
    """What an answer means; `wait_ns` is how long the lane pauses, 0 if it is passed on."""

    action: Action
    wait_ns: int = 0


NO_UPDATE = RateLimitUpdate()
PASS = Verdict(Action.PASS)


def read_rate_limits(headers: Mapping[str, str]) -> RateLimitUpdate:
    """Read the `x-ratelimit-*` headers; a quota whose limit is not told is none.

    Args:
        headers: whatever finds them by their lower-case names.
    """
    requests = headers.get("x-ratelimit-limit-requests")
    tokens = headers.get("x-ratelimit-limit-tokens")
    if requests is None and tokens is None:
        return NO_UPDATE
    return RateLimitUpdate(
        _quota("requests", requests, headers), _quota("tokens", tokens, headers)
    )


def _quota(kind: Kind, limit_said: str | None, headers: Mapping[str, str]) -> Quota | None:
    limit = _count(limit_said)
    if not limit:
        return None
    remaining = _count(headers.get("x-ratelimit-remaining-" + kind))
    if remaining is not None and remaining > limit:
        remaining = limit
    return Quota(limit, remaining, headers.get("x-ratelimit-reset-" + kind))


def _count(text: str | None) -> int | None:
    """A whole number within reason. `int` alone would read `1_0` and other scripts' digits."""
    if text is None or len(text) > 13 or not text.isascii() or not text.isdecimal():
        return None
    number = int(text)
    return number if number <= QUOTA_LIMIT else None


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


@lru_cache(maxsize=DURATIONS_REMEMBERED)
def go_duration(text: str) -> int | None:
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
    return total if total <= DURATION_LIMIT else None


def verdict(status: int, headers: Mapping[str, str], body: bytes, epoch_ns: int) -> Verdict:
    """What an answer means for its request and its lane.

    Args:
        headers: whatever finds them by their lower-case names.
        body: as it came; if it is encoded or cut, it is read as far as that goes.
        epoch_ns: the time of day, which a `Retry-After` that is a date is compared to.
    """
    if status not in (429, 503):
        return PASS
    error = _error(body, headers.get("content-encoding", ""))
    action = _action(status, error)
    if action is Action.PASS:
        return PASS
    wait_ns = _wait_told(headers, epoch_ns)
    if wait_ns is None:
        wait_ns = _reset(read_rate_limits(headers), error.type)
    return Verdict(action, min(max(SHORTEST_PAUSE, wait_ns), LONGEST_PAUSE))


class _Error(msgspec.Struct):
    code: Any = None
    type: Any = None
    message: Any = None


class _Answer(msgspec.Struct):
    error: _Error


_decode = msgspec.json.Decoder(_Answer).decode


def _error(body: bytes, content_encoding: str) -> _Error:
    """OpenAI's error object; an empty one if there is none to read."""
    if is_encoded(content_encoding):
        body = Inflater(ERROR_BYTES).inflate(body)
    try:
        return _decode(body[:ERROR_BYTES]).error
    except UNREADABLE:
        return _Error()


_SLOW = {"server_is_overloaded", "slow_down"}
_SPENT = {
    "credit_balance_exhausted",
    "insufficient_quota",
    "organization_usage_limit_exceeded",
}
_SPEND_LIMIT = "_spend_limit_exceeded"


def _action(status: int, error: _Error) -> Action:
    # Look-alikes of OpenAI put the word in either, beside numbers and words of their own.
    words = {word for word in (error.code, error.type) if isinstance(word, str)}
    if words & _SPENT or any(word.endswith(_SPEND_LIMIT) for word in words):
        return Action.PASS
    if words & _SLOW:
        return Action.SLOW
    # A 429 that does not say what it is about is one that has room later.
    return Action.PASS if status == 503 or _is_too_large(error.message) else Action.PAUSE


_NUMBERS = re.compile(r"\bLimit:? ([\d,]{1,20}).{0,100}?\bRequested:? ([\d,]{1,20})", re.ASCII)


def _is_too_large(message: object) -> bool:
    """Whether an error says that a request is above its quota's limit, and so never fits."""
    if not isinstance(message, str):
        return False
    if message.startswith("Request too large"):
        return True
    found = _NUMBERS.search(message, 0, MESSAGE_READ)
    limit, requested = (_grouped(number) for number in found.groups()) if found else (0, 0)
    return requested > limit


def _grouped(number: str) -> int:
    return int(number.replace(",", "") or "0")


def _wait_told(headers: Mapping[str, str], epoch_ns: int) -> int | None:
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
        date = parsedate_to_datetime(text[:DATE_READ])
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return int(date.replace(tzinfo=date.tzinfo or UTC).timestamp()) * SECOND - epoch_ns


def _reset(news: RateLimitUpdate, error_type: object) -> int:
    """Nanoseconds until the quota that is exhausted is full again."""
    named = {"requests": news.requests, "tokens": news.tokens}
    exhausted = [
        quota
        for kind, quota in named.items()
        if quota is not None and (kind == error_type or quota.remaining == 0)
    ]
    return max((quota.reset_ns or 0 for quota in exhausted), default=0) or DEFAULT_PAUSE
