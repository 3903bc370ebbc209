"""What waits: the size of an item, and how much is ahead of one."""

from collections.abc import Iterable
from typing import NamedTuple


class Size(NamedTuple):
    """What an item counts for: its cost (1 or more) in turns, and the model's tokens it takes."""

    cost: int = 1
    tokens: int = 0


ONE = Size()


class Work(NamedTuple):
    """About how much is served before an item: in cost, in items, and in the model's tokens."""

    cost: float = 0
    items: float = 0
    tokens: float = 0

    def after(self, size: Size) -> "Work":
        """The same behind one item more."""
        return Work(self.cost + size.cost, self.items + 1, self.tokens + size.tokens)


NOTHING = Work()


def total(parts: Iterable[Work], times: float = 1) -> Work:
    cost = items = tokens = 0.0
    for part in parts:
        cost += part.cost
        items += part.items
        tokens += part.tokens
    return Work(cost * times, items * times, tokens * times)
