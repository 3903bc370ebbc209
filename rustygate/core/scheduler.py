"""The scheduler: who is admitted next, and when.

One synchronous function, `dispatch`, over explicit state: time is an argument, and nothing is
awaited. It owns the gate's budgets and the fair order over everything that waits.

Lanes nominate, the gate elects. An item needs up to three sets of budgets: the gate's own, its
lane's and its client's. They are taken together or not at all. The gate's order is by the gate's
cost (`core.fair_order` has the algorithm and the paper). When a lane's budgets would keep an item
waiting longer than the gate's own do, the lane is the bottleneck: until its budgets suffice for
the flow that is first in *its* order, by its cost, none of its flows is in the gate's order. Then
that flow alone is the lane's nominee. The same applies to a client with limits of its own. So
what is blocked holds up nobody else. While the gate is the bottleneck, all flows of the lane
compete in the gate's order: a lane that is short for a moment must not decide the shares.

Departures from the paper:
- A flow that could not be served for a while, because its lane or client was blocked, has no
  credit afterwards: it starts at the virtual time.
- A turn is charged in every order, in that of the lane also while the gate's order decides.
- An item whose lane has waited for it and whose client has, too, is *due*: from then on neither
  lets others overtake it, in order of becoming due. Otherwise each could spend its budgets on
  others while the item waits for the other one, for ever.

An arrival into a flow that waits takes constant time. A grant takes O(log n) in the flows of its
lane, and looks at the first flow of each class and lane that is not blocked. A blocked lane or
client is in a heap by its instant, and is not looked at until then.
"""

from collections.abc import Hashable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Generic, NamedTuple, TypeVar

from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASS_INDEX, CLASSES, FairOrder
from rustygate.core.scopes import MAX_IDLE, ClientScope, Flow, LaneScope, Scope, Share, remove_at

T = TypeVar("T", bound=Hashable)

_BY_LANE, _BY_CLIENT = 1, 2
_BY_BOTH = _BY_LANE | _BY_CLIENT


class Grant(NamedTuple, Generic[T]):
    """An admission: the item, its tokens, and the instant that its budgets were charged at.

    `error` is a defect that kept them from being charged.
    """

    item: T
    flow: Flow[T]
    tokens: int
    at: int
    error: Exception | None = None


class Scheduler(Generic[T]):
    """The budgets of a gate, and what waits for them.

    Attributes:
        waiting, waiting_tokens: how many items wait, and their tokens.
        next_at: the next instant worth another `dispatch`, if nothing changes before; infinite if
            there is none.
    """

    def __init__(self, budgets: Budgets, *, slack: int = 0) -> None:
        """`slack`: a dispatch that is late by no more than this counts as in time."""
        self.budgets = budgets
        self.order = FairOrder()
        self.waiting = self.waiting_tokens = 0
        self.waiting_by_class = [0 for _ in CLASSES]
        self.next_at: float = inf
        self.shares: tuple[dict[Hashable, Share[T]], ...] = tuple({} for _ in CLASSES)
        self.busy: tuple[list[Share[T]], ...] = tuple([] for _ in CLASSES)
        self.awake: dict[LaneScope[T], None] = {}
        self._slack = slack
        self._changed = False
        self._touched: dict[Scope[T], None] = {}
        self._sleepers: list[tuple[float, int, Scope[T]]] = []
        self._numbers = count(1)

    # Demand.

    def flow(
        self,
        lane: LaneScope[T],
        priority: str,
        client: Hashable,
        weight: float = 1.0,
        scope: ClientScope[T] | None = None,
    ) -> Flow[T]:
        """The flow of a client in a class and lane, made if necessary, with its present weight.

        Args:
            scope: the client's own budgets, if it has any.
        """
        index = CLASS_INDEX[priority]
        flow = lane.flows.get((index, client, scope))
        if flow is None:
            share = self.shares[index].get(client)
            if share is None:
                share = self.shares[index][client] = Share(client, index)
            flow = lane.flows[index, client, scope] = self._new_flow(share, lane, scope)
        flow.share.weight = weight
        return flow

    def _new_flow(
        self, share: Share[T], lane: LaneScope[T], scope: ClientScope[T] | None
    ) -> Flow[T]:
        return Flow(share, lane, scope)

    def push(self, flow: Flow[T], item: T, tokens: int, rank: int | None = None) -> None:
        """Add an item at the end of a flow; with a rank, before all items without one and behind
        those of a lower rank."""
        lane, share, client = flow.lane, flow.share, flow.client
        index = share.index
        if not flow.count:
            self._enter(flow)
        flow.push(item, tokens, rank)
        self.waiting += 1
        self.waiting_tokens += tokens
        self.waiting_by_class[index] += 1
        lane.count_in(index, tokens)
        if client is not None:
            client.count_in(index, tokens)
        if flow.count == 1:
            self._offer(flow)
        elif rank is not None:
            self._first_changed(flow)

    def remove(self, flow: Flow[T], item: T) -> bool:
        """Unlink an item that left. Returns False if it does not wait."""
        before = flow.tokens
        was_first = flow.count > 0 and next(iter(flow)) == item
        if not flow.remove(item):
            return False
        self._count_out(flow, before - flow.tokens)
        if was_first:
            self._first_changed(flow)
        return True

    def clear(self) -> list[T]:
        """Remove and return everything that waits."""
        items = [
            item
            for shares in self.busy
            for share in shares[:]
            for flow in share.flows[:]
            for item in list(flow)
            if self.remove(flow, item)
        ]
        self.dispatch(0)
        return items

    def refund(self, flow: Flow[T], tokens: int) -> None:
        """Give the turn of a granted item back to its flow, because it was not used."""
        share, lane, index = flow.share, flow.lane, flow.share.index
        self.order.refund(index, share, share.weight, self.budgets.cost(tokens))
        lane.order.refund(index, flow, share.weight, lane.budgets.cost(tokens))
        for other in share.flows:
            other.lane.renew(other)

    def touch(self, *scopes: Scope[T] | None) -> None:
        """Budgets have changed other than by a grant: the gate's own, and those of scopes."""
        self._changed = True
        for scope in scopes:
            if scope is not None and scope.short:
                self._touched[scope] = None
                for flow in scope.due:
                    self._touched[flow.lane] = None

    # Grants.

    def admit(
        self, item: T, lane: LaneScope[T], client: ClientScope[T] | None, now: int, tokens: int
    ) -> bool:
        """Admit an item at once, if nothing else waits for what it needs, and all budgets
        suffice."""
        if self.waiting and (
            self.awake or self._changed or self.next_at <= now or any(lane.waiting)
        ):
            return False
        if self.budgets.wait(now, tokens) != 0 or lane.budgets.wait(now, tokens) != 0:
            return False
        if client is not None and (any(client.waiting) or client.budgets.wait(now, tokens) != 0):
            return False
        self.charge(item, lane, client, now, tokens)
        return True

    def charge(
        self, item: T, lane: LaneScope[T], client: ClientScope[T] | None, now: int, tokens: int
    ) -> None:
        """Charge the budgets for an item that does not wait, whether they suffice or not."""
        lane.take(item, now, tokens)
        if client is not None:
            client.take(item, now, tokens)
        self.budgets.take(now, tokens)

    def dispatch(self, now: int, horizon: int = 0) -> list[Grant[T]]:
        """Grant everything that the budgets allow, in fair order.

        Args:
            horizon: how far ahead to grant. The grants carry the instants they are due at.
        """
        if not self._changed and self.next_at > now + horizon:
            return []
        grants: list[Grant[T]] = []
        at = max(int(self.next_at), now - self._slack) if self.next_at <= now else now
        while self.waiting:
            flow = self._elect(at)
            next_at = self._first_instant()
            if flow is not None:
                wait = self._own_wait(at, flow.size)
                if wait <= 0:
                    grants.append(self._grant(flow, at))
                    continue
                next_at = min(next_at, at + wait)
            if next_at > now + horizon:
                self.next_at = next_at
                break
            at = max(at, int(next_at))
        else:
            self.next_at = inf
            self._end_busy_period()
        self._changed = False
        return grants

    def _own_wait(self, at: int, tokens: int) -> float:
        wait = self.budgets.wait(at, tokens)
        return inf if wait is None else wait

    def _elect(self, at: int) -> Flow[T] | None:
        """The flow whose turn it is in the gate's order. Its lane and client keep it waiting no
        longer than the gate itself."""
        while True:
            self._wake(at)
            flow = self._first()
            if flow is None:
                return None
            own = self._own_wait(at, flow.size)
            lane = flow.lane.wait(at, flow.size)
            client = 0.0 if flow.client is None else flow.client.wait(at, flow.size)
            if lane <= own and client <= own:
                return flow
            if lane >= client or flow.client is None or flow.due:
                flow.lane.short = True
                self._nominate_in_lane(flow.lane, at)
            else:
                self._hold_client(flow.client, at)

    def _first(self) -> Flow[T] | None:
        """The first flow in the gate's order of those that lanes offer."""
        for index in self.order.by_turn():
            if not self.waiting_by_class[index]:
                continue
            first: Flow[T] | None = None
            for lane in self.awake:
                flow = self._offered(lane, index)
                if flow is not None and (first is None or _is_before(flow, first)):
                    first = flow
            if first is not None:
                return first
        return None

    @staticmethod
    def _offered(lane: LaneScope[T], index: int) -> Flow[T] | None:
        if not lane.short:
            return lane.first_for_gate(index) if lane.waiting[index] else None
        nominee = lane.nominee
        return nominee if nominee is not None and nominee.share.index == index else None

    def _grant(self, flow: Flow[T], at: int) -> Grant[T]:
        item, tokens = flow.pop(at)
        flow.served = next(self._numbers)
        error: Exception | None = None
        try:
            self._charge_order(flow, tokens)
            self.charge(item, flow.lane, flow.client, at, tokens)
        except Exception as defect:
            # It costs one item its turn, and does not stop the gate.
            error = defect
        self._count_out(flow, tokens)
        self._first_changed(flow)
        return Grant(item, flow, tokens, at, error)

    def _charge_order(self, flow: Flow[T], tokens: int) -> None:
        share, client = flow.share, flow.client
        self.order.charge(share.index, share, share.weight, self.budgets.cost(tokens))
        self._charge_lane(flow, tokens)
        if client is not None:
            assert flow.at_client is not None
            client.order.charge(share.index, flow.at_client, 1, client.budgets.cost(tokens))

    def _charge_lane(self, flow: Flow[T], tokens: int) -> None:
        lane, index, weight = flow.lane, flow.share.index, flow.share.weight
        cost = lane.budgets.cost(tokens)
        first = lane.first_of_class(index)
        tag = flow.tag if first is None else min(flow.tag, first.tag)
        waiting = [lane.order.classes[other].tag for other in CLASSES if lane.waiting[other]]
        lane.order.charge_ahead(
            index, flow, weight, cost, time=min(waiting, default=0.0), first=tag
        )

    # Scopes that are short.

    def _wake(self, at: int) -> None:
        """Let the scopes nominate whose budgets have changed, or whose instant has come."""
        while self._touched or (self._sleepers and self._sleepers[0][0] <= at):
            if self._touched:
                self._nominate(self._touched.popitem()[0], at)
                continue
            instant, _, scope = heappop(self._sleepers)
            if scope.wake_at == instant:
                self._nominate(scope, at)

    def _first_instant(self) -> float:
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
                self.awake.pop(lane, None)
                self._sleep(lane, inf)
                return
            wait = self._wait_in_lane(flow, at)
            if wait >= 0:
                break
        own = self._own_wait(at, flow.size)
        if 0 < own >= wait and not flow.due and self._gate_is_later(lane, at):
            self._open_lane(lane)
        elif wait > max(own, 0):
            self.awake.pop(lane, None)
            self._sleep(lane, at + wait)
            self._held(flow, _BY_LANE)
        else:
            lane.wake_at = None
            self.awake[lane] = None

    def _wait_in_lane(self, flow: Flow[T], at: int) -> float:
        """How long the lane keeps a flow waiting; -1 if its client keeps it for longer."""
        wait = flow.lane.wait(at, flow.size)
        if flow.client is None:
            return wait
        client = flow.client.wait(at, flow.size)
        if flow.due:
            return max(wait, client)
        if client <= max(wait, self._own_wait(at, flow.size)):
            return wait
        self._hold_client(flow.client, at)
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
        lane.short, lane.nominee, lane.wake_at = False, None, None
        self.awake[lane] = None

    def _hold_client(self, client: ClientScope[T], at: int) -> None:
        """A client's budgets are short: its flows wait until it nominates one of them."""
        client.short = True
        self._nominate_in_client(client, at)

    def _nominate_in_client(self, client: ClientScope[T], at: int) -> None:
        """Release the flow that is first in a short client's order, or sleep until its budgets
        suffice for that. If the gate is the bottleneck now, all flows that fit are released."""
        client.nominee = flow = self._first_of_client(client, at)
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
        """Release all flows of a client that its budgets keep no longer than others do."""
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

    def _first_of_client(self, client: ClientScope[T], at: int) -> Flow[T] | None:
        """The flow that is first in a client's order, of those whose lane does not keep them
        waiting for longer than the client does."""
        if client.due:
            return client.first_due
        flows = sorted(client.flows, key=_place_at_client)
        for index in client.order.by_turn():
            for flow in flows:
                in_time = flow.lane.wait(at, flow.size) <= client.wait(at, flow.size)
                if in_time and flow.share.index == index:
                    return flow
        return None

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

    def _withhold(self, flow: Flow[T]) -> None:
        if not flow.withheld:
            flow.withheld = True
            if flow.lane.nominee is flow:
                self._touched[flow.lane] = None

    def _release(self, flow: Flow[T]) -> None:
        """A flow's client keeps it no longer."""
        if flow.withheld:
            flow.withheld = False
            self._offer_in_lane(flow)

    # Flows.

    def _enter(self, flow: Flow[T]) -> None:
        """A flow gets its first item."""
        share, client = flow.share, flow.client
        index = share.index
        if not self.waiting_by_class[index]:
            self.order.enter_class(index)
        if not share.flows:
            self.order.enter(index, share)
            share.position = len(self.busy[index])
            self.busy[index].append(share)
        share.flows.append(flow)
        flow.served = next(self._numbers)
        flow.lane.enter(flow)
        if client is not None:
            client.enter(flow)

    def _offer(self, flow: Flow[T]) -> None:
        """A flow waits that did not, or was withheld."""
        client = flow.client
        self._changed = True
        if client is not None and client.short:
            flow.withheld = True
            self._touched[client] = None
            return
        self._offer_in_lane(flow)

    def _offer_in_lane(self, flow: Flow[T]) -> None:
        lane = flow.lane
        lane.offer(flow)
        if lane.short:
            self._touched[lane] = None
        else:
            self.awake[lane] = None

    def _first_changed(self, flow: Flow[T]) -> None:
        """The first item of a flow was granted or left, or another came before it."""
        lane, client = flow.lane, flow.client
        self._changed = True
        self._settle_due(flow)
        if not flow.count:
            self._leave(flow)
        if lane.short:
            self._touched[lane] = None
        if client is not None and client.short:
            self._touched[client] = None

    def _settle_due(self, flow: Flow[T]) -> None:
        flow.held_by = 0
        if flow.due:
            assert flow.client is not None
            flow.due = 0
            flow.lane.due.remove(flow)
            flow.client.due.remove(flow)

    def _leave(self, flow: Flow[T]) -> None:
        """A flow has nothing waiting any more."""
        share, lane, client = flow.share, flow.lane, flow.client
        share.flows.remove(flow)
        if not share.flows:
            remove_at(self.busy[share.index], share.position)
            self._forget(share)
        flow.withheld = False
        if client is not None:
            client.leave(flow)
        lane.leave(flow)
        if not any(lane.waiting):
            self._touched.pop(lane, None)
            self.awake.pop(lane, None)

    def _forget(self, share: Share[T]) -> None:
        """Forget a share that waits for nothing as `LaneScope.leave` does a flow."""
        shares = self.shares[share.index]
        if share.tag <= self.order.times[share.index]:
            del shares[share.client]
        elif len(shares) > 2 * len(self.busy[share.index]) + MAX_IDLE:
            busy = {client: each for client, each in shares.items() if each.flows}
            shares.clear()
            shares.update(busy)

    def _count_out(self, flow: Flow[T], tokens: int) -> None:
        index = flow.share.index
        self.waiting -= 1
        self.waiting_tokens -= tokens
        self.waiting_by_class[index] -= 1
        flow.lane.count_out(index, tokens)
        if flow.client is not None:
            flow.client.count_out(index, tokens)

    def _end_busy_period(self) -> None:
        """Nothing waits any more: forget the order."""
        if self._sleepers or any(self.shares):
            self._sleepers.clear()
            self._touched.clear()
            self.awake.clear()
            for shares in self.shares:
                shares.clear()
            self.order.reset()


def _is_before(flow: Flow[T], other: Flow[T]) -> bool:
    """Whether a flow of the same class comes first in the gate's order."""
    one, two = flow.share, other.share
    return (one.tag, one.turn, flow.served) < (two.tag, two.turn, other.served)


def _place_at_client(flow: Flow[T]) -> tuple[float, int]:
    assert flow.at_client is not None
    return flow.at_client.tag, flow.at_client.turn
