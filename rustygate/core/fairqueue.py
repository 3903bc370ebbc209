"""The order of waiters: start-time fair queueing over flows.

Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996). The queue keeps a virtual
time. A flow has a start: the virtual time at which its first item may begin. The item whose
flow has the least start goes next, ties going to the flow that has waited longest since its
last turn; the virtual time moves to that start, and the flow's start moves on by the item's
cost. A flow that was empty starts at the later of its own start and the virtual time.

From this follow the laws the gate relies on: first in, first out within a flow; flows that
stay non-empty are served in equal cost, to within one item each; a flow that was idle earns
no credit, for it starts no earlier than the virtual time; nobody starves, for starts only
grow. With equal costs it is round robin.

Departures from the paper: costs are integers, and so is virtual time. When the queue runs
empty all flows are forgotten, where the paper moves the virtual time to the greatest finish:
both make every flow equal again. An item whose turn could not be used may go back in front of
its flow, which then stands where it stood before.

An item that leaves is unlinked from its flow in O(1). The heap holds flows, not items; an
entry that its flow has replaced is dropped when it surfaces.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_NOT_IN_HEAP = 0


@dataclass(slots=True, eq=False)
class _Flow(Generic[T]):
    key: Hashable
    start: int
    entry: int = _NOT_IN_HEAP
    items: OrderedDict[T, int] = field(default_factory=OrderedDict)


class FairQueue(Generic[T]):
    """Items with a cost, each in a flow, leaving in fair order.

    An item is in the queue at most once. Nothing here knows time or admission.
    """

    def __init__(self) -> None:
        self._flows: dict[Hashable, _Flow[T]] = {}
        self._heap: list[tuple[int, int, _Flow[T]]] = []
        self._entries = count(1)
        self._virtual = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        flows = {flow.key: len(flow.items) for flow in self._flows.values() if flow.items}
        return f"<FairQueue {self._size} items, virtual time {self._virtual}, flows {flows}>"

    def push(self, item: T, flow_key: Hashable, cost: int = 1) -> None:
        """Add an item at the end of its flow."""
        flow = self._flow(flow_key)
        if not flow.items:
            self._wake(flow)
        flow.items[item] = cost
        self._size += 1

    def push_front(self, item: T, flow_key: Hashable, cost: int = 1) -> None:
        """Put an item back in front of its flow, as if it had never been popped."""
        flow = self._flow(flow_key, start=self._virtual + cost)
        flow.items[item] = cost
        flow.items.move_to_end(item, last=False)
        self._size += 1
        self.refund(flow_key, cost)

    def refund(self, flow_key: Hashable, cost: int = 1) -> None:
        """Undo what a popped item cost its flow, because its turn was not used."""
        flow = self._flows.get(flow_key)
        if flow is not None:
            # A negative entry comes before all others of the same start.
            self._place(flow, flow.start - cost, -next(self._entries))

    def pop(self) -> T:
        """Take the item whose turn it is. Raises IndexError when the queue is empty."""
        flow = self._next_flow()
        item, cost = flow.items.popitem(last=False)
        self._virtual = flow.start
        self._place(flow, flow.start + cost, next(self._entries))
        self._shrink()
        return item

    def remove(self, item: T, flow_key: Hashable) -> bool:
        """Unlink an item that left; False if it is not here (any more)."""
        flow = self._flows.get(flow_key)
        if flow is None or flow.items.pop(item, None) is None:
            return False
        self._shrink()
        return True

    def ahead(self, flow_key: Hashable) -> int:
        """How many items would be served before one pushed now, were all costs equal."""
        mine = self._flows.get(flow_key)
        position = len(mine.items) + 1 if mine else 1
        others = (min(len(flow.items), position) for flow in self._flows.values())
        return min(self._size, sum(others))

    def _flow(self, key: Hashable, start: int = 0) -> _Flow[T]:
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = _Flow(key, start)
        return flow

    def _wake(self, flow: _Flow[T]) -> None:
        """Let an idle flow start no earlier than now; its heap entry may still be right."""
        start = max(flow.start, self._virtual)
        if flow.entry == _NOT_IN_HEAP or start != flow.start:
            self._place(flow, start, next(self._entries))

    def _place(self, flow: _Flow[T], start: int, entry: int) -> None:
        """Give a flow its start and a heap entry in place of the one it had."""
        flow.start, flow.entry = start, entry
        heappush(self._heap, (start, entry, flow))

    def _next_flow(self) -> _Flow[T]:
        """Pop the flow with the least start; forget the idle ones that come before it."""
        while True:
            _, entry, flow = heappop(self._heap)
            if entry != flow.entry:
                continue
            if flow.items:
                return flow
            del self._flows[flow.key]

    def _shrink(self) -> None:
        self._size -= 1
        if not self._size:
            self._flows.clear()
            self._heap.clear()
            self._virtual = 0
