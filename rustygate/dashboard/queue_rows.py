"""The next waiters on the live page, in the order of admission."""

from typing import Any

from rustygate.admission.gate import Gate
from rustygate.admission.waiter import Waiter
from rustygate.core.upcoming import Upcoming
from rustygate.dashboard.values import label, seconds

Row = dict[str, Any]

WAITERS_SHOWN = 20


def queue_rows(gate: Gate, now: int) -> list[Row]:
    """The next waiters to be admitted."""
    return [_row(each, now) for each in gate.upcoming(WAITERS_SHOWN, now)]


def _row(upcoming: Upcoming[Waiter], now: int) -> Row:
    waiter, at = upcoming.item, upcoming.at
    exchange = waiter.exchange
    return {
        "id": exchange.id,
        "client": label(exchange.client),
        "priority": exchange.priority,
        "model": None if exchange.model is None else label(exchange.model),
        "cost": upcoming.tokens,
        "waited_s": seconds(waiter.waited(now)),
        "expected_s": None if at is None else seconds(max(0, at - now)),
        "blocked_by": upcoming.blocked_by,
    }
