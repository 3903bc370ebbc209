"""Exchanges, verdicts and rate limits as messages."""

from dataclasses import fields
from operator import attrgetter
from typing import Any

import msgspec

from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.exchange import Exchange

_ALL = tuple(each.name for each in fields(Exchange))

# The last fields are not sent: a worker logs its own `steps`, the supervisor keeps the
# reservation, and the usage record finds the cost.
_KEPT = ("steps", "cost_nano", "reserved", "budget_left")
_FIELDS = _ALL[: -len(_KEPT)]
assert _ALL[-len(_KEPT) :] == _KEPT

pack_exchange = attrgetter(*_FIELDS)


def unpack_exchange(values: tuple[Any, ...]) -> Exchange:
    return Exchange(*values)


def pack_update(update: RateLimitUpdate | None) -> Any:
    return update and (_pack_quota(update.requests), _pack_quota(update.tokens))


def unpack_update(packed: Any) -> RateLimitUpdate | None:
    return packed and RateLimitUpdate(*map(_unpack_quota, packed))


def _pack_quota(quota: Quota | None) -> Any:
    return quota and msgspec.structs.astuple(quota)


def _unpack_quota(packed: Any) -> Quota | None:
    return packed and Quota(*packed)
