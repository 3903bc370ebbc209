"""What a 429 or 503 from upstream means for its request and its lane.

Headers and bodies come from outside. Whatever is in them, these functions return and do not raise.
"""

import re
from collections.abc import Mapping
from enum import Enum

import msgspec

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.content_coding import Inflater, codings_of
from rustygate.core.durations import MS, parse_wait, retry_after
from rustygate.core.error_body import ErrorBody, error_in, read_error
from rustygate.core.request_schema import DECODE_ERRORS

# Every pause ends within a minute, so that a lane always has a next attempt: a long-lasting limit
# is tried again each minute, because it may have been raised. No pause is zero, so that the next
# attempt is a later one.
MAX_PAUSE = MINUTE
MIN_PAUSE = MS

# How long a lane pauses when upstream does not say.
DEFAULT_PAUSE = SECOND

# Error bodies are short. One that is longer, once inflated, is not read, and is passed on.
MAX_ERROR_SIZE = 64 * 1024


class Action(Enum):
    """What to do with a response."""

    PASS = "pass it on"
    PAUSE = "pause its lane, then try again"
    SLOW = "pause its lane, halve the lane's rate, then try again"


class Verdict(msgspec.Struct, frozen=True):
    """What a response means.

    Args:
        wait_ns: when upstream says that the request may be sent again, however late that is; 0 if
            the response is passed on.
        guessed: upstream gave no time, so the wait is the default.
    """

    action: Action
    wait_ns: int = 0
    guessed: bool = False

    @property
    def pause_ns(self) -> int:
        """How long the lane pauses."""
        return min(self.wait_ns, MAX_PAUSE)


PASS = Verdict(Action.PASS)


def judge(status: int, headers: Mapping[str, str], body: bytes, epoch_ns: int) -> Verdict:
    """What a response means for its request and its lane.

    Args:
        headers: any mapping that finds headers by their lower-case names.
        body: as received; if it is encoded or truncated, it is read as far as possible.
        epoch_ns: the time of day, with which dates are compared.
    """
    if status not in (429, 503) or headers.get("x-should-retry", "").lower() == "false":
        return PASS
    codings = codings_of(headers)
    if codings:
        body = Inflater(codings, MAX_ERROR_SIZE + 1).inflate(body)
    if len(body) > MAX_ERROR_SIZE:
        return PASS
    error = read_error(body)
    action = _action(error)
    # A 429 without a reason counts as temporary, a 503 without one does not.
    if action is Action.PASS or (status == 503 and action is not Action.SLOW):
        return PASS
    return _temporary(action, _wait(headers, error, epoch_ns))


def judge_event(data: bytes, epoch_ns: int) -> Verdict | None:
    """What the data of an event in a successful stream means.

    It may hold an error as chat completions send it (`{"error": {...}}`), an `error` event or a
    failed response of the Responses API, or one of a Realtime socket. None if it holds no error.
    An error counts as temporary only if it says so: there is no status to go by.
    """
    try:
        event = msgspec.json.decode(data)
    except DECODE_ERRORS:
        return None
    return judge_event_fields(event, epoch_ns) if isinstance(event, dict) else None


def judge_event_fields(event: Mapping[str, object], epoch_ns: int) -> Verdict | None:
    """As `judge_event`, for an event that is decoded already."""
    response = event.get("response")
    if isinstance(response, dict) and response.get("error"):
        event = response
    if not event.get("error") and event.get("type") != "error":
        return None
    error = error_in(event)
    action = _action(error)
    if action is Action.PASS or not (action is Action.SLOW or _is_rate_limit(error)):
        return PASS
    return _temporary(action, error.wait_ns(epoch_ns) or None)


_OVERLOAD_CODES = {"server_is_overloaded", "slow_down"}

# The account's credit, spend limit or usage limit is exhausted: a pause does not help.
_EXHAUSTED_CODES = {
    "access_terminated",
    "budget_exceeded",
    "credit_balance_exhausted",
    "exceeded_current_quota_error",
    "insufficient_quota",
    "organization_usage_limit_exceeded",
    "usage_limit_reached",
    "usage_not_included",
}
_EXHAUSTED = re.compile(r"billing_.*|.*_spend_limit_exceeded", re.DOTALL)

# What servers call a rate limit where no status shows it.
_RATE_LIMIT_CODES = {
    "429",
    "rate_limit_error",
    "rate_limit_exceeded",
    "rate_limit_reached",
    "rate_limited",
    "rate_limit",
    "requests",
    "resource_exhausted",
    "throttled",
    "tokens",
    "too_many_requests",
}

# `requests per day (RPD)`, `free-models-per-day`, `200 requests/day`, `Daily token limit`.
_LONG_PERIOD = re.compile(
    r"\bper[ _-]?(?:1[ _-]?)?(?:day|week|month)\b|\bper[ _-]24[ _-]?h|\b[RT]PD\b"
    r"|\b(?:requests|tokens|messages|\d) ?(?:/| a | each | every )(?:day|week|month)\b"
    r"|\b(?:daily|weekly|monthly)[ _-](?:\w+[ _-]){0,3}"
    r"(?:limit|quota|cap|budget|allowance|allocation)",
    re.ASCII | re.IGNORECASE,
)
# An empty account, where no code says so.
_NO_CREDIT = re.compile(
    r"\b(?:insufficient|not enough) (?:credits?|balance|funds)\b|\bcredit balance is too low\b",
    re.IGNORECASE,
)
# OpenAI's words for `insufficient_quota`. Gemini has them in every 429, with a time to wait.
_CHECK_BILLING = "check your plan and billing"
_QUOTA_PER_DAY = re.compile(r"per_?-?(?:day|week|month)", re.ASCII | re.IGNORECASE)

_NUMBERS = re.compile(r"\bLimit:? ([\d,]{1,20}).{0,100}?\bRequested:? ([\d,]{1,20})", re.ASCII)


def _action(error: ErrorBody) -> Action:
    if _is_final(error):
        return Action.PASS
    return Action.SLOW if error.codes & _OVERLOAD_CODES else Action.PAUSE


def _temporary(action: Action, wait: int | None) -> Verdict:
    if wait is None:
        return Verdict(action, DEFAULT_PAUSE, guessed=True)
    return Verdict(action, max(MIN_PAUSE, wait))


def _is_final(error: ErrorBody) -> bool:
    """Whether a pause does not help the request of an error."""
    if error.codes & _EXHAUSTED_CODES or any(map(_EXHAUSTED.fullmatch, error.codes)):
        return True
    if any(map(_QUOTA_PER_DAY.search, error.quota_ids)):
        return True
    message = error.message
    if _CHECK_BILLING in message and not error.quota_ids and error.wait_ns(0) is None:
        return True
    return bool(
        _LONG_PERIOD.search(message) or _NO_CREDIT.search(message) or _is_too_large(message)
    )


def _is_rate_limit(error: ErrorBody) -> bool:
    return not error.codes.isdisjoint(_RATE_LIMIT_CODES)


def _is_too_large(message: str) -> bool:
    """Whether an error says that the request exceeds its quota's limit, and so never fits."""
    if message.startswith("Request too large"):
        return True
    match = _NUMBERS.search(message)
    limit, requested = (_grouped_int(number) for number in match.groups()) if match else (0, 0)
    return requested > limit


def _grouped_int(number: str) -> int:
    return int(number.replace(",", "") or "0")


def _wait(headers: Mapping[str, str], error: ErrorBody, epoch_ns: int) -> int | None:
    """Nanoseconds until the request may be sent again; None if upstream does not say.

    A reset is the time until a quota is full, which is later than the request needs, so that a
    shorter hint in the body counts instead.
    """
    wait = retry_after(headers, epoch_ns)
    if wait is not None:
        return wait
    waits = (_time_to_reset(headers, error.kind, epoch_ns), error.wait_ns(epoch_ns))
    return min((wait for wait in waits if wait), default=None)


def _time_to_reset(headers: Mapping[str, str], kind: str, epoch_ns: int) -> int | None:
    """Nanoseconds until all quotas that are exhausted are full again; None if there is none.

    Args:
        kind: the quota that the error names.
    """
    resets = [
        parse_wait(headers.get("x-ratelimit-reset-" + name, ""), epoch_ns) or 0
        for name in ("requests", "tokens")
        if name == kind or headers.get("x-ratelimit-remaining-" + name, "").strip() == "0"
    ]
    wait = max(resets, default=0)
    if wait:
        return wait
    # Look-alikes with one limit, and the IETF's drafts of `RateLimit` headers.
    for name in ("x-ratelimit-reset", "x-rate-limit-reset", "ratelimit-reset"):
        if name in headers:
            return parse_wait(headers[name], epoch_ns)
    match = _RESET.search(headers.get("ratelimit", ""))
    return parse_wait(match[1], epoch_ns) if match else None


# `limit=10, remaining=0, reset=5` and `"default";r=0;t=5`.
_RESET = re.compile(r"\b(?:reset|t)=(\d{1,9})\b", re.ASCII)
