"""The state of the gate for the live page, as JSON values.

It is built when somebody looks, in time by the number of lanes and flows, not of waiters. Its keys
are documented in `docs/live-page.md`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from time import monotonic_ns
from typing import Any

from rustygate import __version__
from rustygate.admission.gate import Gate
from rustygate.core.clients import Client
from rustygate.dashboard.client_rows import ClientSources, client_rows
from rustygate.dashboard.histories import Histories
from rustygate.dashboard.lane_rows import budget_rows, lane_rows
from rustygate.dashboard.queue_rows import queue_rows
from rustygate.dashboard.usage_view import UsageView
from rustygate.dashboard.values import label, rfc3339, seconds
from rustygate.dashboard.waiting import sum_waiting
from rustygate.exchange import Exchange
from rustygate.telemetry.ledger import log_fields
from rustygate.telemetry.metrics import Metrics
from rustygate.telemetry.recent import Recent
from rustygate.telemetry.worker_metrics import Workers, one_process

State = dict[str, Any]


class StateBuilder:
    """Builds the state of a gate.

    Args:
        clients: the clients of CLIENTS_FILE that are in force.
        budget_left: what is left of the budgets of a client.
        workers: its workers, if it has several.
    """

    def __init__(
        self,
        gate: Gate,
        metrics: Metrics,
        recent: Recent,
        histories: Histories,
        usage: UsageView,
        clients: Callable[[], Mapping[str, Client]],
        budget_left: Callable[[str], Mapping[str, float]],
        workers: Workers = one_process,
    ) -> None:
        self._gate = gate
        self._metrics = metrics
        self._exchanges = recent
        self._histories = histories
        self._usage = usage
        self._clients = clients
        self._budget_left = budget_left
        self._workers = workers
        self._began = gate.now()

    async def build(self) -> State:
        """The state at this instant."""
        await self._usage.refresh()
        return self.at_once()

    def at_once(self) -> State:
        """The state, with the usage that was read last."""
        now, waiting = self._gate.now(), sum_waiting(self._gate.dispatcher, self._gate.now())
        clients = ClientSources(self._clients(), self._usage.today, self._budget_left)
        return {
            **self._summary(now),
            "longest_wait_s": seconds(waiting.longest),
            "budgets": budget_rows(self._gate.dispatcher.budgets, now),
            "lanes": lane_rows(self._gate, now),
            "clients": client_rows(self._gate, waiting, clients),
            "queue": queue_rows(self._gate, now),
            "recent": self._recent(),
            "refusals": self._metrics.refusals,
            "verdicts": self._metrics.verdicts,
            "retries": self._metrics.retries,
            "history": {
                "admitted": self._histories.admitted.steps(),
                "waiting": self._histories.waiting.values(),
            },
            "usage": self._usage.rows(),
        }

    def _summary(self, now: int) -> State:
        """The numbers at the top of the page."""
        gate = self._gate
        return {
            "now": rfc3339(datetime.now(UTC)),
            "version": __version__,
            "state": self._state(),
            "uptime_s": seconds(now - self._began),
            "in_flight": gate.dispatcher.budgets.in_flight,
            "waiting": gate.dispatcher.waiting,
            "admitted_per_s": round(self._histories.admitted_per_s, 2),
            "upstream_429_5m": self._histories.upstream_429s,
            "group": self._group(),
            "workers": [asdict(worker) for worker in self._workers()],
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

    def _recent(self) -> list[State]:
        """The last exchanges, newest first."""
        now, clock = datetime.now(UTC), monotonic_ns()
        exchanges = reversed(self._exchanges.exchanges)
        return [_exchange_row(exchange, now, clock) for exchange in exchanges]


def _exchange_row(exchange: Exchange, now: datetime, clock: int) -> State:
    settled = clock if exchange.settled is None else exchange.settled
    row: State = {"at": rfc3339(now - timedelta(microseconds=(clock - settled) // 1000))}
    for name, value in log_fields(exchange).items():
        row[name] = label(value) if isinstance(value, str) else value
    return row
