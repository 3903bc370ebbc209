"""The faults that can be simulated, and how a request asks for them.

The header `X-Simulate` and the flag `--fault` share one grammar: a comma-separated list of `name`
or `name=value`. The table `_FAULTS` lists all names. What a fault does to the connection is up to
`transport`; `errors` has the error responses.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from rustygate.simulator.errors import (
    ErrorResponse,
    SimulatedLimitExceeded,
    error_with_status,
    overloaded,
    quota_exhausted,
    slow_down,
)
from rustygate.simulator.text import MAX_OUTPUT_TOKENS

# Long enough for any test; an hour keeps every timer in range.
MAX_WAIT_S = 3600.0


class FaultError(ValueError):
    """A fault that does not exist, or that has an invalid value; the message says which."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of one request; a field that is None was not requested.

    Args:
        latency: seconds before the response head.
        tokens_per_second: pace of streamed tokens; 0 is as fast as possible.
        tokens: length of the output, in tokens.
        gzip: compress a response that is sent in one piece.
        reset: reset the connection before any byte.
        stall: send nothing after this many events; `BEFORE_HEAD` stalls before the head.
        cut: close the connection after this many events, at an event boundary.
        cut_inside: close the connection in the middle of the event after this many.
        close: close a WebSocket with this code, after `cut` events or at once.
        error: respond with this error.
    """

    latency: float | None = None
    tokens_per_second: float | None = None
    tokens: int | None = None
    gzip: bool | None = None
    reset: bool | None = None
    stall: int | None = None
    cut: int | None = None
    cut_inside: int | None = None
    close: int | None = None
    error: ErrorResponse | SimulatedLimitExceeded | None = None

    def overridden_by(self, other: Self) -> Self:
        """These faults, replaced by those that `other` sets."""
        overrides = {field.name: getattr(other, field.name) for field in fields(other)}
        requested = {name: value for name, value in overrides.items() if value is not None}
        return replace(self, **requested)


NO_FAULTS = Faults()
BEFORE_HEAD = -1

# Close codes that are never sent but only reported (RFC 6455, 7.4.1), and a reserved one.
_UNSENT_CODES = {1004, 1005, 1006, 1015}

_QUOTA_EXHAUSTED_CODES = (
    "insufficient_quota",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "credit_balance_exhausted",
)


def parse(text: str) -> Faults:
    """Parse a list of faults.

    Raises:
        FaultError: a fault is unknown, or its value is invalid.
    """
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        values |= _parse_fault(name, value if equals else None)
    return Faults(**values)


def _parse_fault(name: str, value: str | None) -> dict[str, Any]:
    if value is None and name.isdecimal():
        name, value = "status", name
    spec = _FAULTS.get(name)
    if spec is None:
        raise FaultError(f"Unknown fault {name!r}. Known faults: {GRAMMAR}.")
    if value is None:
        if spec.default is None:
            raise FaultError(f"Fault {name!r} needs a value: {name}={spec.placeholder}.")
        return {spec.field: spec.default}
    if spec.parse_value is None:
        raise FaultError(f"Fault {name!r} takes no value, not {value!r}.")
    try:
        return {spec.field: spec.parse_value(value)}
    except ValueError:
        message = f"Fault {name!r} must be {name}={spec.placeholder}, not {value!r}."
        raise FaultError(message) from None


def _seconds(text: str) -> float:
    return _number(text, MAX_WAIT_S)


def _pace(text: str) -> float:
    return _number(text, math.inf)


def _number(text: str, maximum: float) -> float:
    number = float(text)
    if not 0 <= number <= maximum or math.isinf(number):
        raise ValueError
    return number


def _events(text: str) -> int:
    return _integer(text, 0, 10**9)


def _tokens(text: str) -> int:
    return _integer(text, 1, MAX_OUTPUT_TOKENS)


def _status(text: str) -> ErrorResponse:
    return error_with_status(_integer(text, 300, 599))


def _close_code(text: str) -> int:
    code = _integer(text, 1000, 4999)
    if code in _UNSENT_CODES:
        raise ValueError
    return code


def _integer(text: str, minimum: int, maximum: int) -> int:
    number = int(text)
    if not minimum <= number <= maximum:
        raise ValueError
    return number


def _milliseconds(text: str) -> int:
    return math.ceil(_seconds(text) * 1000)


def _slow_down(wait: str) -> ErrorResponse:
    return slow_down(_milliseconds(wait))


def _overloaded(wait: str) -> ErrorResponse:
    return overloaded(_milliseconds(wait))


def _rate_limited(wait: str) -> SimulatedLimitExceeded:
    return SimulatedLimitExceeded("requests", _milliseconds(wait))


@dataclass(frozen=True, slots=True)
class _FaultSpec:
    """How a fault is written.

    Args:
        field: the field of `Faults` that it sets.
        parse_value: parses its value; None if it takes no value.
        default: what it sets without a value; None if it needs a value.
        placeholder: its value in the help text.
    """

    field: str
    parse_value: Callable[[str], Any] | None
    default: Any
    placeholder: str = ""


_FAULTS = {
    "latency": _FaultSpec("latency", _seconds, None, "SECONDS"),
    "tokens_per_second": _FaultSpec("tokens_per_second", _pace, None, "N"),
    "tokens": _FaultSpec("tokens", _tokens, None, "N"),
    "gzip": _FaultSpec("gzip", None, True),
    "reset": _FaultSpec("reset", None, True),
    "stall": _FaultSpec("stall", _events, BEFORE_HEAD, "EVENTS"),
    "cut": _FaultSpec("cut", _events, 1, "EVENTS"),
    "cut_inside": _FaultSpec("cut_inside", _events, 1, "EVENTS"),
    "close": _FaultSpec("close", _close_code, None, "CODE"),
    "status": _FaultSpec("error", _status, None, "300..599"),
    "slow_down": _FaultSpec("error", _slow_down, slow_down(None), "SECONDS"),
    "overloaded": _FaultSpec("error", _overloaded, overloaded(None), "SECONDS"),
    "rate_limited": _FaultSpec(
        "error", _rate_limited, SimulatedLimitExceeded("requests", 1000), "SECONDS"
    ),
    "too_large": _FaultSpec("error", None, SimulatedLimitExceeded("tokens")),
    **{code: _FaultSpec("error", None, quota_exhausted(code)) for code in _QUOTA_EXHAUSTED_CODES},
}


def _usage(name: str, spec: _FaultSpec) -> str:
    if spec.parse_value is None:
        return name
    value = f"={spec.placeholder}"
    return f"{name}{value}" if spec.default is None else f"{name}[{value}]"


GRAMMAR = ", ".join(_usage(name, spec) for name, spec in _FAULTS.items()) + ", or a bare status"
