"""Reads from the usage record what clients spent of their budgets before this process."""

from collections.abc import Callable
from time import time_ns

from loguru import logger

from rustygate.admission.client_budgets import Spending
from rustygate.core.client_budgets import Cost
from rustygate.core.periods import day_of, month_of
from rustygate.core.usage_rows import Grouped, UsageQuery, UsageTotals
from rustygate.telemetry.usage.recorder import UsageRecorder
from rustygate.telemetry.usage.store import UsageStoreError


async def load_spending(
    spending: Spending, usage: UsageRecorder, clock: Callable[[], int] = time_ns
) -> None:
    """Count what clients have spent in the current month, before the first request."""
    now = clock()
    try:
        rows = await usage.rows_by(spending_query(now))
    except UsageStoreError as error:
        logger.warning(
            "cannot read what clients have spent ({}): {}", error, spending.without_usage
        )
        return
    add_spending(spending, rows, now)


def spending_query(now: int) -> UsageQuery:
    """The report that shows what clients have spent in the current month."""
    return UsageQuery(f"{month_of(now)}-01", day_of(now), by=("client", "day"))


def add_spending(spending: Spending, rows: Grouped, now: int) -> None:
    """Count the spending in the rows of that report."""
    today, month = day_of(now), month_of(now)
    for (client, day), totals in rows:
        cost = _cost_of(totals)
        spending.add(client, month, cost)
        if day == today:
            spending.add(client, day, cost)


def _cost_of(totals: UsageTotals) -> Cost:
    tokens = totals.tokens_in + totals.tokens_out + totals.tokens_estimated
    return Cost(tokens, totals.cost_nano_usd)
