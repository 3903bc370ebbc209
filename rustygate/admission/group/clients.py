"""Limits, and weights of the clients, as a member sends them to its group."""

from collections.abc import Mapping
from typing import Any

from rustygate.core.bucket import TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.clients import Limits
from rustygate.core.group_scheduler import MAX_PERIOD


def clients_of(limits: Mapping[str, Limits], weights: Mapping[str, float]) -> list[list[Any]]:
    """For each client: name, weight, ns per request, burst, tokens per minute, slots; -1 for
    none."""
    return [
        [name, weight, *limits_of(limits.get(name, Limits()).budgets())]
        for name, weight in weights.items()
    ]


def limits_of(budgets: Budgets) -> list[int]:
    """Limits in the form of the protocol: ns per request, burst, tokens per minute, slots; -1 for
    none."""
    requests, tokens = budgets.requests, budgets.tokens
    return [
        -1 if requests is None else min(requests.period, MAX_PERIOD),
        -1 if requests is None else requests.burst,
        -1 if tokens is None else tokens.burst,
        -1 if budgets.slots is None else budgets.slots,
    ]


def full_budgets(limits: list[int]) -> Budgets:
    """Full budgets with limits in that form."""
    period, burst, tokens, slots, *_ = limits
    return Budgets(
        None if period < 0 else TokenBucket(period, burst),
        None if tokens < 0 else TokenBucket.per_minute(tokens),
        None if slots < 0 else slots,
    )
