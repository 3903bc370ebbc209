"""What a 429 or 503 means."""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.content_coding import Inflater, is_encoded
from rustygate.core.durations import MS, retry_after
from rustygate.core.rate_limit_headers import RateLimitUpdate, read_rate_limits
from rustygate.core.request_schema import DECODE_ERRORS

# Every pause ends, so that a lane always has a next attempt: a day's quota is asked for again
# each minute, for it may have been raised. And none is zero: the next attempt is a later one.
MAX_PAUSE = MINUTE
MIN_PAUSE = MS

# How long a lane pauses when upstream does not say.
DEFAULT_PAUSE = SECOND

# An error is short; what is longer, once inflated, is none that can be read.
MAX_ERROR_SIZE = 64 * 1024

# The numbers stand at the head of an error's message.
MESSAGE_PREFIX = 1000


class Action(Enum):
    """What to do about an answer."""

    PASS = "pass it on"
    PAUSE = "pause its lane, then try again"
    SLOW = "the same, and halve the lane's rate"


class Verdict(msgspec.Struct, frozen=True):
    """What an answer means; `wait_ns` is how long the lane pauses, 0 if it is passed on."""

    action: Action
    wait_ns: int = 0


PASS = Verdict(Action.PASS)


def judge(status: int, headers: Mapping[str, str], body: bytes, epoch_ns: int) -> Verdict:
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
    wait_ns = retry_after(headers, epoch_ns)
    if wait_ns is None:
        wait_ns = _reset(read_rate_limits(headers), error.type)
    return Verdict(action, min(max(MIN_PAUSE, wait_ns), MAX_PAUSE))


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
        body = Inflater(MAX_ERROR_SIZE).inflate(body)
    try:
        return _decode(body[:MAX_ERROR_SIZE]).error
    except DECODE_ERRORS:
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
    found = _NUMBERS.search(message, 0, MESSAGE_PREFIX)
    limit, requested = (_grouped(number) for number in found.groups()) if found else (0, 0)
    return requested > limit


def _grouped(number: str) -> int:
    return int(number.replace(",", "") or "0")


def _reset(news: RateLimitUpdate, error_type: object) -> int:
    """Nanoseconds until the quota that is exhausted is full again."""
    named = {"requests": news.requests, "tokens": news.tokens}
    exhausted = [
        quota
        for kind, quota in named.items()
        if quota is not None and (kind == error_type or quota.remaining == 0)
    ]
    return max((quota.reset_ns or 0 for quota in exhausted), default=0) or DEFAULT_PAUSE
