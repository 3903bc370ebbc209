"""A copy of the part of a scheduler's state that its next grants depend on.

The next grants come from the flows that are first in the orders of the gate, of a lane or of a
client, so only those are copied, and only the first items of each. The copy grants what the
scheduler would if nothing else happened, and does not affect it.
"""

from collections.abc import Hashable, Iterable, Iterator
from itertools import count, islice
from typing import TypeVar

from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASSES, LATER, Place
from rustygate.core.lane import Lane
from rustygate.core.pace import Pace
from rustygate.core.scheduler import Grant, Scheduler
from rustygate.core.scopes import ClientScope, Flow, LaneScope, Scope, Share

T = TypeVar("T", bound=Hashable)


class _EnoughGrants(Exception):
    """The limit is reached."""


class Excerpt(Scheduler[T]):
    """The first part of a scheduler.

    Args:
        source: the scheduler.
        lanes, clients: all scopes that may have something waiting.
        limit: how many grants are wanted.
    """

    def __init__(
        self,
        source: Scheduler[T],
        lanes: Iterable[LaneScope[T]],
        clients: Iterable[ClientScope[T]],
        limit: int,
    ) -> None:
        super().__init__(source.budgets.copy(), slack=source._slack)
        self._limit = limit
        self.order = source.order.copy()
        self._grant_numbers = count(LATER)
        self._paces: dict[Pace, Pace] = {}
        self._shares: dict[Share[T], Share[T]] = {}
        self._flows: dict[Flow[T], Flow[T]] = {}
        self._originals: dict[Flow[T], Flow[T]] = {}
        self._scopes: dict[Scope[T], Scope[T]] = {}
        waiting = [lane for lane in lanes if any(lane.waiting)]
        for flow in _first_flows(waiting, clients, limit):
            if flow.count and flow not in self._flows:
                self._copy_flow(flow)
        self._copy_nominees()
        for lane in source.awake:
            if lane in self._scopes:
                for index in CLASSES:
                    self._offers.add(self._lane(lane), index)
        self._short.adopt(source._short, self._scopes)
        self._elected = None if source._elected is None else self._flows.get(source._elected)
        self._changed, self.next_at = source._changed, source.next_at

    def original(self, flow: Flow[T]) -> Flow[T]:
        """The flow that one of this excerpt is a copy of."""
        return self._originals[flow]

    def free_all_slots(self) -> None:
        """Let no slot be short from now on."""
        self.budgets.slots = None
        for scope in self._scopes.values():
            scope.budgets.slots = None
        self.touch(*self._scopes.values())

    def _grant(self, flow: Flow[T], at: int) -> Grant[T]:
        if not self._limit:
            raise _EnoughGrants
        self._limit -= 1
        return super()._grant(flow, at)

    # Copying.

    def _copy_flow(self, flow: Flow[T]) -> None:
        lane = self._lane(flow.lane)
        client = None if flow.client is None else self._client(flow.client)
        share = self._share(flow.share)
        copy = self._flows[flow] = lane.flows[share.index, share.client, client] = Flow(
            share, lane, client
        )
        self._originals[copy] = flow
        _copy_place(flow, copy)
        copy.held_by, copy.due, copy.served = flow.held_by, flow.due, flow.served
        copy.withheld = flow.withheld
        self._copy_items(flow, copy)
        self._link(flow, copy)

    def _copy_items(self, flow: Flow[T], copy: Flow[T]) -> None:
        for rank, item, size in (flow.ranked or ())[: self._limit]:
            copy.push(item, size, rank)
        for item, size in islice(flow.items.items(), self._limit - copy.count):
            copy.push(item, size, None)
        self._count(copy, copy.count, copy.tokens)

    def _link(self, flow: Flow[T], copy: Flow[T]) -> None:
        """Add a flow to its share, its lane and its client."""
        index, lane = copy.share.index, copy.lane
        copy.share.flows.append(copy)
        copy.position = len(lane.busy[index])
        lane.busy[index].append(copy)
        if not copy.withheld:
            lane.offer(copy)
        if copy.client is not None and flow.at_client is not None:
            copy.at_client = Place()
            _copy_place(flow.at_client, copy.at_client)
            copy.client.flows.append(copy)

    def _share(self, share: Share[T]) -> Share[T]:
        copy = self._shares.get(share)
        if copy is None:
            index = share.index
            copy = self._shares[share] = Share(share.client, index)
            self.shares[index][share.client] = copy
            _copy_place(share, copy)
            copy.weight = share.weight
            copy.position = len(self.busy[index])
            self.busy[index].append(copy)
        return copy

    def _lane(self, lane: LaneScope[T]) -> LaneScope[T]:
        copy = self._scopes.get(lane)
        if not isinstance(copy, LaneScope):
            copy = self._scopes[lane] = LaneScope(self._lane_budgets(lane.budgets))
            _copy_scope(lane, copy)
        return copy

    def _lane_budgets(self, budgets: Budgets) -> Budgets:
        return budgets.copy_with(self._paces) if isinstance(budgets, Lane) else budgets.copy()

    def _client(self, client: ClientScope[T]) -> ClientScope[T]:
        copy = self._scopes.get(client)
        if not isinstance(copy, ClientScope):
            copy = self._scopes[client] = ClientScope(client.budgets.copy())
            _copy_scope(client, copy)
        return copy

    def _copy_nominees(self) -> None:
        for scope, copy in self._scopes.items():
            copy.due = [self._flows[flow] for flow in scope.due]
            copy.nominee = None if scope.nominee is None else self._flows.get(scope.nominee)


def _copy_place(place: Place, copy: Place) -> None:
    copy.tag, copy.turn = place.tag, place.turn


def _copy_scope(scope: Scope[T], copy: Scope[T]) -> None:
    copy.order = scope.order.copy()
    copy.short, copy.wake_at = scope.short, scope.wake_at


def _first_flows(
    lanes: Iterable[LaneScope[T]], clients: Iterable[ClientScope[T]], limit: int
) -> Iterator[Flow[T]]:
    """The flows that the next grants can come from, some of them more than once."""
    for client in clients:
        if client.short:
            yield from client.flows
    for lane in lanes:
        if lane.nominee is not None:
            yield lane.nominee
        yield from lane.due
        for index in CLASSES:
            for flow in lane.first_flows(index, limit):
                yield flow
                if flow.client is not None:
                    # Any of them may be first in the client's order.
                    yield from flow.client.flows
