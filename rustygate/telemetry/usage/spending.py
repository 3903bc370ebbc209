"""Reads from the usage record what clients spent of their budgets before this process."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from time import time_ns

from loguru import logger

from rustygate.admission.client_budgets import Spending
from rustygate.core.client_budgets import Cost
from rustygate.core.periods import day_of, month_of
from rustygate.core.usage_rows import Grouped, UsageQuery, UsageTotals
from rustygate.system.background import start_task
from rustygate.telemetry.usage.recorder import UsageRecorder
from rustygate.telemetry.usage.store import UsageStoreError

# How long to wait before the record is read again after a failure.
RETRY_S = 1.0


async def load_spending(
    spending: Spending, usage: UsageRecorder, clock: Callable[[], int] = time_ns
) -> asyncio.Task[None] | None:
    """Count what clients have spent in the current month, before the first request.

    If the record cannot be read, returns a task that reads it as soon as possible, unless a group
    knows what was spent.
    """
    try:
        await _load(spending, usage, clock)
    except UsageStoreError as error:
        logger.warning(
            "cannot read what clients have spent ({}): {}", error, spending.without_usage
        )
        if spending.reads_usage_later:
            return start_task("reading what was spent", _load_later(spending, usage, clock))
    return None


async def _load_later(spending: Spending, usage: UsageRecorder, clock: Callable[[], int]) -> None:
    while True:
        await asyncio.sleep(RETRY_S)
        try:
            await _load(spending, usage, clock)
        except UsageStoreError:
            continue
        logger.info("what clients have spent was read: budgets count all of it")
        return


async def _load(spending: Spending, usage: UsageRecorder, clock: Callable[[], int]) -> None:
    """Count what the record shows, which includes all exchanges settled until now."""
    now = clock()
    set_spending(spending, await usage.rows_by(spending_query(now)), now)


def spending_query(now: int) -> UsageQuery:
    """The report that shows what clients have spent in the current month."""
    return UsageQuery(f"{month_of(now)}-01", day_of(now), by=("client", "day"))


def set_spending(spending: Spending, rows: Grouped, now: int) -> None:
    """Count the spending in the rows of that report."""
    today, month = day_of(now), month_of(now)
    recorded: defaultdict[tuple[str, str], Cost] = defaultdict(Cost)
    for (client, day), totals in rows:
        cost = _cost_of(totals)
        recorded[client, month] += cost
        if day == today:
            recorded[client, day] += cost
    for (client, period), cost in recorded.items():
        spending.set_recorded(client, period, cost)


def _cost_of(totals: UsageTotals) -> Cost:
    tokens = totals.tokens_in + totals.tokens_out + totals.tokens_estimated
    return Cost(tokens, totals.cost_nano_usd)
