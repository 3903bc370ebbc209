"""Adds up settled exchanges in memory and writes them to the store later.

Counting is synchronous and cheap. The new totals go to the store as a batch soon enough that a
crash loses less than a second. If a batch cannot be written, it stays in memory and is retried
unchanged each second; exchanges that settle meanwhile go into the next batch. Memory is bounded,
because the number of labels is.
"""

import asyncio
from collections.abc import Callable
from time import time_ns

from loguru import logger

from rustygate.core.periods import DAY, day_of
from rustygate.core.plural import counted
from rustygate.core.price_list import PriceList
from rustygate.core.usage_rows import Grouped, UsageKey, UsageQuery, UsageTotals, total
from rustygate.exchange import Exchange
from rustygate.telemetry.usage.cost import exchange_cost
from rustygate.telemetry.usage.selection import merge, select
from rustygate.telemetry.usage.store import UsageStore, UsageStoreError

# With the time that a write takes, a crash loses less than a second.
WRITE_AFTER_S = 0.8
RETRY_AFTER_S = 1.0

# A disk that hangs must not keep the gate from stopping.
CLOSE_LIMIT_S = 5.0

_NS_PER_US = 1000


class UsageRecorder:
    """Counts exchanges for the usage record.

    Args:
        wall_clock: the time since 1970, in nanoseconds. An exchange belongs to the UTC day in
            which it settles.
    """

    def __init__(
        self, store: UsageStore, prices: PriceList, wall_clock: Callable[[], int] = time_ns
    ) -> None:
        self._store = store
        self._prices = prices
        self._wall_clock = wall_clock
        self._loop = asyncio.get_running_loop()
        # Totals of the current day by client and model. They are also in `_pending`.
        self._today: dict[tuple[str, str], UsageTotals] = {}
        self._pending: dict[UsageKey, UsageTotals] = {}
        self._batch: dict[UsageKey, UsageTotals] = {}
        self._day, self._day_begins, self._day_ends = "", 0, 0
        self._failure: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<UsageRecorder {self.unwritten} exchanges not written, {self._store}>"

    @property
    def unwritten(self) -> int:
        """The number of exchanges that are only in memory."""
        return total((*self._batch.values(), *self._pending.values())).exchanges

    # Counting.

    def settle(self, exchange: Exchange, labels: tuple[str, str]) -> None:
        """Count a settled exchange under the labels of its client and model, and set its cost.

        A single function, because it runs for each exchange. Most amounts are 0 or None.
        """
        now = self._wall_clock()
        if not self._day_begins <= now < self._day_ends:
            self._begin_day(now)
        totals = self._today.get(labels)
        if totals is None:
            totals = self._begin_totals(labels)
        totals.exchanges += 1
        if exchange.queued:
            totals.queued_us += exchange.queued // _NS_PER_US
        if exchange.outcome == "refused":
            totals.refused += 1
        if exchange.tokens_estimated:
            totals.tokens_estimated += (exchange.tokens_in or 0) + (exchange.tokens_out or 0)
        elif exchange.tokens_in or exchange.tokens_out:
            totals.tokens_in += exchange.tokens_in or 0
            totals.tokens_out += exchange.tokens_out or 0
            if exchange.tokens_cached:
                totals.tokens_cached += exchange.tokens_cached
            if exchange.tokens_reasoning:
                totals.tokens_reasoning += exchange.tokens_reasoning
        cost = exchange.cost_nano = exchange_cost(self._prices, exchange, self._day)
        if cost is None:
            totals.unpriced += 1
        else:
            totals.cost_nano_usd += cost

    def _begin_day(self, now: int) -> None:
        self._day, self._day_begins = day_of(now), now // DAY * DAY
        self._day_ends = self._day_begins + DAY
        self._today = {}

    def _begin_totals(self, labels: tuple[str, str]) -> UsageTotals:
        key = UsageKey(self._day, *labels)
        totals = self._today[labels] = self._pending.setdefault(key, UsageTotals())
        if self._timer is None:
            self._write_after(WRITE_AFTER_S)
        return totals

    # Writing.

    def _write_after(self, delay_s: float) -> None:
        if not self._is_closed:
            self._timer = self._loop.call_later(delay_s, self._start_writing)

    def _start_writing(self) -> None:
        self._writing = self._loop.create_task(self._write())

    async def _write(self) -> None:
        async with self._lock:
            await self._add_batch()
        self._timer = None
        if self._failure is not None:
            self._write_after(RETRY_AFTER_S)
        elif self._pending:
            self._write_after(WRITE_AFTER_S)

    async def _add_batch(self) -> None:
        """Write the batch that failed before, or a new one."""
        if not self._batch:
            self._batch, self._pending, self._today = self._pending, {}, {}
        if not self._batch:
            return
        try:
            await self._store.add(self._batch)
        except UsageStoreError as error:
            self._on_failure(str(error))
        except Exception as error:
            # A defect. Keep the batch: the next attempt may succeed.
            if self._failure is None:
                logger.opt(exception=error).error("writing usage failed")
            self._on_failure(type(error).__name__)
        else:
            self._batch = {}
            self._on_success()

    def _on_failure(self, reason: str) -> None:
        if self._failure is None:
            logger.warning(
                "cannot write usage ({}): it is kept in memory until this works again", reason
            )
        self._failure = reason

    def _on_success(self) -> None:
        if self._failure is not None:
            logger.info("usage is written again; none was lost")
        self._failure = None

    # Reading.

    async def rows_by(self, query: UsageQuery) -> Grouped:
        """The totals of a report, grouped, up to this instant. Raises UsageStoreError."""
        async with self._lock:
            written = await self._store.rows_by(query)
            return merge(written, select(query, self._batch), select(query, self._pending))

    async def close(self) -> None:
        """Write what is in memory; if that fails, log how much is lost."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await self._write_rest()
                await self._store.close()
        except TimeoutError:
            self._failure = f"not done within {CLOSE_LIMIT_S:g} s"
        except UsageStoreError as error:
            self._failure = str(error)
        if self._batch or self._pending:
            self._log_loss()

    async def _write_rest(self) -> None:
        if self._writing is not None:
            await asyncio.wait((self._writing,))
        async with self._lock:
            while self._batch or self._pending:
                await self._add_batch()
                if self._failure is not None:
                    return

    def _log_loss(self) -> None:
        lost = total((*self._batch.values(), *self._pending.values()))
        tokens = lost.tokens_in + lost.tokens_out + lost.tokens_estimated
        logger.warning(
            "usage of {} with {} is lost: it could not be written ({})",
            counted(lost.exchanges, "exchange"),
            counted(tokens, "token"),
            self._failure,
        )
