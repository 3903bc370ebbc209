"""What the lanes offer to the gate's order.

A lane that is not short offers all of its flows; a short one its nominee, as long as its budgets
suffice for that. Of each class only the first flow of a lane counts, so the lanes stand in a heap
for each class, by the place of that flow in the gate's order. Places mostly move back, when a
share has had a turn: the entry is moved on when it is first. A lane whose place has moved to the
front gets a new entry, and the old one is out of date.
"""

from collections.abc import Hashable
from heapq import heappop, heappush, heapreplace
from typing import Generic, TypeVar

from rustygate.core.fair_order import CLASSES
from rustygate.core.scopes import Flow, LaneScope, Offer

T = TypeVar("T", bound=Hashable)


class Offers(Generic[T]):
    """The lanes that offer flows: those in `awake`."""

    def __init__(self) -> None:
        self.awake: dict[LaneScope[T], None] = {}
        self._heaps: tuple[list[Offer[T]], ...] = tuple([] for _ in CLASSES)

    def clear(self) -> None:
        """Forget all offers, at the end of a busy period."""
        self.awake.clear()
        for heap in self._heaps:
            heap.clear()

    def add(self, lane: LaneScope[T], index: int) -> None:
        """A lane offers flows of a class, or others than before. O(log n) in the lanes."""
        self.awake[lane] = None
        flow = lane.offered(index)
        if flow is None:
            return
        place, offer = flow.gate_place, lane.offers[index]
        if offer is None or place < offer[0]:
            lane.offers[index] = offer = (place, lane)
            heappush(self._heaps[index], offer)

    def withdraw(self, lane: LaneScope[T]) -> None:
        """A lane offers nothing any more."""
        self.awake.pop(lane, None)

    def first(self, index: int) -> Flow[T] | None:
        """The flow of a class that is first in the gate's order, of those that are offered."""
        heap = self._heaps[index]
        while heap:
            offer = heap[0]
            place, lane = offer
            if lane.offers[index] is not offer:
                heappop(heap)
                continue
            flow = lane.offered(index) if lane in self.awake else None
            if flow is None:
                heappop(heap)
                lane.offers[index] = None
                continue
            present = flow.gate_place
            if present != place:
                lane.offers[index] = offer = (present, lane)
                heapreplace(heap, offer)
            if heap[0] is offer:
                return flow
        return None
