"""What can be made to go wrong, and how one asks for it.

The grammar, in the header `X-Simulate` and the flag `--fault` alike, is a comma-separated list of
`name` or `name=value`; the table `_WORDS` is all of it. What a fault does to the connection is
`wire`'s business, what each failure looks like is `refusals`'.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from rustygate.simulator.errors import Failure, NoRoom, bare, overloaded, slow_down, spent
from rustygate.simulator.text import LONGEST

# Nobody waits longer for a simulated answer; an hour keeps every timer in range.
LONGEST_WAIT = 3600.0


class FaultError(ValueError):
    """A fault that does not exist, or a value it cannot have; the message tells both."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What befalls one request; a field that is None was not asked for.

    Args:
        latency: seconds before the head.
        tokens_per_second: pace of streamed tokens; 0 is as fast as possible.
        tokens: length of the answer.
        gzip: an answer that is sent whole is compressed.
        reset: the connection is reset before any byte.
        stall: nothing is sent any more after so many events; `BEFORE_HEAD` is what it says.
        cut: the connection is closed after so many events, at the boundary.
        cut_inside: the connection is closed inside the event that follows so many whole ones.
        close: a WebSocket is closed with this code, after `cut` events or, without, at once.
        failure: the answer is this one.
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
    failure: Failure | NoRoom | None = None

    def under(self, other: Self) -> Self:
        """These faults, and where `other` says something, what that says."""
        said = {f.name: getattr(other, f.name) for f in fields(other)}
        return replace(self, **{name: value for name, value in said.items() if value is not None})


NO_FAULTS = Faults()
BEFORE_HEAD = -1

# Close codes that only tell what happened and are never sent (RFC 6455, 7.4.1), and one reserved.
_UNSENT_CODES = {1004, 1005, 1006, 1015}

_SPENT = (
    "insufficient_quota",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "credit_balance_exhausted",
)


def parse(text: str) -> Faults:
    """Read a list of faults.

    Raises:
        FaultError: one is unknown, or has a value it cannot have.
    """
    found: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        found |= _read(name, value if equals else None)
    return Faults(**found)


def _read(name: str, value: str | None) -> dict[str, Any]:
    if value is None and name.isdecimal():
        name, value = "status", name
    word = _WORDS.get(name)
    if word is None:
        raise FaultError(f"Unknown fault {name!r}; known are: {GRAMMAR}.")
    if value is None:
        if word.bare is None:
            raise FaultError(f"Fault {name!r} needs a value: {name}={word.hint}.")
        return {word.field: word.bare}
    if word.read is None:
        raise FaultError(f"Fault {name!r} takes no value, got {value!r}.")
    try:
        return {word.field: word.read(value)}
    except ValueError:
        raise FaultError(f"Fault {name!r} wants {name}={word.hint}, got {value!r}.") from None


def _seconds(text: str) -> float:
    return _number(text, LONGEST_WAIT)


def _pace(text: str) -> float:
    return _number(text, math.inf)


def _number(text: str, most: float) -> float:
    number = float(text)
    if not 0 <= number <= most or math.isinf(number):
        raise ValueError
    return number


def _events(text: str) -> int:
    return _whole(text, 0, 10**9)


def _tokens(text: str) -> int:
    return _whole(text, 1, LONGEST)


def _status(text: str) -> Failure:
    return bare(_whole(text, 300, 599))


def _code(text: str) -> int:
    code = _whole(text, 1000, 4999)
    if code in _UNSENT_CODES:
        raise ValueError
    return code


def _whole(text: str, least: int, most: int) -> int:
    number = int(text)
    if not least <= number <= most:
        raise ValueError
    return number


def _milliseconds(text: str) -> int:
    return math.ceil(_seconds(text) * 1000)


def _slow_down(wait: str) -> Failure:
    return slow_down(_milliseconds(wait))


def _overloaded(wait: str) -> Failure:
    return overloaded(_milliseconds(wait))


def _rate_limited(wait: str) -> NoRoom:
    return NoRoom("requests", _milliseconds(wait))


@dataclass(frozen=True, slots=True)
class _Word:
    """A fault's name: the field it sets, what reads its value (None: it takes none), what it
    stands for without one (None: it needs one), and the value in the help."""

    field: str
    read: Callable[[str], Any] | None
    bare: Any
    hint: str = ""


_WORDS = {
    "latency": _Word("latency", _seconds, None, "SECONDS"),
    "tokens_per_second": _Word("tokens_per_second", _pace, None, "N"),
    "tokens": _Word("tokens", _tokens, None, "N"),
    "gzip": _Word("gzip", None, True),
    "reset": _Word("reset", None, True),
    "stall": _Word("stall", _events, BEFORE_HEAD, "EVENTS"),
    "cut": _Word("cut", _events, 1, "EVENTS"),
    "cut_inside": _Word("cut_inside", _events, 1, "EVENTS"),
    "close": _Word("close", _code, None, "CODE"),
    "status": _Word("failure", _status, None, "300..599"),
    "slow_down": _Word("failure", _slow_down, slow_down(None), "SECONDS"),
    "overloaded": _Word("failure", _overloaded, overloaded(None), "SECONDS"),
    "rate_limited": _Word("failure", _rate_limited, NoRoom("requests", 1000), "SECONDS"),
    "too_large": _Word("failure", None, NoRoom("tokens")),
    **{code: _Word("failure", None, spent(code)) for code in _SPENT},
}


def _form(name: str, word: _Word) -> str:
    if word.read is None:
        return name
    return f"{name}={word.hint}" if word.bare is None else f"{name}[={word.hint}]"


GRAMMAR = ", ".join(_form(name, word) for name, word in _WORDS.items()) + ", or a bare status"
