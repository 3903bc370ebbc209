"""The lanes on the live page: levels, learned limits and forecasts."""

from collections.abc import Iterator, Mapping
from heapq import nlargest
from typing import Any

from rustygate.admission.gate import Gate
from rustygate.admission.waiter import LaneQueue
from rustygate.core.bucket import MINUTE, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASS_NAMES
from rustygate.core.lane import Lane
from rustygate.dashboard.histories import LENGTH
from rustygate.dashboard.values import label, seconds

Row = dict[str, Any]

# More would not fit on a page. Lanes with the most waiters come first, then those used last.
LANES_SHOWN = 100


def lane_rows(gate: Gate, now: int) -> list[Row]:
    """The lanes of confirmed models, and those with waiters, by name."""
    shown = [lane for lane in gate.lanes if lane.budgets.known or any(lane.waiting)]
    places = {lane: place for place, lane in enumerate(shown)}
    first = nlargest(LANES_SHOWN, shown, key=lambda lane: (sum(lane.waiting), places[lane]))
    first.sort(key=lambda lane: lane.name)
    forecasts = gate.dispatcher.forecasts([(lane, _typical_tokens(lane)) for lane in first])
    rows = zip(first, forecasts, strict=True)
    return [_lane_row(lane, waits, now) for lane, waits in rows]


def _typical_tokens(lane: LaneQueue) -> int:
    """The average cost of the lane's requests."""
    totals = lane.budgets.totals
    return totals.tokens // max(1, totals.requests)


def _lane_row(lane: LaneQueue, waits: list[int], now: int) -> Row:
    budgets = lane.budgets
    learned_at = budgets.learned_at
    return {
        "model": label(lane.name),
        "budgets": budget_rows(budgets, now),
        "paused_s": seconds(max(0, budgets.paused_until - now)),
        "waiting": sum(lane.waiting),
        "in_flight": budgets.in_flight,
        "forecast_s": dict(zip(CLASS_NAMES, map(seconds, waits), strict=True)),
        "learned_s": None if learned_at is None else seconds(now - learned_at),
        "others_per_min": {name: round(rate, 1) for name, rate in budgets.others_per_minute},
        "pace_per_min": _pace_per_minute(budgets, now),
        "history": [0] * LENGTH if lane.history is None else lane.history.steps(),
    }


def _pace_per_minute(lane: Lane, now: int) -> float | None:
    """The rate that the lane is slowed down to after refusals, or None."""
    periods = [lane.pace_period(now)]
    if lane.throttle is not None:
        periods.append(lane.throttle.period(now))
    slowest = max(periods)
    return round(MINUTE / slowest, 1) if slowest else None


def budget_rows(budgets: Budgets, now: int) -> list[Row]:
    """The level, limit and refill of each budget that has a limit."""
    refills = dict(_refills({"requests": budgets.requests, "tokens": budgets.tokens}))
    return [
        {
            "budget": level.budget,
            "level": level.units,
            "limit": level.limit,
            "per_minute": refills.get(level.budget),
        }
        for level in budgets.levels(now)
    ]


def _refills(buckets: Mapping[str, TokenBucket | None]) -> Iterator[tuple[str, float]]:
    """Units per minute of each bucket."""
    for name, bucket in buckets.items():
        if bucket is not None:
            yield name, round(MINUTE / bucket.period, 1)
