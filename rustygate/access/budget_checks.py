"""Finds budgets that a gate could not enforce. They are refused, never silently ignored."""

from collections.abc import Iterator

from rustygate.config import Settings
from rustygate.core.client_budgets import budgets_of
from rustygate.core.clients import Client, Clients
from rustygate.core.price_list import PriceList, is_pattern
from rustygate.system.data_dir import data_dir_problem


def unkept_budgets(settings: Settings, prices: PriceList, clients: Clients) -> list[str]:
    """A line for each budget in CLIENTS_FILE that a gate with these settings cannot enforce."""
    reason = _not_kept(settings)
    return [
        f"client.{client.name}.{problem}"
        for client in clients.by_name.values()
        for problem in _problems(client, prices, reason)
    ]


def _problems(client: Client, prices: PriceList, reason: str | None) -> Iterator[str]:
    for budget in budgets_of(client.spending):
        if reason is not None:
            yield f"{budget.name}: {reason}"
        elif budget.in_dollars:
            for model in _unpriced(client, prices):
                yield (
                    f"{budget.name}: model {model!a} has no known price; set one in PRICES_FILE, "
                    "or remove the model from `models`"
                )


def _unpriced(client: Client, prices: PriceList) -> Iterator[str]:
    for model in client.models:
        # A shell pattern may match models with and without a price.
        if not is_pattern(model) and prices.find(model) is None:
            yield model


def _not_kept(settings: Settings) -> str | None:
    """Why spending would be forgotten at a restart; None if it would not."""
    if settings.redis_url is not None:
        return None
    if settings.data_dir is None:
        return "set DATA_DIR or REDIS_URL, so that the gate can keep track of spending"
    problem = data_dir_problem(settings.data_dir)
    if problem is None:
        return None
    return f"expected a writable DATA_DIR ({problem}), so that the gate can keep track of spending"
