"""The state of a group of gates: its members, what each of them holds, and the shared budgets.

Where the order of several changes matters, members go by name and flows by key, so that another
implementation can do the same.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rustygate.core.bucket import MINUTE
from rustygate.core.fair_order import CLASS_NAMES
from rustygate.core.group_budgets import (
    GroupBudgets,
    GroupClientScope,
    GroupLane,
    GroupLaneScope,
    least,
)
from rustygate.core.group_demand import Demand, FlowKey, GroupFlow
from rustygate.core.scheduler import Grant, Scheduler
from rustygate.core.scopes import ClientScope, Flow, LaneScope, Share

# Lanes that are not in use are forgotten above this number.
MAX_LANES = 1000

# The most flows of a group, counted once for each member, and the most in one call.
MAX_FLOWS = 10_000
MAX_FLOWS_REPORTED = 2_000


# Up to this many members may have waiters before they call less often; see `core.group_load`.
LEAST_LOAD = 16


class Boxed(NamedTuple):
    """A grant that its member has not acknowledged.

    Attributes:
        seq: the call whose reply carried it; 0 if its member has not called since.
        at: the instant it was charged at.
        total_requests, total_tokens: its mark.
        version: that of the clients' limits.
    """

    seq: int
    key: FlowKey
    tokens: int
    at: int
    total_requests: int
    total_tokens: int
    version: int


@dataclass(slots=True)
class Float:
    """Admissions of one lane that a member holds in advance, each of this many tokens."""

    count: int
    tokens: int


@dataclass(slots=True)
class Member:
    """A member: what it has reported, and what it holds.

    Attributes:
        seen: when it called last.
        seq: the number of that call; `reply` is what it got.
        demands: what it has waiting, by flow.
        lent: whether its demand takes part, because it called lately.
        lapsed: whether grants were taken back that it may have received: it has to register again.
        own_slots, lane_slots, client_slots: its admissions in flight.
        granted: the cost of what it was granted lately.
        load: how many members had waiters when it called last; how soon it calls again follows
            from that.
    """

    name: str
    limits: list[int]
    seen: int = 0
    seq: int = 0
    reply: dict[str, Any] = field(default_factory=dict)
    demands: dict[FlowKey, Demand] = field(default_factory=dict)
    lent: bool = True
    lapsed: bool = False
    box: list[Boxed] = field(default_factory=list)
    floats: dict[str, Float] = field(default_factory=dict)
    own_slots: int = 0
    lane_slots: dict[str, int] = field(default_factory=dict)
    client_slots: dict[str, int] = field(default_factory=dict)
    granted: float = 0.0
    load: int = LEAST_LOAD

    @property
    def has_demand(self) -> bool:
        return self.lent and bool(self.demands)


class GroupState(Scheduler[str]):
    """The budgets of a group, what waits for them, and what its members hold.

    Attributes:
        now: the group's time; `offset` is added to the clock's.
        resumed_at: when the first call arrived after a time without any.
        begins_at: until then, nothing is granted.
        limits: the gate's own, the strictest of all members.
        probes: a lane's slots before its first response.
    """

    def __init__(self) -> None:
        self.own = GroupBudgets()
        super().__init__(self.own)
        self.now = self.offset = self.resumed_at = self.begins_at = 0
        self.members: dict[str, Member] = {}
        self.lanes: dict[str, GroupLaneScope] = {}
        self.clients: dict[str, GroupClientScope] = {}
        self.client_weights: dict[str, float] = {}
        self.clients_version = 0
        self.limits: list[int] = []
        self.halved_at = 0
        self.probes: int | None = None
        self._used_lanes: dict[str, None] = {}

    def in_order(self) -> list[Member]:
        """The members by name."""
        return sorted(self.members.values(), key=lambda member: member.name)

    def _new_flow(
        self, share: Share[str], lane: LaneScope[str], scope: ClientScope[str] | None
    ) -> Flow[str]:
        return GroupFlow(share, lane, scope)

    # Limits.

    def set_limits(self, now: int) -> None:
        """The gate's own limits: where members differ, the strictest applies."""
        limits = [member.limits for member in self.members.values()]
        if not limits:
            return
        period = max(each[0] for each in limits)
        burst = least(each[1] for each in limits)
        tokens, slots = least(each[2] for each in limits), least(each[3] for each in limits)
        probes = least(each[4] for each in limits)
        self.own.set_limit(now, 0, period, burst)
        self.own.set_limit(now, 1, -1 if tokens < 0 else -(-MINUTE // tokens), tokens)
        self.own.slots = None if slots < 0 else slots
        if self.limits and self.limits[4] != probes:
            self._set_probes(probes)
        self.probes = None if probes < 0 else probes
        self.limits = [period, burst, tokens, slots, probes]
        self.touch()

    def _set_probes(self, probes: int) -> None:
        for lane in self.lanes.values():
            if not lane.budgets.known:
                lane.budgets.slots = None if probes < 0 else probes
                self.touch(lane)

    # Lanes.

    def lane(self, name: str) -> GroupLaneScope:
        """A lane, made if necessary. It is used now."""
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = GroupLaneScope(name, GroupLane(slots=self.probes))
        lane.used = self.now
        self._used_lanes[name] = None
        return lane

    def forget_lanes(self) -> None:
        """Forget lanes about which nothing was learned once they are no longer used. If there are
        too many others, forget the least recently used ones, then by name."""
        for name in self._used_lanes:
            lane = self.lanes[name]
            if self._is_idle(lane) and not lane.budgets.has_knowledge:
                del self.lanes[name]
        self._used_lanes.clear()
        excess = len(self.lanes) - MAX_LANES
        if excess > 0:
            idle = [lane for lane in self.lanes.values() if self._is_idle(lane)]
            idle.sort(key=lambda lane: (lane.used, lane.name))
            for lane in idle[:excess]:
                del self.lanes[lane.name]

    def _is_idle(self, lane: GroupLaneScope) -> bool:
        return lane.budgets.is_idle(self.now) and not any(lane.waiting)

    # Slots.

    def hold_slots(self, member: Member, lane: str, client: str) -> None:
        """Count an admission of a member, whose budgets are charged, as in flight."""
        member.own_slots += 1
        member.lane_slots[lane] = member.lane_slots.get(lane, 0) + 1
        if client in self.clients:
            member.client_slots[client] = member.client_slots.get(client, 0) + 1

    def free_lane_slot(self, member: Member, lane: str) -> None:
        if _count_down(member.lane_slots, lane):
            scope = self.lane(lane)
            scope.budgets.in_flight -= 1
            self.touch(scope)

    def free_slots(self, member: Member, client: str) -> None:
        """Free the gate's own slot and the client's."""
        if member.own_slots > 0:
            member.own_slots -= 1
            self.own.in_flight -= 1
            self.touch()
        if _count_down(member.client_slots, client) and client in self.clients:
            self.clients[client].budgets.in_flight -= 1
            self.touch(self.clients[client])

    def free_all_slots(self, member: Member) -> None:
        """Free the slots of a member that is gone."""
        self.own.in_flight -= member.own_slots
        self.touch()
        for name, slots in sorted(member.lane_slots.items()):
            self.lane(name).budgets.in_flight -= slots
            self.touch(self.lanes[name])
        for name, slots in sorted(member.client_slots.items()):
            if name in self.clients:
                self.clients[name].budgets.in_flight -= slots
                self.touch(self.clients[name])

    # What was granted and not used.

    def give_back(self, lane: str, client: str, tokens: int, version: int) -> None:
        """Return what an admission took from the buckets; `version`, of the clients' limits."""
        scope = self.lane(lane)
        scope.budgets.give_back(tokens)
        self.touch(scope)
        self.waive(client, tokens, version)

    def waive(self, client: str, tokens: int, version: int) -> None:
        """The same for the gate's own budgets and the client's only."""
        self.own.give_back(tokens)
        self.touch()
        scope = self.clients.get(client)
        if scope is not None and scope.charged(version):
            scope.budgets.give_back(tokens)
            self.touch(scope)

    def refund_turn(self, key: FlowKey, tokens: int) -> None:
        """Give the turn of a grant that was not used back to its flow."""
        flow = self.find_flow(key)
        if flow is not None:
            self.refund(flow, tokens)
            self.touch(flow.lane)

    def take_back(self, member: Member, boxed: Boxed) -> None:
        """Undo a grant that its member has not received."""
        lane, _, client = boxed.key
        self.give_back(lane, client, boxed.tokens, boxed.version)
        self.free_lane_slot(member, lane)
        self.free_slots(member, client)
        self.refund_turn(boxed.key, boxed.tokens)

    def empty_box(self, member: Member) -> None:
        for boxed in member.box:
            self.take_back(member, boxed)
        member.box = []

    # Demand.

    def flow_of(self, key: FlowKey, weight: float) -> GroupFlow:
        """A flow, made if necessary. The clients' file knows the weight better than a member."""
        lane, index, client = key
        scope = self.clients.get(client)
        weight = self.client_weights.get(client, weight)
        flow = self.flow(self.lane(lane), CLASS_NAMES[index], client, weight, scope)
        assert isinstance(flow, GroupFlow)
        return flow

    def find_flow(self, key: FlowKey) -> GroupFlow | None:
        name, index, client = key
        lane = self.lanes.get(name)
        flow = lane and lane.flows.get((index, client, self.clients.get(client)))
        assert flow is None or isinstance(flow, GroupFlow)
        return flow

    def place(self, member: Member, keys: Iterable[FlowKey]) -> None:
        """Put a member's demand into its flows, or take out what is no longer there."""
        for key in keys:
            demand = member.demands.get(key) if member.lent else None
            if demand is not None:
                flow: GroupFlow | None = self.flow_of(key, demand.weight)
                assert flow is not None
                flow.demands[member.name] = demand
            else:
                flow = self.find_flow(key)
                if flow is None or flow.demands.pop(member.name, None) is None:
                    continue
            self._used_lanes[key[0]] = None
            self._recount(flow)

    def withdraw(self, member: Member) -> None:
        """Leave out the demand of a silent member until it calls again."""
        member.lent = False
        self.place(member, sorted(member.demands))

    def put_back(self, member: Member, boxed: Boxed, now: int) -> None:
        """The item of a grant that was taken back is first again."""
        demand = member.demands.get(boxed.key)
        if demand is None:
            share = self.shares[boxed.key[1]].get(boxed.key[2])
            weight = 1.0 if share is None else share.weight
            demand = member.demands[boxed.key] = Demand(deque(), 0, 0, now, weight)
        demand.sizes.appendleft(boxed.tokens)

    def _recount(self, flow: GroupFlow) -> None:
        """A member's demand in a flow has changed."""
        was_empty, size = not flow.count, flow.size
        if was_empty and flow.demands:
            self._enter(flow)
        self._count(flow, *flow.recount())
        self._count_depth(flow)
        if was_empty and flow.count:
            self._offer(flow)
        elif not was_empty and (not flow.count or flow.size != size):
            self._first_changed(flow)

    def _count_depth(self, flow: Flow[str]) -> None:
        assert isinstance(flow.lane, GroupLaneScope)
        assert isinstance(flow, GroupFlow)
        flow.lane.count_depth(flow)

    # Grants.

    def _grant(self, flow: Flow[str], at: int) -> Grant[str]:
        cost = self.own.cost(flow.size)
        grant = super()._grant(flow, at)
        if grant.error is not None:
            raise grant.error
        self._count_depth(flow)
        member, lane = self.members[grant.item], flow.lane
        assert isinstance(lane, GroupLaneScope)
        key = (lane.name, flow.share.index, str(flow.share.client))
        demand = member.demands.get(key)
        if demand is not None and not demand.count:
            del member.demands[key]
        self.hold_slots(member, lane.name, key[2])
        totals = lane.budgets.total_requests, lane.budgets.total_tokens
        member.box.append(Boxed(0, key, grant.tokens, at, *totals, self.clients_version))
        member.granted += cost
        lane.used = self.now
        self._used_lanes[lane.name] = None
        return grant


def _count_down(counts: dict[str, int], name: str) -> bool:
    """Count one less. Returns False if there was none."""
    if not counts.get(name, 0):
        return False
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
    return True
