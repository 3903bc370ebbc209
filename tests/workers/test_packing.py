"""Exchanges and rate limits as messages."""

import pickle
from dataclasses import fields
from typing import Any

import pytest

from rustygate.core.client_budgets import Cost
from rustygate.core.rate_limit_headers import NO_UPDATE, Quota, RateLimitUpdate
from rustygate.exchange import Exchange
from rustygate.workers.packing import (
    pack_exchange,
    pack_update,
    unpack_exchange,
    unpack_update,
)

# What a worker keeps for itself, and each time a new one.
KEPT = {"steps", "cost_nano", "reserved", "budget_left"}


def full_exchange() -> Exchange:
    """An exchange whose fields all differ from each other and from their defaults."""
    values: dict[str, Any] = {}
    for number, each in enumerate(fields(Exchange), 1):
        kind = str(each.type)
        if "bytes | None" in kind:
            values[each.name] = b"%d" % number
        elif "str" in kind:
            values[each.name] = f"{number}\ud800"
        elif "bool" in kind:
            values[each.name] = True
        else:
            values[each.name] = number
    values |= {"steps": ["1 ms x"], "cost_nano": 1, "reserved": Cost(5), "budget_left": "x=1"}
    return Exchange(**values)


def test_every_field_of_an_exchange_is_packed_or_known_to_be_kept() -> None:
    exchange = full_exchange()
    other = unpack_exchange(pickle.loads(pickle.dumps(pack_exchange(exchange))))
    for each in fields(Exchange):
        expected = None if each.name in KEPT else getattr(exchange, each.name)
        assert getattr(other, each.name) == expected, each.name


def test_a_new_exchange_is_the_same_after_the_journey() -> None:
    exchange = Exchange("client", "POST", "/v1/x")
    assert unpack_exchange(pickle.loads(pickle.dumps(pack_exchange(exchange)))) == exchange


@pytest.mark.parametrize(
    "update",
    [
        None,
        NO_UPDATE,
        RateLimitUpdate(Quota(60, 0), None),
        RateLimitUpdate(None, Quota(1000, None)),
        RateLimitUpdate(Quota(60, 59), Quota(1000, 7)),
    ],
)
def test_rate_limits_are_the_same_after_the_journey(update: RateLimitUpdate | None) -> None:
    assert unpack_update(pickle.loads(pickle.dumps(pack_update(update)))) == update
