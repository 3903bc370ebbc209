"""Amounts of work: what waits, or is served before another item.

Costs are in the unit of the budgets that they count in (`Budgets.cost`).
"""

from collections.abc import Iterable
from typing import NamedTuple


class Work(NamedTuple):
    """An estimated amount of work: its cost, its items and their model tokens."""

    cost: float = 0
    items: float = 0
    tokens: float = 0

    def plus(self, cost: float, tokens: float) -> "Work":
        """This work and one item more."""
        return Work(self.cost + cost, self.items + 1, self.tokens + tokens)


NO_WORK = Work()


def sum_work(parts: Iterable[Work], factor: float = 1) -> Work:
    """The sum of all parts, multiplied by a factor."""
    cost = items = tokens = 0.0
    for part in parts:
        cost += part.cost
        items += part.items
        tokens += part.tokens
    return Work(cost * factor, items * factor, tokens * factor)
