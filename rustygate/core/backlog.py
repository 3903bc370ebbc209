"""Amounts of work: the size of one item, and what waits or is served before another.

Costs are in the unit of the queue that uses them (`core.budgets` counts nanoseconds of refill).
"""

from collections.abc import Iterable
from typing import NamedTuple


class Size(NamedTuple):
    """The size of one item: its cost in the fair order, 1 or more, and its model tokens."""

    cost: int = 1
    tokens: int = 0


UNIT_SIZE = Size()


class Work(NamedTuple):
    """An estimated amount of work: its cost, its items and their model tokens."""

    cost: float = 0
    items: float = 0
    tokens: float = 0

    def plus(self, size: Size) -> "Work":
        """This work and one item more."""
        return Work(self.cost + size.cost, self.items + 1, self.tokens + size.tokens)


NO_WORK = Work()


def sum_work(parts: Iterable[Work], factor: float = 1) -> Work:
    """The sum of all parts, multiplied by a factor."""
    cost = items = tokens = 0.0
    for part in parts:
        cost += part.cost
        items += part.items
        tokens += part.tokens
    return Work(cost * factor, items * factor, tokens * factor)
