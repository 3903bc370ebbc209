"""A member's share of its group's limits, with which it continues while it is alone."""

from math import ceil

from rustygate.core.bucket import TokenBucket
from rustygate.core.budgets import Budgets


def changed(
    bucket: TokenBucket | None, limit: TokenBucket | None, now: int, share: float
) -> TokenBucket | None:
    """A bucket with another limit and a share of its level; an empty one if there was none."""
    if limit is None:
        return None
    if bucket is None:
        limit.fill_to(now, 0)
        return limit
    level = bucket.level(now)
    bucket.period, bucket.burst = limit.period, limit.burst
    bucket.fill_to(now, min(limit.burst, int(level * share)))
    return bucket


def part_of(limits: Budgets, share: float) -> Budgets:
    """A share of limits, at least one of each."""
    for bucket in (limits.requests, limits.tokens):
        if bucket is not None:
            bucket.period = ceil(bucket.period / share)
            bucket.burst = _part_of_units(bucket.burst, share)
    if limits.slots is not None:
        limits.slots = _part_of_units(limits.slots, share)
    return limits


def _part_of_units(units: int, share: float) -> int:
    """A share of the units: at least one, else rounded down, so that the parts of all members do
    not exceed the whole. The small addend keeps almost equal shares from leaving units unused."""
    return max(1, int(units * share + 0.05))
