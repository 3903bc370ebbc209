"""A flow, the queue of its items, and sums over flows."""

from bisect import insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from rustygate.core.backlog import NO_WORK, Size, Work
from rustygate.core.fair_server import SCALE, Entity, Place

T = TypeVar("T", bound=Hashable)


class Flow(NamedTuple):
    """Where an item belongs: a client in a priority class, with the client's weight."""

    client: Hashable
    priority: str = "default"
    weight: float = 1.0


@dataclass(slots=True, eq=False)
class FlowQueue(Entity, Generic[T]):
    """The items of a flow, each with its size: first in, first out, after those with a rank.

    Args:
        pool: the number of the `FlowPool` that counts it.
        ranked: (rank, item, size) of the few items that go before all others, by rank.
    """

    pool: int = 0
    items: OrderedDict[T, Size] = field(default_factory=OrderedDict)
    ranked: list[tuple[int, T, Size]] = field(default_factory=list)

    def __iter__(self) -> Iterator[T]:
        return chain((item for _, item, _ in self.ranked), self.items)

    def sized_items(self) -> Iterator[tuple[T, Size]]:
        """Its items in order, with their sizes."""
        return chain(((item, size) for _, item, size in self.ranked), self.items.items())

    @property
    def first_item(self) -> Work:
        """The work of its first item."""
        return NO_WORK.plus(self.ranked[0][2] if self.ranked else next(iter(self.items.values())))

    def push(self, item: T, size: Size, rank: int | None) -> None:
        if rank is None:
            self.items[item] = size
        else:
            insort(self.ranked, (rank, item, size), key=itemgetter(0))

    def pop(self) -> tuple[T, Size]:
        if self.ranked:
            _, item, size = self.ranked.pop(0)
            return item, size
        return self.items.popitem(last=False)

    def remove(self, item: T) -> Size | None:
        """Unlink an item and return its size, or None if it is not in this queue."""
        size = self.items.pop(item, None)
        if size is None:
            for index, (_, other, other_size) in enumerate(self.ranked):
                if other is item or other == item:
                    del self.ranked[index]
                    return other_size
        return size

    def served_until(self, virtual_time: int, place: Place) -> Work:
        """What this flow is served until a virtual time.

        An item that may begin exactly then counts if the flow comes before `place`. The first
        item counts with its own size, later ones with the average.
        """
        served = (virtual_time - self.start_tag) * self.weight * self.count / SCALE
        turns = served // self.backlog + 1
        if served and not served % self.backlog and (self.start_tag, self.sequence) > place:
            turns -= 1
        if turns > 1:
            return self.share_of_work(turns * self.backlog / self.count)
        return self.first_item


@dataclass(slots=True, eq=False)
class FlowPool:
    """Sums over the busy flows of about the same depth, which is backlog per weight."""

    flows: int = 0
    weight: float = 0
    backlog: int = 0
    count: int = 0
    tokens: int = 0

    def add(self, flow_queue: FlowQueue[Any], sign: int = 1) -> None:
        """Add a flow. With sign -1, subtract one that has not changed since."""
        self.flows += sign
        self.weight += sign * flow_queue.weight
        self.backlog += sign * flow_queue.backlog
        self.count += sign * flow_queue.count
        self.tokens += sign * flow_queue.tokens

    def served_until(
        self, depth: float, before_first: Work = NO_WORK, before_last: Work = NO_WORK
    ) -> Work:
        """What its flows are served until a flow of such a depth is served.

        Args:
            before_first: the first items of those flows whose turn comes before its first item.
            before_last: the same for its last item: the least that is served.
        """
        served = depth * self.weight
        if before_last.cost > before_first.cost + served:
            before_first, served = before_last, 0
        if before_first.cost + served >= self.backlog:
            return Work(self.backlog, self.count, self.tokens)
        share = served / self.backlog
        return Work(
            before_first.cost + served,
            before_first.items + share * self.count,
            before_first.tokens + share * self.tokens,
        )
