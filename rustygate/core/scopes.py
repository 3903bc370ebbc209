"""What waits, and the scopes of budgets it waits for below the gate's own: lanes and clients.

A flow is one client's demand in one priority class and lane. The flows of a client and class in
different lanes have one place in the gate's order, their share.

A scope is *short* while its own budgets keep its flows waiting longer than any other. Then the
order of its flows is its own: it nominates the one whose turn it is, and sleeps until its budgets
suffice for that. Otherwise it offers all of its flows to the gate's order.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import chain, count, islice
from math import inf
from operator import attrgetter, itemgetter
from typing import Generic, TypeVar

from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASSES, WEIGHTS, FairOrder, Place

T = TypeVar("T", bound=Hashable)
P = TypeVar("P", bound=Place)

_entry_numbers = count(1)
_gate_entry, _lane_entry = attrgetter("gate_entry"), attrgetter("lane_entry")

# Idle flows are kept up to this number plus the number of busy ones.
MAX_IDLE = 1000


def remove_at(entries: list[P], position: int) -> None:
    """Remove an entry from a list without order, whose entries know their positions."""
    last = entries.pop()
    if position < len(entries):
        entries[position] = last
        last.position = position


class Share(Place, Generic[T]):
    """A client's place in a class of the gate's order. `flows` are those that wait, by lane."""

    __slots__ = ("client", "flows", "index", "weight")

    def __init__(self, client: Hashable, index: int) -> None:
        super().__init__()
        self.client = client
        self.index = index
        self.weight = 1.0
        self.flows: list[Flow[T]] = []


class Flow(Place, Generic[T]):
    """The items of one client in one class and lane: first in, first out, after those with a rank.

    As a `Place` it is the flow's place in the lane's order.

    Attributes:
        count, tokens: how many items wait, and their model tokens.
        size: the tokens of the first item; 0 if there is none.
        withheld: its client's budgets are short, and it is another flow's turn there.
        held_by: bit 1 if the lane has waited for the first item, bit 2 if the client has.
        at_client: its place in its client's order, if that has budgets of its own.
        served: the number of its last grant, or of its first item: the client's flows in
            different lanes take turns.
        due: above 0 if both have waited for it: then neither lets others overtake it. Flows that
            became due earlier have lower numbers.
        gate_entry, lane_entry: the numbers of its valid entries in the lane's heaps; 0 if none.
    """

    __slots__ = (
        "at_client", "client", "count", "due", "gate_entry", "held_by", "items", "lane",
        "lane_entry", "ranked", "served", "share", "size", "tokens", "withheld",
    )  # fmt: skip

    def __init__(
        self, share: Share[T], lane: "LaneScope[T]", client: "ClientScope[T] | None"
    ) -> None:
        super().__init__()
        self.share = share
        self.lane = lane
        self.client = client
        self.at_client: Place | None = None
        self.items: OrderedDict[T, int] | dict[T, int] = {}
        self.ranked: list[tuple[int, T, int]] | None = None
        self.count = self.tokens = self.size = self.held_by = self.due = self.served = 0
        self.gate_entry = self.lane_entry = 0
        self.withheld = False

    def __iter__(self) -> Iterator[T]:
        return chain((item for _, item, _ in self.ranked or ()), self.items)

    def sizes(self) -> Iterator[tuple[T, int]]:
        """Its items in order, with their tokens."""
        return chain(((item, size) for _, item, size in self.ranked or ()), self.items.items())

    @property
    def gate_place(self) -> tuple[float, int, int]:
        """Its place in the gate's order, in its class. No two flows have the same."""
        share = self.share
        return share.tag, share.turn, self.served

    def push(self, item: T, tokens: int, rank: int | None) -> None:
        self.count += 1
        self.tokens += tokens
        if rank is None:
            if self.items and not isinstance(self.items, OrderedDict):
                # Most flows have one item. A plain dict is small, but slow as a queue.
                self.items = OrderedDict(self.items)
            self.items[item] = tokens
        else:
            self.ranked = self.ranked or []
            insort(self.ranked, (rank, item, tokens), key=itemgetter(0))
        if self.count == 1 or rank is not None:
            self._find_first()

    def pop(self, at: int) -> tuple[T, int]:
        """Take the first item, which is granted at an instant."""
        if self.ranked:
            _, item, size = self.ranked.pop(0)
        elif isinstance(self.items, OrderedDict):
            item, size = self.items.popitem(last=False)
        else:
            item, size = self.items.popitem()
        self.count -= 1
        self.tokens -= size
        self._find_first()
        return item, size

    def remove(self, item: T) -> bool:
        """Unlink an item. Returns False if it is not in this flow."""
        size = self.items.pop(item, None)
        if size is None:
            ranked = self.ranked or []
            index = next((at for at, entry in enumerate(ranked) if entry[1] == item), None)
            if index is None:
                return False
            size = ranked.pop(index)[2]
        self.count -= 1
        self.tokens -= size
        self._find_first()
        return True

    def _find_first(self) -> None:
        self.size = self.ranked[0][2] if self.ranked else next(iter(self.items.values()), 0)


class Scope(Generic[T]):
    """One set of budgets, and the flows that need it.

    Attributes:
        waiting, waiting_tokens: the items that need these budgets, by class.
        short: whether these budgets decide the order of its flows.
        nominee: the flow whose turn it is while the scope is short.
        wake_at: when the budgets suffice for the nominee; None if they do.
        due: flows that no other may overtake here.
    """

    __slots__ = (
        "budgets", "due", "nominee", "order", "short", "waiting", "waiting_tokens", "wake_at",
    )  # fmt: skip

    def __init__(self, budgets: Budgets) -> None:
        self.budgets = budgets
        self.order = FairOrder()
        self.waiting = [0 for _ in CLASSES]
        self.waiting_tokens = [0 for _ in CLASSES]
        self.short = False
        self.nominee: Flow[T] | None = None
        self.wake_at: float | None = None
        self.due: list[Flow[T]] = []

    def wait(self, now: int, tokens: int) -> float:
        """Time until the budgets suffice; infinite if a slot has to become free first."""
        wait = self.budgets.wait(now, tokens)
        return inf if wait is None else wait

    def take(self, item: T, now: int, tokens: int) -> None:
        """Charge the budgets for an item."""
        self.budgets.take(now, tokens)

    @property
    def first_due(self) -> Flow[T] | None:
        return min(self.due, key=lambda flow: flow.due) if self.due else None


class ClientScope(Scope[T]):
    """The budgets of a client with limits of its own. It has few flows: one per lane and class."""

    __slots__ = ("flows",)

    def __init__(self, budgets: Budgets) -> None:
        super().__init__(budgets)
        self.flows: list[Flow[T]] = []

    def enter(self, flow: Flow[T]) -> None:
        """A flow gets its first item."""
        index = flow.share.index
        if not self.waiting[index]:
            self.order.enter_class(index)
        if flow.at_client is None:
            flow.at_client = Place()
        self.order.enter(index, flow.at_client)
        self.flows.append(flow)

    def first(self, at: int) -> Flow[T] | None:
        """The first flow in the client's order, ignoring those that their lane keeps waiting
        longer than the client does."""
        if self.due:
            return self.first_due
        flows = sorted(self.flows, key=_place_at_client)
        for index in self.order.by_turn(self.waiting):
            for flow in flows:
                in_time = flow.lane.wait(at, flow.size) <= self.wait(at, flow.size)
                if in_time and flow.share.index == index:
                    return flow
        return None

    def leave(self, flow: Flow[T]) -> None:
        """A flow has nothing waiting any more."""
        self.flows.remove(flow)
        if not self.flows:
            self.short, self.nominee, self.wake_at = False, None, None
            self.order.reset()


def _place_at_client(flow: Flow[T]) -> tuple[float, int]:
    assert flow.at_client is not None
    return flow.at_client.tag, flow.at_client.turn


def _place_at_gate(flow: Flow[T]) -> tuple[float, int]:
    return flow.share.tag, flow.share.turn


def _place_in_lane(flow: Flow[T]) -> tuple[float, int]:
    return flow.tag, flow.turn


# (start tag, turn, number of the entry, flow)
Entry = tuple[float, int, int, Flow[T]]

# The place in the gate's order of the flow that a lane offers first in a class, and the lane.
Offer = tuple[tuple[float, int, int], "LaneScope[T]"]


class LaneScope(Scope[T]):
    """The budgets of a lane.

    Its flows stand in two orders, the gate's and its own: a heap for each class and order. An
    entry is out of date if its flow has had a turn since; it is then moved on when it is first.

    Attributes:
        flows: by class, client and its scope, those that wait, and some that did.
        busy: by class, those that wait, in no order.
        offers: by class, its valid entry among the offers of all lanes (`core.offers`).
    """

    __slots__ = ("_by_gate", "_by_lane", "busy", "flows", "offers")

    def __init__(self, budgets: Budgets) -> None:
        super().__init__(budgets)
        self.flows: dict[tuple[int, Hashable, ClientScope[T] | None], Flow[T]] = {}
        self.busy: tuple[list[Flow[T]], ...] = tuple([] for _ in CLASSES)
        self.reset()

    def reset(self) -> None:
        """Forget all flows, at the end of a busy period."""
        self._by_gate: tuple[list[Entry[T]], ...] = tuple([] for _ in CLASSES)
        self._by_lane: tuple[list[Entry[T]], ...] = tuple([] for _ in CLASSES)
        self.offers: list[Offer[T] | None] = [None for _ in CLASSES]
        self.flows.clear()
        self.order.reset()
        self.short, self.nominee, self.wake_at = False, None, None

    def enter(self, flow: Flow[T]) -> None:
        """A flow gets its first item."""
        index = flow.share.index
        if not self.waiting[index]:
            self.order.enter_class(index)
        self.order.enter(index, flow)
        flow.position = len(self.busy[index])
        self.busy[index].append(flow)

    def leave(self, flow: Flow[T]) -> None:
        """A flow has nothing waiting any more. It is forgotten once its tag is no later than the
        virtual time. If too many flows are idle, all idle ones are forgotten: a flow that is
        forgotten early gains at most one item."""
        index = flow.share.index
        # It may come back in front of its entries, after a refund.
        flow.gate_entry = flow.lane_entry = 0
        remove_at(self.busy[index], flow.position)
        busy = sum(map(len, self.busy))
        if not busy:
            self.reset()
        elif flow.tag <= self.order.times[index]:
            del self.flows[index, flow.share.client, flow.client]
        elif len(self.flows) > 2 * busy + MAX_IDLE:
            self._forget_idle()

    def _forget_idle(self) -> None:
        self.flows = {key: each for key, each in self.flows.items() if each.count}

    def forget_order(self) -> None:
        """Make all flows equal again, because the unit of costs has changed. O(n)."""
        self.order.reset()
        self._by_lane = tuple([] for _ in CLASSES)
        self._forget_idle()
        for flows in self.busy:
            for flow in flows:
                flow.tag, flow.turn, flow.lane_entry = 0.0, 0, 0
                self.order.enter(flow.share.index, flow)
                if not flow.withheld:
                    self.offer(flow)

    def offer(self, flow: Flow[T]) -> None:
        """Put a flow that waits into both orders, unless it is there."""
        index, share = flow.share.index, flow.share
        if not flow.gate_entry:
            flow.gate_entry = next(_entry_numbers)
            heappush(self._by_gate[index], (share.tag, share.turn, flow.gate_entry, flow))
        if not flow.lane_entry:
            flow.lane_entry = next(_entry_numbers)
            heappush(self._by_lane[index], (flow.tag, flow.turn, flow.lane_entry, flow))

    def drop_old_entries(self, index: int) -> None:
        """Drop the entries of flows that have left, if they are many. An election drops them
        anyway, but a lane's items can also be taken without one."""
        most = 2 * len(self.busy[index]) + MAX_IDLE
        heaps = (self._by_gate[index], _gate_entry), (self._by_lane[index], _lane_entry)
        for heap, number_of in heaps:
            if len(heap) > most:
                heap[:] = [entry for entry in heap if entry[2] == number_of(entry[3])]
                heapify(heap)

    def first_flows(self, index: int, limit: int) -> Iterator[Flow[T]]:
        """The flows of a class that are first in the gate's order, and those that are first in
        the lane's, up to `limit` each. Changes nothing; O(limit log limit) if few entries are out
        of date."""
        yield from islice(_in_order(self._by_gate[index], _gate_entry, _place_at_gate), limit)
        yield from islice(_in_order(self._by_lane[index], _lane_entry, _place_in_lane), limit)

    def renew(self, flow: Flow[T]) -> None:
        """Put a flow, whose tags have become smaller, into both orders again."""
        flow.gate_entry = flow.lane_entry = 0
        self.offer(flow)

    def offered(self, index: int) -> Flow[T] | None:
        """The flow of a class that the lane offers to the gate's order first."""
        if not self.short:
            return self.first_for_gate(index)
        nominee = self.nominee
        return nominee if nominee is not None and nominee.share.index == index else None

    def first_for_gate(self, index: int) -> Flow[T] | None:
        """The flow of a class that is first in the gate's order."""
        heap = self._by_gate[index]
        while heap:
            _, turn, number, flow = heap[0]
            if number != flow.gate_entry:
                heappop(heap)
            elif flow.withheld or not flow.count:
                heappop(heap)
                flow.gate_entry = 0
            elif turn != flow.share.turn:
                heapreplace(heap, (flow.share.tag, flow.share.turn, number, flow))
            else:
                return flow
        return None

    def first_of_class(self, index: int) -> Flow[T] | None:
        """The flow of a class that is first in the lane's order."""
        heap = self._by_lane[index]
        while heap:
            _, turn, number, flow = heap[0]
            if number != flow.lane_entry:
                heappop(heap)
            elif flow.withheld or not flow.count:
                heappop(heap)
                flow.lane_entry = 0
            elif turn != flow.turn:
                heapreplace(heap, (flow.tag, flow.turn, number, flow))
            else:
                return flow
        return None

    def first(self) -> Flow[T] | None:
        """The flow that is first in the lane's order."""
        if self.due:
            return self.first_due
        for index in self.order.by_turn(self.waiting):
            flow = self.first_of_class(index)
            if flow is not None:
                return flow
        return None

    def in_order(self) -> list[T]:
        """All items in the order in which they are served if no other arrives. O(n log n)."""
        entries: list[tuple[float, float, T]] = []
        for index in CLASSES:
            place = self.order.classes[index]
            tag, turn = max(place.tag, self.order.time), float(place.turn)
            for item, size in self._class_in_order(index):
                entries.append((tag, turn, item))
                tag, turn = tag + self.budgets.cost(size) / WEIGHTS[index], inf
        entries.sort(key=itemgetter(0, 1))
        return [item for _, _, item in entries]

    def _class_in_order(self, index: int) -> Iterator[tuple[T, int]]:
        entries: list[tuple[float, float, T, int]] = []
        for flow in self.busy[index]:
            tag, turn = max(flow.tag, self.order.times[index]), float(flow.turn)
            for item, size in flow.sizes():
                entries.append((tag, turn, item, size))
                tag, turn = tag + self.budgets.cost(size) / flow.share.weight, inf
        entries.sort(key=itemgetter(0, 1))
        return ((item, size) for _, _, item, size in entries)


def _in_order(
    heap: list[Entry[T]],
    number_of: Callable[[Flow[T]], int],
    place_of: Callable[[Flow[T]], tuple[float, int]],
) -> Iterator[Flow[T]]:
    """The flows of a heap by their places. An entry that is out of date has an earlier place."""
    frontier = [(*entry[:2], 0, 0) for entry in heap[:1]]
    while frontier:
        _, _, is_current, at = heappop(frontier)
        flow = heap[at][3]
        if is_current:
            yield flow
            continue
        for child in range(2 * at + 1, min(2 * at + 3, len(heap))):
            heappush(frontier, (*heap[child][:2], 0, child))
        if heap[at][2] == number_of(flow) and flow.count and not flow.withheld:
            heappush(frontier, (*place_of(flow), 1, at))
