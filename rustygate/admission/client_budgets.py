"""Clients' budgets per day and month: reservations and settlement of exchanges.

An exchange reserves its estimated cost once, for all its attempts, before it queues. The ledger
settles it when the exchange ends. `core.client_budgets` has the rules.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import ceil
from time import time_ns

from loguru import logger

from rustygate.core.bucket import SECOND
from rustygate.core.client_budgets import (
    NANO,
    NOTHING,
    Account,
    Alert,
    Budget,
    ClientBudgets,
    Cost,
    Exceeded,
)
from rustygate.core.clients import SpendingLimits
from rustygate.core.periods import day_of, iso_time, month_of
from rustygate.core.plural import counted
from rustygate.core.price_list import PriceList
from rustygate.core.saved_levels import SavedSpending
from rustygate.errors import BudgetExceeded, ModelNotAllowed
from rustygate.exchange import Exchange

# `client`, `budget`, `spent`, `reserved`, `limit`, `left`, and when the period `ends`.
BudgetRow = dict[str, str | float]


class Spending:
    """The budgets of all clients.

    Args:
        clock: wall-clock time in nanoseconds.

    Attributes:
        without_usage: what it means that the usage record could not be read, for the log.
        reads_usage_later: whether it is read later if it could not be read at the start.
    """

    without_usage = "budgets count from 0 until it can be read"
    reads_usage_later = True

    def __init__(self, prices: PriceList, clock: Callable[[], int] = time_ns) -> None:
        self._prices = prices
        self._clock = clock
        self.budgets = ClientBudgets()

    def set_limits(self, limits: Mapping[str, SpendingLimits]) -> None:
        """Set the budgets of clients, by name, including clients without any."""
        self.budgets.set_limits(limits)

    def set_recorded(self, client: str, period: str, cost: Cost) -> None:
        """Set what a client has spent in a period, as the usage record shows it."""
        account = self.budgets.open_account(client)
        account.set_spent(period, cost + account.unrecorded.get(period, NOTHING))

    def save_unrecorded(self) -> tuple[SavedSpending, ...]:
        """The part of clients' spending that the usage record does not show, to keep over a
        restart."""
        return tuple(
            SavedSpending(account.client, period, cost.tokens, cost.nano_usd)
            for account in self.budgets.accounts()
            for period, cost in account.unrecorded.items()
        )

    def restore_unrecorded(self, saved: Iterable[SavedSpending]) -> None:
        """Count what was saved, if its period has not ended."""
        now = self._clock()
        for each in saved:
            if each.period in (day_of(now), month_of(now)):
                account = self.budgets.open_account(each.client)
                cost = account.unrecorded[each.period] = Cost(each.tokens, each.nano_usd)
                account.add(each.period, cost)

    def has_budgets(self, client: str) -> bool:
        """Whether a client has budgets."""
        account = self.budgets.account(client)
        return account is not None and bool(account.budgets)

    async def show_left(self, exchange: Exchange) -> None:
        """Tell the client of an exchange what is left of its budgets, if it has any."""
        account = self.budgets.account(exchange.client)
        if account is not None and account.budgets:
            exchange.budget_left = _left(account, self._clock())

    async def reserve(self, exchange: Exchange) -> None:
        """Reserve the estimated cost of an exchange, whose client has budgets.

        Raises `BudgetExceeded`, and `ModelNotAllowed` if the model has no price and the client a
        budget in dollars.
        """
        account = self.budgets.open_account(exchange.client)
        cost = self._estimate(exchange, account, self._clock())
        exceeded = await self._take(account, cost)
        now = self._clock()
        exchange.budget_left = _left(account, now)
        if exceeded is not None:
            self._warn(account.alerts(now, exceeded.budget))
            raise _refusal(exceeded, exchange.client, now)
        exchange.reserved = cost

    async def _take(self, account: Account, cost: Cost) -> Exceeded | None:
        """Reserve a cost, or return the budget that has no room for it."""
        return account.reserve(self._clock(), cost)

    def settle(self, exchange: Exchange) -> None:
        """Replace what an ended exchange has reserved by what it has cost."""
        account = self.budgets.account(exchange.client)
        if account is None:
            return
        now, reserved, tokens_out = self._clock(), exchange.reserved, exchange.tokens_out
        if reserved is None and not account.budgets and tokens_out is not None:
            tokens = (exchange.tokens_in or 0) + tokens_out
            self._count(account, now, tokens, exchange.cost_nano or 0)
            return
        reserved = reserved or NOTHING
        cost = self._actual(exchange, reserved)
        if cost is not NOTHING or reserved is not NOTHING:
            self._charge(account, now, reserved, cost)
            recorded = _recorded(exchange)
            if cost != recorded:
                account.note_unrecorded(now, cost - recorded)
            self._warn(account.alerts(now))

    def _count(self, account: Account, now: int, tokens: int, nano_usd: int) -> None:
        """Count what was spent by a client that has no budgets yet."""
        account.count(now, tokens, nano_usd)

    def _charge(self, account: Account, now: int, reserved: Cost, cost: Cost) -> None:
        """Replace a reservation by what was spent."""
        account.settle(now, reserved, cost)

    @property
    def reads_usage(self) -> bool:
        """Whether to begin with what the usage record says was spent. A client that has no budget
        yet may get one at a reload."""
        return True

    def start(self) -> None:
        """What was spent before is known: begin to tell others, if there are any."""

    async def close(self) -> None:
        """Tell others what was spent, if there are any."""

    def used_ratios(self) -> Iterator[tuple[str, str, float]]:
        """The part of each budget that is spent: client, budget, and the part, 1 for all of it."""
        now = self._clock()
        for account in self.budgets.accounts():
            for budget in account.budgets:
                yield account.client, budget.name, account.spent(budget, now) / budget.limit

    def rows(self) -> list[BudgetRow]:
        """All budgets, in tokens or dollars."""
        now = self._clock()
        accounts = self.budgets.accounts()
        return [_row(account, each, now) for account in accounts for each in account.budgets]

    def left(self, client: str) -> dict[str, float]:
        """What is left of each of a client's budgets, in tokens or dollars."""
        account, now = self.budgets.account(client), self._clock()
        if account is None:
            return {}
        return {budget.name: budget.units(account.left(budget, now)) for budget in account.budgets}

    def _estimate(self, exchange: Exchange, account: Account, now: int) -> Cost:
        if not any(budget.in_dollars for budget in account.budgets):
            return Cost(exchange.tokens)
        price = None if exchange.model is None else self._prices.find(exchange.model)
        if price is None:
            raise _unpriced(exchange)
        tokens_out = exchange.tokens - exchange.input_tokens
        nano = price.cost_nano(exchange.input_tokens, 0, tokens_out, day_of(now))
        return Cost(exchange.tokens, nano)

    def _actual(self, exchange: Exchange, reserved: Cost) -> Cost:
        """What an exchange cost; if that is not known, what it had reserved."""
        if exchange.tokens_out is not None:
            tokens = (exchange.tokens_in or 0) + exchange.tokens_out
            nano = exchange.cost_nano
            return Cost(tokens, reserved.nano_usd if nano is None else nano)
        failed = exchange.outcome == "upstream_error" and exchange.reason is None
        if failed or exchange.outcome == "refused" or not exchange.connected:
            return NOTHING
        return reserved

    def _warn(self, alerts: list[Alert]) -> None:
        for alert in alerts:
            budget = alert.budget
            part = f"{alert.spent / budget.limit:.0%} of" if alert.level < 1 else "up"
            logger.warning(
                "client {} has used {} its budget {}: {}; it starts again at {}",
                alert.client,
                part,
                budget.name,
                _part(budget, alert.spent),
                iso_time(alert.ends),
            )


def _recorded(exchange: Exchange) -> Cost:
    """What the usage record shows of an exchange."""
    tokens = (exchange.tokens_in or 0) + (exchange.tokens_out or 0)
    return Cost(tokens, exchange.cost_nano or 0)


def _row(account: Account, budget: Budget, now: int) -> BudgetRow:
    reserved = budget.amount(account.reserved + account.others)
    return {
        "client": account.client,
        "budget": budget.name,
        "spent": budget.units(account.spent(budget, now)),
        "reserved": budget.units(reserved),
        "limit": budget.units(budget.limit),
        "left": budget.units(account.left(budget, now)),
        "ends": iso_time(budget.ends(now)),
    }


def _refusal(exceeded: Exceeded, client: str, now: int) -> BudgetExceeded:
    budget = exceeded.budget
    wait_s = ceil((exceeded.ends - now) / SECOND)
    reserved = ""
    if exceeded.reserved:
        reserved = f" and {_shown(budget, exceeded.reserved)} are reserved by other requests"
    return BudgetExceeded(
        f"Budget {budget.name} of client {client}: {_part(budget, exceeded.spent)} "
        f"are used{reserved}; this request may cost "
        f"{_shown(budget, exceeded.cost)}. The budget starts again at {iso_time(exceeded.ends)}, "
        f"in {wait_s} s.",
        wait_s,
    )


def _unpriced(exchange: Exchange) -> ModelNotAllowed:
    model = "The model of this request" if exchange.model is None else f"Model {exchange.model!a}"
    return ModelNotAllowed(
        f"{model} has no known price, and client {exchange.client} has a budget in dollars; set a "
        "price in PRICES_FILE, or use another model."
    )


def _left(account: Account, now: int) -> str:
    """What is left of each budget, as a header's value."""
    return ", ".join(
        f"{budget.name}={_plain(budget, account.left(budget, now))}" for budget in account.budgets
    )


def _plain(budget: Budget, amount: int) -> str:
    return f"{amount / NANO:.6f}".rstrip("0").rstrip(".") if budget.in_dollars else str(amount)


def _part(budget: Budget, amount: int) -> str:
    """A part of the budget, such as `911 of 1000 tokens`."""
    part = _shown(budget, amount) if budget.in_dollars else str(amount)
    return f"{part} of {_shown(budget, budget.limit)}"


def _shown(budget: Budget, amount: int) -> str:
    return f"${amount / NANO:.4f}" if budget.in_dollars else counted(amount, "token")
