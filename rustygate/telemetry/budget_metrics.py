"""Metrics of clients' budgets."""

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from rustygate.admission.client_budgets import Spending


class BudgetMetrics:
    """How much of their budgets clients have spent."""

    def __init__(self, spending: Spending) -> None:
        self._spending = spending

    def families(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "rustygate_client_budget_used_ratio",
            "What a client has spent of a budget in its current day or month, without what is "
            "reserved, as a ratio: 1 when it is used up; budget is its key in CLIENTS_FILE.",
            labels=("client", "budget"),
        )
        for client, budget, ratio in self._spending.used_ratios():
            family.add_metric((client, budget), ratio)
        if family.samples:
            yield family
