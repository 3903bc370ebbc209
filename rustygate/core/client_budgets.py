"""The budgets of clients per day and month, in tokens and in dollars.

An exchange reserves its estimated cost before it queues, and settles the actual one. It is refused
if one of its client's budgets has no room for its cost, after what is spent and reserved. So a
client exceeds a budget at most by what its exchanges in flight cost beyond their estimates. Days
and months are those of UTC; the cost of an exchange belongs to the period in which it settles.

Dollars are integer nano-dollars, so that sums are exact.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields

import msgspec

from rustygate.core.clients import SpendingLimits
from rustygate.core.periods import DAY, day_of, end_of_day, end_of_month, month_of

NANO = 10**9

# A warning is logged when a client has spent these parts of a budget.
WARN_AT = (0.8, 1.0)

# The current day and month, and the previous ones, in case the clock is set back.
_PERIODS_KEPT = 4


# Made for each exchange: a Struct costs a tenth of a frozen dataclass.
class Cost(msgspec.Struct, frozen=True):
    """What an exchange costs; `nano_usd` is 0 where no budget is in dollars."""

    tokens: int = 0
    nano_usd: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.tokens + other.tokens, self.nano_usd + other.nano_usd)

    def __mul__(self, factor: int) -> "Cost":
        return Cost(self.tokens * factor, self.nano_usd * factor)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.tokens - other.tokens, self.nano_usd - other.nano_usd)


NOTHING = Cost()


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget of a client.

    Args:
        name: its key in CLIENTS_FILE.
        limit: in model tokens or nano-dollars.
    """

    name: str
    limit: int

    @property
    def in_dollars(self) -> bool:
        return self.name.startswith("usd_")

    def amount(self, cost: Cost) -> int:
        """What a cost takes from it."""
        return cost.nano_usd if self.in_dollars else cost.tokens

    def units(self, amount: int) -> float:
        """An amount in tokens or dollars."""
        return amount / NANO if self.in_dollars else amount

    def period(self, now: int) -> str:
        """The name of its current period, such as `2026-11-28` or `2026-11`."""
        return day_of(now) if self.name.endswith("_day") else month_of(now)

    def ends(self, now: int) -> int:
        """When its current period ends."""
        return end_of_day(now) if self.name.endswith("_day") else end_of_month(now)


@dataclass(frozen=True, slots=True)
class Exceeded:
    """Why a cost cannot be reserved: `spent` and `reserved` leave no room for `cost`.

    Args:
        ends: when the budget's period ends, in nanoseconds of wall-clock time.
    """

    budget: Budget
    spent: int
    reserved: int
    cost: int
    ends: int


@dataclass(frozen=True, slots=True)
class Alert:
    """A client has spent a part of a budget: `level` of WARN_AT, for the first time in its
    period."""

    client: str
    budget: Budget
    level: float
    spent: int
    ends: int


def budgets_of(limits: SpendingLimits) -> tuple[Budget, ...]:
    """The budgets that have a limit."""
    budgets = []
    for each in fields(limits):
        limit = getattr(limits, each.name)
        if limit is not None:
            in_dollars = each.name.startswith("usd_")
            budgets.append(Budget(each.name, round(limit * NANO) if in_dollars else limit))
    return tuple(budgets)


@dataclass(slots=True)
class Account:
    """What one client has spent, by period, and reserved.

    Args:
        others: what other members of the gate's group have reserved.
        assumed: what they are assumed to have spent, by period, while they cannot be asked.
        unrecorded: the part of what was spent that the usage record does not show, by period.
    """

    client: str
    budgets: tuple[Budget, ...] = ()
    reserved: Cost = NOTHING
    others: Cost = NOTHING
    assumed: dict[str, Cost] = field(default_factory=dict)
    unrecorded: dict[str, Cost] = field(default_factory=dict)
    _spent: dict[str, Cost] = field(default_factory=dict)
    # The period in which a level of WARN_AT was last reached.
    _alerted: dict[tuple[Budget, float], str] = field(default_factory=dict)
    # What was counted since the day from `_day_begins` on began, and is not in `_spent` yet.
    _counted_tokens: int = 0
    _counted_nano_usd: int = 0
    _day_begins: int = -1
    _day_ends: int = -1

    def spent(self, budget: Budget, now: int) -> int:
        """What was spent of a budget in its current period."""
        return budget.amount(self.spent_in(budget.period(now)))

    def left(self, budget: Budget, now: int) -> int:
        """What can still be reserved, 0 if it is overdrawn."""
        return max(0, budget.limit - self.spent(budget, now) - self._taken(budget, now))

    def _taken(self, budget: Budget, now: int) -> int:
        """What is reserved of a budget, and what others are assumed to have spent."""
        taken = self.reserved + self.others
        if self.assumed:
            taken += self.assumed.get(budget.period(now), NOTHING)
        return budget.amount(taken)

    def reserve(self, now: int, cost: Cost) -> Exceeded | None:
        """Reserve a cost in all budgets, or in none and return the one that has no room."""
        exceeded = self.exceeded(now, cost)
        if exceeded is None:
            self.reserved += cost
        return exceeded

    def exceeded(self, now: int, cost: Cost) -> Exceeded | None:
        """The budget that has no room for a cost, if there is one."""
        for budget in self.budgets:
            amount = budget.amount(cost)
            spent, reserved = self.spent(budget, now), self._taken(budget, now)
            if spent >= budget.limit or spent + reserved + amount > budget.limit:
                return Exceeded(budget, spent, reserved, amount, budget.ends(now))
        return None

    def settle(self, now: int, reserved: Cost, actual: Cost) -> None:
        """Replace a reservation by what was spent."""
        self.reserved -= reserved
        self.add(day_of(now), actual)
        self.add(month_of(now), actual)

    def note_unrecorded(self, now: int, cost: Cost) -> None:
        """Note that the usage record does not show this part of what was settled."""
        periods = day_of(now), month_of(now)
        self.unrecorded = {each: self.unrecorded.get(each, NOTHING) + cost for each in periods}

    def count(self, now: int, tokens: int, nano_usd: int) -> None:
        """Count what was spent without a reservation.

        While a client has no budgets, its sums are not needed at once: adding two numbers takes a
        tenth of the time of `settle`.
        """
        if not self._day_begins <= now < self._day_ends:
            self._add_counted()
            self._day_begins, self._day_ends = now // DAY * DAY, end_of_day(now)
        self._counted_tokens += tokens
        self._counted_nano_usd += nano_usd

    def _add_counted(self) -> None:
        if self._counted_tokens or self._counted_nano_usd:
            counted = Cost(self._counted_tokens, self._counted_nano_usd)
            self._counted_tokens = self._counted_nano_usd = 0
            self.settle(self._day_begins, NOTHING, counted)

    def spent_in(self, period: str) -> Cost:
        """What was spent in a period, 0 if that is no longer known."""
        self._add_counted()
        return self._spent.get(period, NOTHING)

    def set_spent(self, period: str, cost: Cost) -> None:
        """Replace what was spent in a period."""
        self._add_counted()
        self._spent[period] = cost
        if len(self._spent) > _PERIODS_KEPT:
            self._forget_oldest()

    def add(self, period: str, cost: Cost) -> None:
        """Add what was spent in a period."""
        self.set_spent(period, self.spent_in(period) + cost)

    def _forget_oldest(self) -> None:
        # A month's name sorts before those of its days: compared by their ends, it would be last.
        oldest = min(self._spent, key=lambda period: period.ljust(len("2026-11-28"), "~"))
        del self._spent[oldest]

    def alerts(self, now: int, exhausted: Budget | None = None) -> list[Alert]:
        """The highest level of WARN_AT that was reached of each budget, each level once in its
        period.

        Args:
            exhausted: a budget that has no room for a request. If it has reached the first level,
                it counts as used up; otherwise the request is just a large one.
        """
        alerts = []
        for budget in self.budgets:
            spent, period = self.spent(budget, now), budget.period(now)
            reached = [level for level in WARN_AT if spent >= level * budget.limit]
            if reached and budget == exhausted:
                reached = [*WARN_AT]
            new = [level for level in reached if self._alerted.get((budget, level)) != period]
            if new:
                self._alerted.update({(budget, level): period for level in new})
                alerts.append(Alert(self.client, budget, new[-1], spent, budget.ends(now)))
        return alerts


class ClientBudgets:
    """The accounts of all clients that have budgets.

    Attributes:
        account: returns a client's account, or None if it has none.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        # Asked twice for each exchange: a call less.
        self.account: Callable[[str], Account | None] = self._accounts.get

    def __repr__(self) -> str:
        return f"<ClientBudgets of {', '.join(self._accounts) or 'nobody'}>"

    def set_limits(self, limits: Mapping[str, SpendingLimits]) -> None:
        """Set the budgets of clients, by name. What a client has spent stays counted."""
        for name, each in limits.items():
            self.open_account(name).budgets = budgets_of(each)
        for name in self._accounts.keys() - limits.keys():
            self._accounts[name].budgets = ()

    def open_account(self, client: str) -> Account:
        """A client's account, a new one if it has none."""
        return self._accounts.setdefault(client, Account(client))

    def accounts(self) -> Iterable[Account]:
        """The accounts that have budgets."""
        return [account for account in self._accounts.values() if account.budgets]
