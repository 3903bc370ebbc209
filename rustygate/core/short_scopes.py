"""The lanes and clients that are short: which flow each of them nominates, and when.

A short lane nominates the flow that is first in its own order, and sleeps until its budgets
suffice for that. Until then it offers nothing to the gate's order. A short client withholds its
flows from their lanes, except the one that is first in its own order. Either stops being short
when the gate keeps its flows waiting at least as long.

Even after both a lane and a client have waited for the first item of a flow, each could keep
spending its budgets on other items while this one waits for the other, forever. So such a flow is
*due*: neither scope lets others overtake it any more. Due flows are served in the order in which
they became due.

Sleeping scopes are in a heap, by the instant at which they wake. Waking one takes O(log n) in the
sleeping scopes, plus its nomination: O(log n) in the flows of a lane, O(n log n) in those of a
client, which has few.
"""

from collections.abc import Hashable, Mapping
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Generic, TypeVar

from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASSES, LATER
from rustygate.core.offers import Offers
from rustygate.core.scopes import ClientScope, Flow, LaneScope, Scope

T = TypeVar("T", bound=Hashable)

_BY_LANE, _BY_CLIENT = 1, 2
_BY_BOTH = _BY_LANE | _BY_CLIENT


class ShortScopes(Generic[T]):
    """Nominates the flows of short scopes.

    Args:
        budgets: the gate's own.
        offers: what lanes offer to the gate's order.
    """

    def __init__(self, budgets: Budgets, offers: Offers[T]) -> None:
        self._budgets = budgets
        self._offers = offers
        # Scopes that must nominate again, because their budgets or flows have changed.
        self._touched: dict[Scope[T], None] = {}
        self._sleepers: list[tuple[float, int, Scope[T]]] = []
        self._numbers = count(1)

    @property
    def sleeping(self) -> bool:
        """Whether there is an instant to wake at, even if it is out of date."""
        return bool(self._sleepers)

    def clear(self) -> None:
        """Forget all scopes, at the end of a busy period."""
        self._touched.clear()
        self._sleepers.clear()

    def adopt(self, other: "ShortScopes[T]", copies: Mapping[Scope[T], Scope[T]]) -> None:
        """Take over what another one knows about the originals of these copies."""
        self._numbers = count(LATER)
        self._touched = {copies[each]: None for each in other._touched if each in copies}
        self._sleepers = [
            (instant, number, copies[scope])
            for instant, number, scope in other._sleepers
            if scope in copies
        ]
        heapify(self._sleepers)

    def forget(self, lane: LaneScope[T]) -> None:
        """Nothing waits in a lane any more."""
        self._touched.pop(lane, None)
        self._offers.withdraw(lane)

    def touch(self, scope: Scope[T] | None) -> None:
        """The budgets of a scope have changed. That matters if it is short."""
        if scope is not None and scope.short:
            self._touched[scope] = None
            for flow in scope.due:
                self._touched[flow.lane] = None

    def on_first_changed(self, flow: Flow[T]) -> None:
        """The first item of a flow was granted or left, or another came before it."""
        if flow.lane.short:
            self._touched[flow.lane] = None
        if flow.client is not None and flow.client.short:
            self._touched[flow.client] = None

    def offer(self, flow: Flow[T]) -> bool:
        """A flow has begun to wait. Returns whether it is offered to the gate's order now."""
        client = flow.client
        if client is not None and client.short:
            flow.withheld = True
            self._touched[client] = None
            return False
        return self._offer_in_lane(flow)

    def _offer_in_lane(self, flow: Flow[T]) -> bool:
        lane = flow.lane
        lane.offer(flow)
        if lane.short:
            self._touched[lane] = None
            return False
        self._offers.add(lane, flow.share.index)
        return True

    # Instants.

    def wake(self, at: int) -> bool:
        """Let each scope nominate if its budgets have changed or its instant has come. Returns
        whether there was any."""
        if not self._touched and not (self._sleepers and self._sleepers[0][0] <= at):
            return False
        while self._touched or (self._sleepers and self._sleepers[0][0] <= at):
            if self._touched:
                self._nominate(self._touched.popitem()[0], at)
                continue
            instant, _, scope = heappop(self._sleepers)
            if scope.wake_at == instant:
                self._nominate(scope, at)
        return True

    def first_instant(self) -> float:
        """When the first scope wakes."""
        while self._sleepers:
            instant, _, scope = self._sleepers[0]
            if scope.wake_at == instant:
                return instant
            heappop(self._sleepers)
        return inf

    def _sleep(self, scope: Scope[T], instant: float) -> None:
        if instant < inf and scope.wake_at != instant:
            heappush(self._sleepers, (instant, next(self._numbers), scope))
        scope.wake_at = instant

    def _own_wait(self, at: int, tokens: int) -> float:
        wait = self._budgets.wait(at, tokens)
        return inf if wait is None else wait

    # Nominations.

    def hold(self, flow: Flow[T], at: int, lane_wait: float, client_wait: float) -> None:
        """The gate's order would elect a flow that its lane or client keeps waiting longer, so
        that lane or client is short."""
        client = flow.client
        if lane_wait >= client_wait or client is None or flow.due:
            flow.lane.short = True
            self._nominate_in_lane(flow.lane, at)
        else:
            self._hold_client(client, at)

    def _nominate(self, scope: Scope[T], at: int) -> None:
        if scope.short and isinstance(scope, LaneScope):
            self._nominate_in_lane(scope, at)
        elif scope.short and isinstance(scope, ClientScope):
            self._nominate_in_client(scope, at)

    def _nominate_in_lane(self, lane: LaneScope[T], at: int) -> None:
        """Nominate the flow that is first in a short lane's order, or sleep until its budgets
        suffice for that. If the gate is the bottleneck now, the gate's order decides again."""
        while True:
            lane.nominee = flow = lane.first()
            if flow is None:
                self._offers.withdraw(lane)
                self._sleep(lane, inf)
                return
            wait = self._wait_in_lane(flow, at)
            if wait >= 0:
                break
        own = self._own_wait(at, flow.size)
        if 0 < own >= wait and not flow.due and self._gate_is_later(lane, at):
            self._open_lane(lane)
        elif wait > max(own, 0):
            self._offers.withdraw(lane)
            self._sleep(lane, at + wait)
            self._held(flow, _BY_LANE)
        else:
            lane.wake_at = None
            self._offers.add(lane, flow.share.index)

    def _wait_in_lane(self, flow: Flow[T], at: int) -> float:
        """How long the lane keeps a flow waiting; -1 if its client keeps it for longer."""
        tokens, client = flow.size, flow.client
        wait = flow.lane.wait(at, tokens)
        if client is None:
            return wait
        client_wait = client.wait(at, tokens)
        if flow.due:
            return max(wait, client_wait)
        if client_wait <= max(wait, self._own_wait(at, tokens)):
            return wait
        self._hold_client(client, at)
        self._withhold(flow)
        return -1

    def _gate_is_later(self, lane: LaneScope[T], at: int) -> bool:
        """Whether the gate's own budgets would keep all flows that it would elect here waiting
        at least as long as the lane's do."""
        firsts = (lane.first_for_gate(index) for index in CLASSES if lane.waiting[index])
        return all(
            flow is None or lane.wait(at, flow.size) <= self._own_wait(at, flow.size)
            for flow in firsts
        )

    def _open_lane(self, lane: LaneScope[T]) -> None:
        """The gate's order decides in a lane again."""
        lane.short, lane.nominee, lane.wake_at = False, None, None
        for index in CLASSES:
            self._offers.add(lane, index)

    def _hold_client(self, client: ClientScope[T], at: int) -> None:
        """A client's budgets are short: its flows wait until it nominates one of them."""
        client.short = True
        self._nominate_in_client(client, at)

    def _nominate_in_client(self, client: ClientScope[T], at: int) -> None:
        """Release the flow that is first in a short client's order, or sleep until its budgets
        suffice for that. If the gate is the bottleneck now, all flows that fit are released."""
        client.nominee = flow = client.first(at)
        if flow is None:
            self._release_all(client, at)
            return
        own, wait = self._own_wait(at, flow.size), client.wait(at, flow.size)
        if flow.due:
            wait = max(wait, flow.lane.wait(at, flow.size))
        elif 0 < own >= wait:
            self._release_all(client, at)
            return
        for other in client.flows:
            if other is not flow or wait > 0:
                self._withhold(other)
        if wait > 0:
            self._sleep(client, at + wait)
            self._held(flow, _BY_CLIENT)
        else:
            client.wake_at = None
            self._release(flow)

    def _release_all(self, client: ClientScope[T], at: int) -> None:
        """Release the flows of a client that its budgets keep waiting no longer than others do."""
        client.nominee, first = None, inf
        for flow in client.flows:
            wait = client.wait(at, flow.size)
            if wait <= max(self._own_wait(at, flow.size), flow.lane.wait(at, flow.size)):
                self._release(flow)
            else:
                self._withhold(flow)
                first = min(first, at + wait)
        client.short = any(flow.withheld for flow in client.flows)
        if client.short:
            self._sleep(client, first)
        else:
            client.wake_at = None

    def _withhold(self, flow: Flow[T]) -> None:
        if not flow.withheld:
            flow.withheld = True
            if flow.lane.nominee is flow:
                self._touched[flow.lane] = None

    def _release(self, flow: Flow[T]) -> None:
        """A flow's client no longer withholds it."""
        if flow.withheld:
            flow.withheld = False
            self._offer_in_lane(flow)

    # Flows that are due.

    def _held(self, flow: Flow[T], by: int) -> None:
        """A scope has waited for the first item of a flow."""
        flow.held_by |= by
        if flow.held_by == _BY_BOTH and not flow.due:
            assert flow.client is not None
            flow.due = next(self._numbers)
            for scope in (flow.lane, flow.client):
                scope.due.append(flow)
                scope.short = True
                self._touched[scope] = None
        elif by == _BY_LANE and flow.client is not None and flow.client.nominee is flow:
            self._touched[flow.client] = None

    def settle_due(self, flow: Flow[T]) -> None:
        """The first item of a flow was granted or left: the next one is not due."""
        flow.held_by = 0
        if flow.due:
            assert flow.client is not None
            flow.due = 0
            flow.lane.due.remove(flow)
            flow.client.due.remove(flow)
