"""A member's call, checked before anything is changed.

Other members depend on the state of the group, so a call with an error in it is refused as a
whole. A call is a dict:

- `member`: its name, new at each registration. `known`: 1 if it was answered before. `seq`: the
  number of the call, which grows; a retry has the same one. `ack`: the number of the last call
  whose reply it has; it must not use the replies to calls before that any more. `elapsed`: ns
  since the last call that was answered.
- `limits`: the gate's own: ns per request, burst, tokens per minute, slots, and a lane's slots
  before its first response; -1 for no limit.
- `demand`: for each flow that changed: lane, class (0 to 2), client, weight, the tokens of its
  first waiters, how many more there are, their tokens, and the age of the first in ns.
- `news`: what happened to what was admitted (`core.group_news`).
- `float`: for lanes whose float it keeps or wants: lane, admissions, tokens each. In other lanes
  it gives its float back, and must not use it from this call on.
- `clients`: for each client in the file, also those without limits: name, weight, and limits (ns
  per request, burst, tokens per minute, slots; -1 for none), with `clients_version`, the time of
  the file in microseconds; both optional.
- `leave`: 1 to end; optional.
- `alone`: 1 if it registers after it was alone, and others may still be; optional.
- `ahead`: how far into the future others may hold grants when it registers, in ns; optional.
- When it registers: `slots`, its admissions in flight: own, by lane and by client. `levels`: what
  is left of the gate's own requests and tokens as far as it knows, at most; -1 if it knows
  nothing. A member that was alone reports 0, because it does not know what others have admitted.
  `replaces`: its name before, if it was in this group; it may be the same.

Whole numbers are at most 2**53; tokens of a waiter at most `MAX_TOKENS`, so a member reports that
many for a larger one.
"""

from collections.abc import Callable
from math import isfinite
from typing import Any

from rustygate.core.group_news import EVENTS
from rustygate.core.group_state import MAX_FLOWS_REPORTED

MAX_NUMBER = 2**53
MAX_TOKENS = 10**10

# The number of waiters of a flow whose sizes a member reports; the others are a sum.
SIZES_REPORTED = 8


class CallError(ValueError):
    """A call that cannot be used. Nothing was changed."""


def check(call: Any) -> None:
    """Raises `CallError`."""
    if not isinstance(call, dict):
        raise CallError("a call is not an object")
    for name, is_valid in _FIELDS.items():
        if name not in call or not is_valid(call[name]):
            raise CallError(f"a call's {name!r} is missing or malformed")
    for name, is_valid in _OPTIONAL.items():
        if call.get(name) is not None and not is_valid(call[name]):
            raise CallError(f"a call's {name!r} is malformed")
    if call["ack"] >= call["seq"]:
        raise CallError("a call acknowledges itself")
    if call.get("clients") is not None and call.get("clients_version") is None:
        raise CallError("a call's 'clients_version' is missing")
    if not call["known"] and not all(call.get(name) for name in ("slots", "levels")):
        raise CallError("a member registers without 'slots' and 'levels'")


def _is_integer(value: Any, least: int = 0, most: int = MAX_NUMBER) -> bool:
    return isinstance(value, int) and least <= value <= most


def _is_limit(value: Any) -> bool:
    return value == -1 or _is_integer(value, 1)


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value) and value > 0


def _list_of(is_valid: Callable[[Any], bool], most: int | None = None) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if not isinstance(value, list) or (most is not None and len(value) > most):
            return False
        return all(map(is_valid, value))

    return check


def _row(*columns: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != len(columns):
            return False
        return all(is_valid(each) for is_valid, each in zip(columns, value, strict=True))

    return check


def _is_limits(value: Any) -> bool:
    """The first two belong together: a rate needs a burst."""
    return _list_of(_is_limit)(value) and (value[0] == -1 or value[1] > 0)


def _is_demand(value: Any) -> bool:
    if not _row(
        _is_name, _is_class, _is_name, _is_weight, _sizes, _is_integer, _is_integer, _is_integer
    )(value):
        return False
    rest, rest_tokens = value[5:7]
    return bool(0 <= rest_tokens <= rest * MAX_TOKENS)


def _is_class(value: Any) -> bool:
    return _is_integer(value, 0, 2)


def _is_tokens(value: Any) -> bool:
    return _is_integer(value, 0, MAX_TOKENS)


_sizes = _list_of(_is_tokens, SIZES_REPORTED)


def _is_event(value: Any) -> bool:
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        return False
    kinds, values = EVENTS.get(value[0]), value[1:]
    if kinds is None:
        return False
    if kinds[-1] == "v" and len(values) == len(kinds) - 1:
        kinds = kinds[:-1]
    return len(values) == len(kinds) and all(map(_is_value, kinds, values))


def _is_value(kind: str, value: Any) -> bool:
    return _is_name(value) if kind == "s" else _is_integer(value, _LEAST[kind])


_LEAST = {"i": 0, "p": 1, "v": -1, "z": -MAX_NUMBER}


def _is_client(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 6:
        return False
    return _is_name(value[0]) and _is_weight(value[1]) and _is_limits(value[2:])


def _is_gate_limits(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 5 and _is_limits(value)


def _is_level(value: Any) -> bool:
    return _is_integer(value, -1)


_slots = _list_of(_row(_is_name, _is_integer))

_FIELDS: dict[str, Callable[[Any], bool]] = {
    "member": lambda value: _is_name(value) and value != "",
    "known": lambda value: _is_integer(value, 0, 1),
    "seq": lambda value: _is_integer(value, 1),
    "ack": _is_integer,
    "elapsed": _is_integer,
    "limits": _is_gate_limits,
    "demand": _list_of(_is_demand, MAX_FLOWS_REPORTED),
    "news": _list_of(_is_event),
    "float": _list_of(_row(_is_name, _is_integer, _is_tokens)),
}

_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "slots": _row(_is_integer, _slots, _slots),
    "levels": _row(_is_level, _is_level),
    "replaces": _is_name,
    "clients": _list_of(_is_client),
    "clients_version": _is_integer,
    "leave": lambda value: _is_integer(value, 0, 1),
    "alone": lambda value: _is_integer(value, 0, 1),
    "ahead": _is_integer,
}
