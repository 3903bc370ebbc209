"""Counts settled exchanges: in the metrics, the usage record and the budgets of clients."""

from typing import Protocol

from rustygate.admission.client_budgets import Spending
from rustygate.core.verdict import Action
from rustygate.exchange import Exchange
from rustygate.telemetry.metrics import Metrics
from rustygate.telemetry.recent import Recent
from rustygate.telemetry.refusal_log import RefusalLog
from rustygate.telemetry.usage.recorder import UsageRecorder


class AnyTally(Protocol):
    """Counts exchanges, in this process or in another."""

    def settle(self, exchange: Exchange) -> None: ...

    def count_retry(self, reason: str) -> None: ...

    def count_upstream_429(self, lane: str | None, verdict: Action) -> None: ...

    def count_refusal(self, reason: str) -> None: ...


class Tally:
    """Counts exchanges.

    Attributes:
        recent: the last exchanges.
    """

    def __init__(self, metrics: Metrics, usage: UsageRecorder, spending: Spending) -> None:
        self._metrics = metrics
        self._usage = usage
        self._spending = spending
        self._refusals = RefusalLog()
        self.recent = Recent()

    def settle(self, exchange: Exchange) -> None:
        """Count a settled exchange."""
        labels = self._metrics.labels.of(exchange)
        self._metrics.settle(exchange, *labels)
        self._usage.settle(exchange, labels)
        self._spending.settle(exchange)
        self.recent.settle(exchange)
        if exchange.outcome == "refused" and exchange.reason is not None:
            self._refusals.count(exchange.reason)

    def count_retry(self, reason: str) -> None:
        """Count another attempt of an exchange."""
        self._metrics.count_retry(reason)

    def count_upstream_429(self, lane: str | None, verdict: Action) -> None:
        """Count a 429 from upstream, by what it means."""
        self._metrics.count_upstream_429(lane, verdict)

    def count_refusal(self, reason: str) -> None:
        """Count a request that was refused and is not an exchange."""
        self._metrics.count_refusal(reason)

    def close(self) -> None:
        """Log the refusals that were not logged yet."""
        self._refusals.flush()
