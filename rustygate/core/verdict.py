"""What a 429 or 503 from upstream means for its request and its lane.

Headers and bodies come from outside. Whatever is in them, `judge` returns and does not raise.
"""

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

# Every pause ends within a minute, so that a lane always has a next attempt: even a daily quota
# is tried again each minute, because it may have been raised. No pause is zero, so that the next
# attempt is a later one.
MAX_PAUSE = MINUTE
MIN_PAUSE = MS

# How long a lane pauses when upstream does not say.
DEFAULT_PAUSE = SECOND

# Error bodies are short. One that is longer, once inflated, is not read, and is passed on.
MAX_ERROR_SIZE = 64 * 1024

# The numbers are at the beginning of an error's message.
MESSAGE_PREFIX = 1000


class Action(Enum):
    """What to do with a response."""

    PASS = "pass it on"
    PAUSE = "pause its lane, then try again"
    SLOW = "pause its lane, halve the lane's rate, then try again"


class Verdict(msgspec.Struct, frozen=True):
    """What a response means; `wait_ns` is how long the lane pauses, 0 if it is passed on."""

    action: Action
    wait_ns: int = 0


PASS = Verdict(Action.PASS)


def judge(status: int, headers: Mapping[str, str], body: bytes, epoch_ns: int) -> Verdict:
    """What a response means for its request and its lane.

    Args:
        headers: any mapping that finds headers by their lower-case names.
        body: as received; if it is encoded or truncated, it is read as far as possible.
        epoch_ns: the time of day, with which a date in `Retry-After` is compared.
    """
    if status not in (429, 503):
        return PASS
    if is_encoded(headers.get("content-encoding", "")):
        body = Inflater(MAX_ERROR_SIZE + 1).inflate(body)
    if len(body) > MAX_ERROR_SIZE:
        return PASS
    error = _error(body)
    action = _action(status, error)
    if action is Action.PASS:
        return PASS
    wait_ns = retry_after(headers, epoch_ns)
    if wait_ns is None:
        wait_ns = _time_to_reset(read_rate_limits(headers), error.type)
    return Verdict(action, min(max(MIN_PAUSE, wait_ns), MAX_PAUSE))


class _Error(msgspec.Struct):
    code: Any = None
    type: Any = None
    message: Any = None


class _ErrorBody(msgspec.Struct):
    error: _Error


_decode = msgspec.json.Decoder(_ErrorBody).decode


def _error(body: bytes) -> _Error:
    """OpenAI's error object; an empty one if the body holds none that can be read."""
    try:
        return _decode(body).error
    except DECODE_ERRORS:
        return _Error()


_OVERLOAD_CODES = {"server_is_overloaded", "slow_down"}

# The account's credit, spend limit or usage limit is exhausted: a pause does not help.
_EXHAUSTED_CODES = {
    "credit_balance_exhausted",
    "insufficient_quota",
    "organization_usage_limit_exceeded",
}
_SPEND_LIMIT_SUFFIX = "_spend_limit_exceeded"


def _action(status: int, error: _Error) -> Action:
    # OpenAI-compatible servers put the code into either field, next to values of their own.
    codes = {code for code in (error.code, error.type) if isinstance(code, str)}
    if codes & _EXHAUSTED_CODES or any(code.endswith(_SPEND_LIMIT_SUFFIX) for code in codes):
        return Action.PASS
    if codes & _OVERLOAD_CODES:
        return Action.SLOW
    # A 429 without a reason counts as one that passes with time.
    return Action.PASS if status == 503 or _is_too_large(error.message) else Action.PAUSE


_NUMBERS = re.compile(r"\bLimit:? ([\d,]{1,20}).{0,100}?\bRequested:? ([\d,]{1,20})", re.ASCII)


def _is_too_large(message: object) -> bool:
    """Whether an error says that the request exceeds its quota's limit, and so never fits."""
    if not isinstance(message, str):
        return False
    if message.startswith("Request too large"):
        return True
    match = _NUMBERS.search(message, 0, MESSAGE_PREFIX)
    limit, requested = (_grouped_int(number) for number in match.groups()) if match else (0, 0)
    return requested > limit


def _grouped_int(number: str) -> int:
    return int(number.replace(",", "") or "0")


def _time_to_reset(update: RateLimitUpdate, error_type: object) -> int:
    """Nanoseconds until all quotas that are exhausted are full again."""
    quotas = {"requests": update.requests, "tokens": update.tokens}
    exhausted = [
        quota
        for kind, quota in quotas.items()
        if quota is not None and (kind == error_type or quota.remaining == 0)
    ]
    return max((quota.reset_ns or 0 for quota in exhausted), default=0) or DEFAULT_PAUSE
