"""A flow and its queue, and sums over flows."""

from bisect import insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from rustygate.core.backlog import NOTHING, Size, Work
from rustygate.core.fair_server import SCALE, Member

T = TypeVar("T", bound=Hashable)


class Flow(NamedTuple):
    """Whose an item is: a client in a priority class, and the client's weight."""

    client: Hashable
    priority: str = "default"
    weight: float = 1.0


@dataclass(slots=True, eq=False)
class FlowQueue(Member, Generic[T]):
    """A flow's items, each with its size."""

    pool: int = 0
    items: OrderedDict[T, Size] = field(default_factory=OrderedDict)
    # Those that go before all others, by their rank; there are few.
    first: list[tuple[int, T, Size]] = field(default_factory=list)

    def __iter__(self) -> Iterator[T]:
        return chain((item for _, item, _ in self.first), self.items)

    @property
    def head(self) -> Work:
        """Its first item."""
        return NOTHING.after(self.first[0][2] if self.first else next(iter(self.items.values())))

    def push(self, item: T, size: Size, rank: int | None) -> None:
        if rank is None:
            self.items[item] = size
        else:
            insort(self.first, (rank, item, size), key=itemgetter(0))

    def pop(self) -> tuple[T, Size]:
        if self.first:
            _, item, size = self.first.pop(0)
            return item, size
        return self.items.popitem(last=False)

    def until(self, end: int, place: tuple[int, float]) -> Work:
        """What it serves by its server's time `end`, and then too if it comes before `place`:
        its first item, and then as many as there are of an average cost."""
        passed = (end - self.start) * self.weight * self.count / SCALE
        turns = passed // self.backlog + 1
        if passed and not passed % self.backlog and (self.start, self.entry) > place:
            turns -= 1
        if turns > 1:
            return self.part(turns * self.backlog / self.count)
        return self.head

    def remove(self, item: T) -> Size | None:
        """Unlink an item; its size, None if it is not here."""
        size = self.items.pop(item, None)
        if size is None:
            for place, (_, other, its_size) in enumerate(self.first):
                if other is item or other == item:
                    del self.first[place]
                    return its_size
        return size


@dataclass(slots=True, eq=False)
class FlowPool:
    """Sums over flows of about the same depth."""

    flows: int = 0
    weight: float = 0
    backlog: int = 0
    count: int = 0
    tokens: int = 0

    def add(self, line: "FlowQueue[Any]", sign: int = 1) -> None:
        """Add a busy flow, or take it out again unchanged."""
        self.flows += sign
        self.weight += sign * line.weight
        self.backlog += sign * line.backlog
        self.count += sign * line.count
        self.tokens += sign * line.tokens

    def until(self, depth: float, due: Work = NOTHING, begun: Work = NOTHING) -> Work:
        """What its flows have served until one of such a depth has: the first items of those
        whose turn comes before its first one, and at least those before its last."""
        passed = depth * self.weight
        if begun.cost > due.cost + passed:
            due, passed = begun, 0
        if due.cost + passed >= self.backlog:
            return Work(self.backlog, self.count, self.tokens)
        rest = passed / self.backlog
        return Work(
            due.cost + passed, due.items + rest * self.count, due.tokens + rest * self.tokens
        )
