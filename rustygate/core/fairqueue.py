"""The order of waiters: two levels of start-time fair queueing.

The paper's section 3 nests such servers, and so does this queue: the first serves priority
classes (`CLASS_WEIGHTS`), each class serves its flows, and within a flow items are first in, first out.
With equal costs and weights it is round robin.

Departures from the paper: virtual times are integers (`SCALE` of them a unit of cost at weight
one, so that a division loses nothing that matters). At the end of a busy period, when nothing
waits and what was served last is done with (`forget`), all is forgotten, where the paper moves
the virtual time to the greatest finish: both make all equal again. A turn that could not be used
may be refunded; the member then stands where it stood before.

An item that leaves is unlinked from its flow in O(1); push and pop look up O(log n) in the number
of flows, in a sorted list of members, not of items.

How much goes before a newcomer is told without looking at all flows (`ahead`). Those that have a
turn before it are looked at if they are few, or a sample of them for the first item of a flow.
An item further back in its flow is told from sums: the flow is passed by the first items of those
whose turn comes before, of which a sample is looked at, and by as much of each as of its own, by
weight, as far as they have that much. Flows of about the same depth are summed up together
(`FlowPool`).
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from rustygate.core.backlog import ONE, Size, Work, total
from rustygate.core.fair_server import FairServer
from rustygate.core.flow import Flow, FlowQueue
from rustygate.core.priority_class import PriorityClass

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """Items of a size, each in a flow, leaving in fair order.

    An item is in the queue at most once. Nothing here knows time or admission.
    """

    def __init__(self) -> None:
        self._size = 0
        self._begin()

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<FairQueue {self._size} items {self.depths()}>"

    def end_busy_period(self) -> None:
        """The busy period is over: nothing waits, and what was popped last is done with."""
        assert not self._size
        if self._classes or self._server.virtual:
            self._begin()

    def _begin(self) -> None:
        self._classes: dict[str, PriorityClass[T]] = {}
        self._server = FairServer(self._classes)

    def push(self, item: T, flow: Flow, size: Size = ONE, *, rank: int | None = None) -> None:
        """Add an item at the end of its flow; with a rank in front of it, but behind those that
        are there with a lesser one."""
        its_class = self._class(flow.priority)
        line = its_class.line(flow)
        if not its_class.backlog:
            self._server.wake(its_class)
        if not line.backlog:
            its_class.server.wake(line)
        line.push(item, size, rank)
        self._count(its_class, line, size, 1)

    def resize_items(self, size_of: Callable[[T], Size]) -> None:
        """Give all items new sizes, because what costs are counted in has changed.

        O(n). All flows and classes stand equal again, since their starts were in the old unit.
        """
        waiting = [
            (Flow(line.key, each.key, line.weight), list(line.first), list(line.items))
            for each in self._classes.values()
            for line in each.flows.values()
        ]
        self._size = 0
        self.end_busy_period()
        for flow, first, items in waiting:
            for rank, item, _ in first:
                self.push(item, flow, size_of(item), rank=rank)
            for item in items:
                self.push(item, flow, size_of(item))

    def peek(self) -> T:
        """The item whose turn it is; it stays. Raises IndexError when the queue is empty."""
        return next(iter(self._next()[1]))

    def pop(self) -> T:
        """Take the item whose turn it is. Raises IndexError when the queue is empty."""
        its_class, line = self._next()
        item, size = line.pop()
        self._server.charge(its_class, size.cost)
        its_class.server.charge(line, size.cost)
        self._left(its_class, line, size)
        return item

    def refund(self, flow: Flow, cost: int = 1) -> None:
        """Undo what a popped item cost its flow and class, because its turn was not used."""
        its_class = self._class(flow.priority)
        line = its_class.flows.get(flow.client)
        if line is not None:
            its_class.server.refund(line, cost)
        if its_class.entry:
            self._server.refund(its_class, cost)

    def remove(self, item: T, flow: Flow) -> bool:
        """Unlink an item that left; False if it is not here (any more)."""
        its_class = self._class(flow.priority)
        line = its_class.flows.get(flow.client)
        size = None if line is None else line.remove(item)
        if line is None or size is None:
            return False
        self._left(its_class, line, size)
        return True

    def total_work(self) -> Work:
        """All there is: more cannot be ahead of anybody."""
        return total(each.whole for each in self._classes.values())

    def work_ahead(self, flow: Flow) -> Work:
        """About how much would be served before an item that `flow` pushed now."""
        if not self._size:
            return Work()
        its_class = self._class(flow.priority)
        mine = its_class.work_ahead(flow)
        depth = mine.cost / its_class.weight
        parts = [mine]
        for other in self._classes.values():
            if other is not its_class and other.backlog:
                lead = self._server.lead(other, its_class)
                parts.append(other.first((lead + depth) * other.weight))
        return Work(*map(min, total(parts), self.total_work()))

    def depths(self) -> dict[str, dict[Hashable, int]]:
        """How many items wait, by class and client."""
        return {
            name: {key: line.count for key, line in each.flows.items() if line.count}
            for name, each in self._classes.items()
            if each.count
        }

    def _class(self, priority: str) -> PriorityClass[T]:
        its_class = self._classes.get(priority)
        if its_class is None:
            its_class = self._classes[priority] = PriorityClass(priority)
        return its_class

    def _next(self) -> tuple[PriorityClass[T], FlowQueue[T]]:
        its_class = self._server.next()
        return its_class, its_class.server.next()

    def _left(self, its_class: PriorityClass[T], line: FlowQueue[T], size: Size) -> None:
        """Count an item that was popped or removed."""
        self._count(its_class, line, size, -1)
        if not line.backlog:
            its_class.server.rest()
        if not its_class.backlog:
            self._server.rest()

    def _count(
        self, its_class: PriorityClass[T], line: FlowQueue[T], size: Size, sign: int
    ) -> None:
        self._size += sign
        its_class.add(line, size, sign)
