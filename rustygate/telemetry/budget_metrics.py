"""Metrics of clients' budgets."""

from collections.abc import Iterator

from rustygate.admission.client_budgets import Spending
from rustygate.telemetry.families import Family, gauge


class BudgetMetrics:
    """How much of their budgets clients have spent."""

    def __init__(self, spending: Spending) -> None:
        self._spending = spending

    def families(self) -> Iterator[Family]:
        family = gauge(
            "rustygate_client_budget_used_ratio",
            "What a client has spent of a budget in its current day or month, without what is "
            "reserved, as a ratio: 1 when it is used up; budget is its key in CLIENTS_FILE.",
            ("client", "budget"),
            (((client, name), ratio) for client, name, ratio in self._spending.used_ratios()),
        )
        if family.samples:
            yield family
