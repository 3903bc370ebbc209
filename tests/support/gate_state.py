"""The state of a gate on a virtual clock, as the live page gets it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rustygate.admission.client_budgets import Spending
from rustygate.admission.gate import Gate
from rustygate.core.clients import Client
from rustygate.core.price_list import PriceList
from rustygate.dashboard.histories import Histories
from rustygate.dashboard.state import StateBuilder
from rustygate.dashboard.usage_view import UsageView
from rustygate.telemetry.labels import ExchangeLabels
from rustygate.telemetry.metrics import Metrics
from rustygate.telemetry.tally import Tally
from rustygate.telemetry.usage.memory_store import MemoryUsageStore
from rustygate.telemetry.usage.recorder import UsageRecorder
from rustygate.telemetry.worker_metrics import WorkerStatus, one_process


class Watched:
    """A gate with what builds its state."""

    def __init__(
        self,
        gate: Gate,
        clients: Mapping[str, Client] | None = None,
        workers: Sequence[WorkerStatus] = one_process(),
    ) -> None:
        self.spending = Spending(PriceList())
        labels = ExchangeLabels(gate.lanes)
        self.metrics = Metrics(gate, labels, self.spending)
        self.usage = UsageRecorder(MemoryUsageStore(), PriceList())
        self.tally = Tally(self.metrics, self.usage, self.spending)
        self.histories = Histories(gate, self.metrics)
        self._builder = StateBuilder(
            gate,
            self.metrics,
            self.tally.recent,
            self.histories,
            UsageView(self.usage),
            lambda: clients or {},
            self.spending.left,
            lambda: workers,
        )

    def state(self) -> dict[str, Any]:
        """The state without what the usage record knows."""
        return self._builder.at_once()

    async def full_state(self) -> dict[str, Any]:
        return await self._builder.build()

    def client(self, name: str) -> dict[str, Any]:
        """The row of a client."""
        [row] = [row for row in self.state()["clients"] if row["client"] == name]
        return dict(row)

    def lane(self, model: str) -> dict[str, Any]:
        """The row of a lane."""
        [row] = [row for row in self.state()["lanes"] if row["model"] == model]
        return dict(row)
