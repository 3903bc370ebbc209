"""A scrape of a gate's /metrics, parsed as Prometheus parses it."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from rustygate.admission.gate import Gate as AdmissionGate
from rustygate.exchange import Exchange
from rustygate.telemetry.labels import ExchangeLabels
from rustygate.telemetry.metrics import Metrics
from rustygate.telemetry.worker_metrics import Workers, one_process
from tests.support.gate import Gate

# The documented metrics, with their types.
TYPES = {
    "rustygate_exchanges": "counter",
    "rustygate_queue_wait_seconds": "histogram",
    "rustygate_client_queue_seconds": "counter",
    "rustygate_time_to_first_byte_seconds": "histogram",
    "rustygate_exchange_seconds": "histogram",
    "rustygate_waiters": "gauge",
    "rustygate_in_flight": "gauge",
    "rustygate_tokens": "counter",
    "rustygate_budget_units": "gauge",
    "rustygate_budget_units_limit": "gauge",
    "rustygate_retries": "counter",
    "rustygate_refusals": "counter",
    "rustygate_upstream_429": "counter",
}
# Those of a gate with clients that have budgets.
BUDGET_TYPES = {"rustygate_client_budget_used_ratio": "gauge"}
# Those of a gate with several processes.
WORKER_TYPES = {"rustygate_workers": "gauge", "rustygate_worker_restarts": "counter"}
# Those of a gate in a group.
GROUP_TYPES = {
    "rustygate_group_members": "gauge",
    "rustygate_group_state": "gauge",
    "rustygate_group_sync_seconds": "histogram",
}


def scrape_request(*lines: str, host: str = "localhost", target: str = "/metrics") -> bytes:
    """A request for /metrics, with more header lines."""
    return "\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


class Scrape:
    """One scrape's samples."""

    def __init__(self, text: bytes) -> None:
        self.text = text.decode()
        self.families: list[Metric] = list(text_string_to_metric_families(self.text))

    @classmethod
    async def of(cls, gate: Gate) -> "Scrape":
        response = await gate.request(scrape_request())
        assert response.status == 200
        return cls(response.body)

    def samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """The labels and values of all samples with this name."""
        for family in self.families:
            for sample in family.samples:
                if sample.name == name:
                    yield sample.labels, sample.value

    def labels(self, name: str, label: str) -> set[str]:
        return {labels[label] for labels, _ in self.samples(name)}

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        return sum(value for own, value in self.samples(name) if labels.items() <= own.items())


def metrics_of(gate: AdmissionGate, workers: Workers = one_process) -> Metrics:
    """The metrics of a gate."""
    return Metrics(gate, ExchangeLabels(gate.lanes), workers=workers)


def settle(metrics: Metrics, exchange: Exchange) -> None:
    """Count an exchange as the ledger does."""
    metrics.settle(exchange, *metrics.labels.of(exchange))
