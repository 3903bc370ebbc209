"""The scheduler: which waiter is admitted next, and when.

One synchronous function, `dispatch`, over explicit state: time is an argument, and nothing is
awaited. It owns the gate's budgets and the fair order over everything that waits.

An item needs up to three sets of budgets: the gate's own, its lane's and its client's. They are
taken together or not at all. The rule is: lanes nominate, the gate elects.
- The gate's order is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) by the gate's
  cost, on two levels: classes, and the clients in each. `core.fair_order` has the algorithm.
- While the gate is the bottleneck, all flows of a lane compete in the gate's order: a lane that is
  short for a moment must not decide the shares.
- When a lane's budgets would keep the elected item waiting longer than the gate's own do, the
  lane is *short*. Until its budgets suffice for the flow that is first in *its* order, by its
  cost, none of its flows is in the gate's order. Then that flow alone is. The same applies to a
  client with limits of its own (`core.short_scopes`). So blocked items hold up nobody else.

Departures from the paper, besides those in `core.fair_order`:
- A flow that could not be served for a while, because its lane or client was blocked, has no
  credit afterwards: it starts at the virtual time.
- A turn is charged in every order; in the lane's, even while the gate's order decides.
- Once both its lane and its client have waited for an item, it is not overtaken in either.

Costs, for n waiting flows: an arrival into a flow that waits and an admission while nothing waits
take constant time. An arrival into a new flow and a grant take O(log n). A dispatch looks at the
budgets again only if something has changed that can matter: `_changed`. Memory is O(n), and idle
flows are forgotten.
"""

from collections.abc import Collection, Hashable
from itertools import count
from math import inf
from typing import Generic, NamedTuple, TypeVar

from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASS_INDEX, CLASSES, FairOrder
from rustygate.core.offers import Offers
from rustygate.core.scopes import MAX_IDLE, ClientScope, Flow, LaneScope, Scope, Share, remove_at
from rustygate.core.short_scopes import ShortScopes

T = TypeVar("T", bound=Hashable)


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
        self._slack = slack
        self._offers: Offers[T] = Offers()
        self._short: ShortScopes[T] = ShortScopes(budgets, self._offers)
        self._grant_numbers = count(1)
        # Unless something has changed since, `dispatch` would elect this flow, and the budgets
        # suffice for it from that instant on: their waits only become shorter with time.
        self._elected: Flow[T] | None = None
        self._elected_at: float = inf
        self._changed = False

    @property
    def awake(self) -> Collection[LaneScope[T]]:
        """The lanes that offer flows to the gate's order."""
        return self._offers.awake.keys()

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
        share = self.shares[index].get(client)
        if share is None:
            share = self.shares[index][client] = Share(client, index)
        share.weight = weight
        flow = lane.flows.get((index, client, scope))
        if flow is None:
            flow = lane.flows[index, client, scope] = self._new_flow(share, lane, scope)
        else:
            # Its share may have been forgotten before the flow was.
            flow.share = share
        return flow

    def _new_flow(
        self, share: Share[T], lane: LaneScope[T], scope: ClientScope[T] | None
    ) -> Flow[T]:
        return Flow(share, lane, scope)

    def push(self, flow: Flow[T], item: T, tokens: int, rank: int | None = None) -> bool:
        """Add an item at the end of a flow; with a rank, before all items without one and behind
        those of a lower rank. Returns whether another `dispatch` is worth it before `next_at`."""
        if not flow.count:
            self._enter(flow)
        flow.push(item, tokens, rank)
        self._count(flow, 1, tokens)
        if flow.count == 1:
            self._offer(flow)
        elif rank is not None:
            self._first_changed(flow)
        return self._changed

    def remove(self, flow: Flow[T], item: T) -> bool:
        """Unlink an item that left. Returns False if it does not wait."""
        before = flow.tokens
        was_first = flow.count > 0 and next(iter(flow)) == item
        if not flow.remove(item):
            return False
        self._count(flow, -1, flow.tokens - before)
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
        lane, index = flow.lane, flow.share.index
        share = self.shares[index].get(flow.share.client)
        if share is None:
            return
        self.order.refund(index, share, share.weight, self.budgets.cost(tokens))
        lane.order.refund(index, flow, share.weight, lane.budgets.cost(tokens))
        for other in share.flows:
            other.lane.renew(other)
            if other.lane in self._offers.awake:
                self._offers.add(other.lane, index)
        self._changed = True

    def touch(self, *scopes: Scope[T] | None) -> None:
        """Budgets have changed other than by a grant: the gate's own, or those of scopes."""
        self._changed = True
        for scope in scopes:
            self._short.touch(scope)

    # Grants.

    def admit(
        self, item: T, lane: LaneScope[T], client: ClientScope[T] | None, now: int, tokens: int
    ) -> bool:
        """Admit an item at once, if nothing else waits for what it needs, and all budgets
        suffice."""
        if self.waiting and (
            self._offers.awake or self._changed or self.next_at <= now or any(lane.waiting)
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
        """Charge the budgets for an item, whether they suffice or not."""
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
        try:
            self._dispatch(now, horizon, grants)
        except Exception:
            # What was granted before a defect is not lost. The next dispatch will show it.
            if not grants:
                raise
        return grants

    def _dispatch(self, now: int, horizon: int, grants: list[Grant[T]]) -> None:
        at = max(int(self.next_at), now - self._slack) if self.next_at <= now else now
        if self._changed:
            self._elected = None
        self._changed = True
        while self.waiting:
            try:
                wait = self._elect(at)
            except Exception as defect:
                if self._elected is None:
                    raise
                grants.append(self._fail(self._elected, at, defect))
                continue
            if self._elected is not None and wait <= 0:
                grants.append(self._grant(self._elected, at))
                continue
            next_at = min(at + wait, self._short.first_instant())
            if next_at > now + horizon:
                self.next_at = next_at
                break
            at = max(at, int(next_at))
        else:
            self.next_at = inf
            self._end_busy_period()
        self._changed = False

    def _elect(self, at: int) -> float:
        """Elect the flow whose turn it is in the gate's order, and return how long the gate's
        budgets keep it waiting. Its lane and client keep it waiting no longer."""
        while True:
            if self._short.wake(at):
                self._elected = None
            elif self._elected is not None and at >= self._elected_at:
                return 0
            flow = self._elected = self._elected or self._first()
            if flow is None:
                return inf
            tokens, client = flow.size, flow.client
            own = self.budgets.wait(at, tokens)
            lane_wait = flow.lane.wait(at, tokens)
            client_wait = 0.0 if client is None else client.wait(at, tokens)
            if own is None:
                self._elected_at = inf
                return inf
            if lane_wait <= own and client_wait <= own:
                self._elected_at = at + own
                return own
            self._elected = None
            self._short.hold(flow, at, lane_wait, client_wait)

    def _first(self) -> Flow[T] | None:
        """The first flow in the gate's order of those that lanes offer."""
        for index in self.order.by_turn(self.waiting_by_class):
            flow = self._offers.first(index)
            if flow is not None:
                return flow
        return None

    def _fail(self, flow: Flow[T], at: int, error: Exception) -> Grant[T]:
        """A defect costs one item its turn, and does not stop the gate."""
        item, tokens = flow.pop(at)
        self._elected = None
        self._count(flow, -1, -tokens)
        self._first_changed(flow)
        return Grant(item, flow, tokens, at, error)

    def _grant(self, flow: Flow[T], at: int) -> Grant[T]:
        item, tokens = flow.pop(at)
        flow.served = next(self._grant_numbers)
        self._elected = None
        error: Exception | None = None
        try:
            self._charge_order(flow, tokens)
            self.charge(item, flow.lane, flow.client, at, tokens)
        except Exception as defect:
            error = defect
        self._count(flow, -1, -tokens)
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
        time = lane.order.first_tag(lane.waiting)
        lane.order.charge_ahead(index, flow, weight, cost, time=time, first=tag)

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
        flow.served = next(self._grant_numbers)
        flow.lane.enter(flow)
        if client is not None:
            client.enter(flow)

    def _offer(self, flow: Flow[T]) -> None:
        """A flow has begun to wait."""
        if not self._short.offer(flow) or not self._is_behind_elected(flow):
            self._changed = True

    def _is_behind_elected(self, flow: Flow[T]) -> bool:
        """Whether a newly arrived flow cannot be elected before the one due to be elected."""
        elected = self._elected
        if elected is None:
            return False
        index, other = flow.share.index, elected.share.index
        if index != other:
            return self.order.is_before(other, index)
        return elected.gate_place < flow.gate_place

    def _first_changed(self, flow: Flow[T]) -> None:
        """The first item of a flow was granted or left, or another came before it."""
        self._changed = True
        if flow.held_by:
            self._short.settle_due(flow)
        if not flow.count:
            self._leave(flow)
        self._short.on_first_changed(flow)

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
            self._short.forget(lane)

    def _forget(self, share: Share[T]) -> None:
        """Forget a share that waits for nothing as `LaneScope.leave` does a flow."""
        shares = self.shares[share.index]
        if share.tag <= self.order.times[share.index]:
            del shares[share.client]
        elif len(shares) > 2 * len(self.busy[share.index]) + MAX_IDLE:
            busy = {client: each for client, each in shares.items() if each.flows}
            shares.clear()
            shares.update(busy)

    def _count(self, flow: Flow[T], items: int, tokens: int) -> None:
        """This many more items of a flow wait, or fewer if negative."""
        index, lane, client = flow.share.index, flow.lane, flow.client
        self.waiting += items
        self.waiting_tokens += tokens
        self.waiting_by_class[index] += items
        lane.waiting[index] += items
        lane.waiting_tokens[index] += tokens
        if client is not None:
            client.waiting[index] += items
            client.waiting_tokens[index] += tokens

    def _end_busy_period(self) -> None:
        """Nothing waits any more: forget the order."""
        if self._short.sleeping or any(self.shares):
            self._short.clear()
            self._offers.clear()
            self._elected = None
            for shares in self.shares:
                shares.clear()
            self.order.reset()
