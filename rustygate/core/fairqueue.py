"""The order of waiting items: two levels of start-time fair queueing.

`core.fair_server` has the algorithm and the paper. Section 3 of the paper nests such servers, and
so does this queue: one server orders the priority classes (`CLASS_WEIGHTS`), one in each class
orders its flows, and items of a flow are served first in, first out. With equal costs and weights
this is round robin.

Departures from the paper:
- Virtual times are integers (`SCALE`).
- When a busy period ends (no item waits, and the last one served is done), everything is
  forgotten. The paper moves the virtual time to the largest finish tag. Both make all flows
  equal again.
- A turn that could not be used can be refunded. The flow is then back at its old place.

Removing an item takes O(1). Push and pop take O(log n) in the number of flows: the sorted lists
hold flows, not items.

`work_ahead` predicts how much is served before a newcomer without looking at every flow. For the
first item of a flow it looks at the flows whose turn comes earlier: all of them if they are few,
otherwise a sample. For an item further back in its flow it uses sums. Before that item, each flow
whose turn comes earlier is served its first item, which is read from a sample, and then as much
as the item's own flow, by weight, as far as its backlog goes. Flows of about the same depth are
summed up together (`FlowPool`).
"""

from collections.abc import Callable, Hashable
from math import inf
from operator import itemgetter
from typing import Generic, TypeVar

from rustygate.core.backlog import UNIT_SIZE, Size, Work, sum_work
from rustygate.core.fair_server import FairServer
from rustygate.core.flow import Flow, FlowQueue
from rustygate.core.priority_class import PriorityClass

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """A queue of items, each with a size and a flow, that leave in fair order.

    An item is in the queue at most once. The queue knows neither time nor admission.
    """

    def __init__(self) -> None:
        self._size = 0
        self._reset()

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<FairQueue {self._size} items {self.depths()}>"

    def end_busy_period(self) -> None:
        """Forget all flows. Call it when the queue is empty and the last item popped is done."""
        assert not self._size
        if self._classes or self._server.virtual_time:
            self._reset()

    def _reset(self) -> None:
        self._classes: dict[str, PriorityClass[T]] = {}
        self._server = FairServer(self._classes)

    def push(
        self, item: T, flow: Flow, size: Size = UNIT_SIZE, *, rank: int | None = None
    ) -> None:
        """Add an item at the end of its flow.

        With a rank it goes before all items without one, and behind those of a lower rank.
        """
        priority_class = self._class(flow.priority)
        flow_queue = priority_class.flow_queue(flow)
        if not priority_class.backlog:
            self._server.mark_busy(priority_class)
        if not flow_queue.backlog:
            priority_class.server.mark_busy(flow_queue)
        flow_queue.push(item, size, rank)
        self._update_backlog(priority_class, flow_queue, size, 1)

    def resize_items(self, size_of: Callable[[T], Size]) -> None:
        """Give all items new sizes, because the unit of costs has changed.

        O(n). All flows and classes are equal again, since their start tags were in the old unit.
        """
        flows = [
            (Flow(queue.key, priority_class.key, queue.weight), queue.ranked[:], [*queue.items])
            for priority_class in self._classes.values()
            for queue in priority_class.flows.values()
        ]
        self._size = 0
        self.end_busy_period()
        for flow, ranked, items in flows:
            for rank, item, _ in ranked:
                self.push(item, flow, size_of(item), rank=rank)
            for item in items:
                self.push(item, flow, size_of(item))

    def peek(self) -> T:
        """The item whose turn it is, left in the queue. Raises IndexError on an empty queue."""
        return next(iter(self._next()[1]))

    def pop(self) -> T:
        """Remove the item whose turn it is. Raises IndexError on an empty queue."""
        priority_class, flow_queue = self._next()
        item, size = flow_queue.pop()
        self._server.charge(priority_class, size.cost)
        priority_class.server.charge(flow_queue, size.cost)
        self._count_out(priority_class, flow_queue, size)
        return item

    def in_order(self) -> list[T]:
        """All items in the order in which they are served if no other arrives. O(n log n)."""
        entries: list[tuple[int, float, T]] = []
        for priority_class in self._classes.values():
            if priority_class.backlog:
                tag, sequence = priority_class.start_tag, float(priority_class.sequence)
                for item, size in priority_class.in_order():
                    entries.append((tag, sequence, item))
                    tag, sequence = tag + priority_class.virtual_cost(size.cost), inf
        entries.sort(key=itemgetter(0, 1))
        return [item for _, _, item in entries]

    def refund(self, flow: Flow, cost: int = 1) -> None:
        """Refund the cost of a popped item to its flow and class: its turn was not used."""
        priority_class = self._class(flow.priority)
        flow_queue = priority_class.flows.get(flow.client)
        if flow_queue is not None:
            priority_class.server.refund(flow_queue, cost)
        if priority_class.sequence:
            self._server.refund(priority_class, cost)

    def remove(self, item: T, flow: Flow) -> bool:
        """Unlink an item. Returns False if it is not in the queue."""
        priority_class = self._class(flow.priority)
        flow_queue = priority_class.flows.get(flow.client)
        size = None if flow_queue is None else flow_queue.remove(item)
        if flow_queue is None or size is None:
            return False
        self._count_out(priority_class, flow_queue, size)
        return True

    def total_work(self) -> Work:
        """The work of all items, the most that can be ahead of a newcomer."""
        return sum_work(each.total_work for each in self._classes.values())

    def work_ahead(self, flow: Flow) -> Work:
        """About how much is served before an item that `flow` pushed now."""
        if not self._size:
            return Work()
        own_class = self._class(flow.priority)
        in_class = own_class.work_ahead(flow)
        depth = in_class.cost / own_class.weight
        parts = [in_class]
        for other in self._classes.values():
            if other is not own_class and other.backlog:
                least = self._server.least_service_before(other, own_class)
                parts.append(other.served_first((least + depth) * other.weight))
        return Work(*map(min, sum_work(parts), self.total_work()))

    def depths(self) -> dict[str, dict[Hashable, int]]:
        """The number of items by class and client."""
        return {
            name: {key: queue.count for key, queue in each.flows.items() if queue.count}
            for name, each in self._classes.items()
            if each.count
        }

    def _class(self, priority: str) -> PriorityClass[T]:
        priority_class = self._classes.get(priority)
        if priority_class is None:
            priority_class = self._classes[priority] = PriorityClass(priority)
        return priority_class

    def _next(self) -> tuple[PriorityClass[T], FlowQueue[T]]:
        priority_class = self._server.next()
        return priority_class, priority_class.server.next()

    def _count_out(
        self, priority_class: PriorityClass[T], flow_queue: FlowQueue[T], size: Size
    ) -> None:
        """Count an item that was popped or removed."""
        self._update_backlog(priority_class, flow_queue, size, -1)
        if not flow_queue.backlog:
            priority_class.server.mark_idle()
        if not priority_class.backlog:
            self._server.mark_idle()

    def _update_backlog(
        self, priority_class: PriorityClass[T], flow_queue: FlowQueue[T], size: Size, sign: int
    ) -> None:
        self._size += sign
        priority_class.update_backlog(flow_queue, size, sign)
