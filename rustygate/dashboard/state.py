"""The state of the gate as the live page shows it, as JSON values.

It is built when somebody looks, in time by the number of lanes and flows, not of waiters. Its keys
are documented in `docs/live-page.md`.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from time import monotonic_ns
from typing import Any

from rustygate import __version__
from rustygate.admission.gate import Gate
from rustygate.admission.waiter import LaneQueue
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.dashboard.text import label
from rustygate.exchange import Exchange
from rustygate.telemetry.ledger import Ledger, log_fields
from rustygate.telemetry.metrics import Metrics

State = dict[str, Any]


class StateBuilder:
    """Builds the state of a gate."""

    def __init__(self, gate: Gate, metrics: Metrics, ledger: Ledger) -> None:
        self._gate = gate
        self._metrics = metrics
        self._ledger = ledger
        self._began = gate.now()

    def build(self) -> State:
        """The state at this instant."""
        gate, now = self._gate, self._gate.now()
        return {
            "now": _rfc3339(datetime.now(UTC)),
            "version": __version__,
            "state": self._state(),
            "uptime_s": _seconds(now - self._began),
            "in_flight": gate.dispatcher.budgets.in_flight,
            "waiting": gate.dispatcher.waiting,
            "admitted_per_s": 0.0,
            "longest_wait_s": 0.0,
            "upstream_429_5m": 0,
            "group": self._group(),
            "budgets": budget_rows(gate.dispatcher.budgets, now),
            "lanes": [self._lane(lane, now) for lane in gate.lanes if lane.budgets.known],
            "clients": [],
            "queue": [],
            "recent": self._recent(),
            "refusals": self._metrics.refusals,
            "verdicts": self._metrics.verdicts,
            "retries": self._metrics.retries,
            "history": {"admitted": [], "waiting": []},
            "usage": [],
        }

    def _state(self) -> str:
        if self._gate.closed:
            return "draining"
        member = self._gate.member
        return "alone" if member is not None and member.state == "alone" else "serving"

    def _group(self) -> State:
        member = self._gate.member
        if member is None:
            return {"state": "single", "members": 1}
        return {"state": member.state, "members": member.members}

    def _lane(self, lane: LaneQueue, now: int) -> State:
        return {
            "model": label(lane.name),
            "budgets": budget_rows(lane.budgets, now),
            "paused_s": _seconds(max(0, lane.budgets.paused_until - now)),
            "waiting": sum(lane.waiting),
            "forecast_s": {},
            "learned_s": None,
            "others_per_min": {},
            "history": [],
        }

    def _recent(self) -> list[State]:
        """The last exchanges, the latest one first."""
        now, clock = datetime.now(UTC), monotonic_ns()
        exchanges = reversed(self._ledger.recent.exchanges)
        return [_exchange_row(exchange, now, clock) for exchange in exchanges]


def budget_rows(budgets: Budgets, now: int) -> list[State]:
    """The level, limit and refill of each budget that has a limit."""
    refills = _refills(budgets)
    return [
        {
            "budget": level.budget,
            "level": level.units,
            "limit": level.limit,
            "per_minute": refills.get(level.budget),
        }
        for level in budgets.levels(now)
    ]


def _refills(budgets: Budgets) -> Mapping[str, float]:
    """Units per minute of each budget that refills."""
    return dict(_refill_pairs({"requests": budgets.requests, "tokens": budgets.tokens}))


def _refill_pairs(buckets: Mapping[str, TokenBucket | None]) -> Iterator[tuple[str, float]]:
    for name, bucket in buckets.items():
        if bucket is not None:
            yield name, round(60 * SECOND / bucket.period, 3)


def _exchange_row(exchange: Exchange, now: datetime, clock: int) -> State:
    settled = clock if exchange.settled is None else exchange.settled
    row: State = {"at": _rfc3339(now - timedelta(microseconds=(clock - settled) // 1000))}
    for name, value in log_fields(exchange).items():
        row[name] = label(value) if isinstance(value, str) else value
    return row


def _rfc3339(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(duration: int) -> float:
    """Nanoseconds as seconds, to the millisecond."""
    return round(duration / SECOND, 3)
