"""The scheduler of a group: the demand of all members in, each member's grants out.

Gates that share one quota report what waits in them, and one scheduler (`core.scheduler`) owns all
budgets and the fair order over all of it. A member calls `sync` with what has changed since its
last call, and gets its grants. In Redis the same function is a Lua script (`admission/group/
sync.lua`), with the same grants for the same calls; tests hold the two together.

What goes across a network can be lost, late or twice:
- Grants stay in the member's *box* until it acknowledges the reply. A report that crossed them on
  the way still counts their items, so they are subtracted from it.
- A call with the sequence number of the last one gets the same reply, and changes nothing.
- A member that is silent for `DEMAND_LEASE` is not granted more until it calls again. After
  `BOX_LEASE` what it has not acknowledged goes back, after `SLOT_LEASE` its slots and float do. It
  is *stale* then: it holds nothing, and registers anew.

Grants reach up to `HORIZON` ahead, each with the instant that it was charged at, so that a round
trip costs no quota. While nobody waits anywhere, a member may hold a *float*: admissions that are
charged in advance, so that a request need not wait for a round trip. A bucket's level is at most
its capacity less the float, so that a float does not make bursts larger. A member keeps a float
until it says otherwise, so that it can use it while a call is on its way.

Time is in nanoseconds since the group's epoch, and all numbers are integers below 2**53 or floats:
a Lua number holds both exactly.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASS_NAMES
from rustygate.core.group_budgets import (
    PACE_LEASE,
    GroupLane,
    GroupLaneScope,
    cap,
    change_held,
    least,
    resized,
)
from rustygate.core.group_demand import Demand, FlowKey, GroupFlow
from rustygate.core.scheduler import Grant, Scheduler
from rustygate.core.scopes import ClientScope, Flow, LaneScope, Share

MS = SECOND // 1000

HORIZON = 25 * MS
DEMAND_LEASE = 200 * MS
BOX_LEASE = SECOND
SLOT_LEASE = 1500 * MS

# A member's share is its part of what was granted lately: each grant counts half as much after
# this time. This part of the shares is divided equally: a member without demand gets some, too.
HALF_LIFE = 10 * SECOND
EQUAL_PART = 1 / 11

# A member holds at most so many admissions in advance.
MAX_FLOAT = 256

# A member reports the sizes of so many waiters of a flow; the others as a sum.
SIZES_REPORTED = 8


class Boxed(NamedTuple):
    """A grant that its member has not acknowledged.

    Attributes:
        seq: the call whose reply carried it; 0 if its member has not called since.
        at: the instant it was charged at.
        total_requests, total_tokens: its mark.
    """

    seq: int
    key: FlowKey
    tokens: int
    at: int
    total_requests: int
    total_tokens: int


@dataclass(slots=True)
class Float:
    """Admissions of one lane that a member holds in advance, each of so many tokens."""

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
        own_slots, lane_slots, client_slots: its admissions in flight.
    """

    name: str
    limits: list[int]
    seen: int = 0
    seq: int = 0
    reply: dict[str, Any] = field(default_factory=dict)
    demands: dict[FlowKey, Demand] = field(default_factory=dict)
    weights: dict[FlowKey, float] = field(default_factory=dict)
    lent: bool = True
    box: list[Boxed] = field(default_factory=list)
    floats: dict[str, Float] = field(default_factory=dict)
    own_slots: int = 0
    lane_slots: dict[str, int] = field(default_factory=dict)
    client_slots: dict[str, int] = field(default_factory=dict)
    granted: float = 0.0


class GroupScheduler(Scheduler[str]):
    """The state of a group, and `sync`."""

    def __init__(self) -> None:
        super().__init__(Budgets())
        self.now = 0
        self.offset = 0
        self.members: dict[str, Member] = {}
        self.lanes: dict[str, GroupLaneScope] = {}
        self.clients: dict[str, ClientScope[str]] = {}
        self.client_limits: dict[str, list[int]] = {}
        self.client_weights: dict[str, float] = {}
        self.clients_version = 0
        self.limits: list[int] = []
        self.halved_at = 0
        self.probes: int | None = None

    def _new_flow(
        self, share: Share[str], lane: LaneScope[str], scope: ClientScope[str] | None
    ) -> Flow[str]:
        return GroupFlow(share, lane, scope)

    def sync(self, call: dict[str, Any], clock: int) -> dict[str, Any]:
        """One call of a member.

        Args:
            clock: the time since the group's epoch.
            call: `member`, its name, new at each start; `known`, whether it was answered before;
                `seq`, the number of the call; `ack`, that of the last reply it has; `elapsed`, ns
                since its last call; `limits`, the gate's own: ns per request, burst, tokens per
                minute, slots, and a lane's slots before its first response, -1 for no limit;
                `demand`, for each flow that changed: lane, class, client, weight, sizes, rest,
                rest's tokens, age of the first in ns; `news`, what happened to what was granted;
                `float`, for lanes whose float it keeps or wants: lane, admissions, tokens each;
                `clients` and `clients_version`, weight and limits by client; `leave`, to end.
                When it registers: `slots`, `levels`, and `replaces`, its name before.
        """
        now = self._advance(clock, call.get("elapsed", 0))
        self._end_leases(now)
        self._age_shares(now)
        member = self.members.get(call["member"])
        if member is None:
            if call["known"]:
                return {"stale": 1}
            member = self._register(call, now)
        elif call["seq"] == member.seq:
            return member.reply
        member.seen, member.seq = now, call["seq"]
        self._acknowledge(member, call["ack"])
        self._update_clients(call)
        for event in call["news"]:
            self._apply(member, event, now)
        self._update_demand(member, call["demand"], now)
        self._return_floats(member, now, keep=[name for name, *_ in call["float"]])
        if call.get("leave"):
            self._expel(member, now)
            return {"left": 1}
        self.dispatch(now, HORIZON)
        grants = self._collect(member, now)
        if not self.waiting:
            self._lend_floats(member, call["float"], now)
        member.reply = self._reply(member, grants, now)
        return member.reply

    # Time and leases.

    def _advance(self, clock: int, elapsed: int) -> int:
        """The group's time. It stands still when the clock jumps back, and does not follow a jump
        ahead of more than a second beyond what the caller has seen pass."""
        now = clock + self.offset
        if self.members:
            latest = self.now + elapsed + SECOND
            if now < self.now:
                self.offset += self.now - now
                now = self.now
            elif now > latest:
                self.offset -= now - latest
                now = latest
        self.now = now
        return now

    def _end_leases(self, now: int) -> None:
        for member in list(self.members.values()):
            silent = now - member.seen
            if silent > DEMAND_LEASE and member.lent:
                member.lent = False
                self._withdraw_demand(member)
            if silent > BOX_LEASE and member.box:
                self._return_box(member, now)
                self._expel(member, now)
            elif silent > SLOT_LEASE:
                self._expel(member, now)

    def _age_shares(self, now: int) -> None:
        """Let what was granted long ago count less for the members' shares."""
        if now - self.halved_at >= HALF_LIFE:
            self.halved_at = now
            for member in self.members.values():
                member.granted /= 2

    def _expel(self, member: Member, now: int) -> None:
        """A member that left or is silent holds nothing any more; it is stale if it calls
        again."""
        if member.lent:
            member.lent = False
            self._withdraw_demand(member)
        self._return_box(member, now)
        self._return_floats(member, now)
        self.budgets.in_flight -= member.own_slots
        for name, slots in member.lane_slots.items():
            self.lanes[name].budgets.in_flight -= slots
            self.touch(self.lanes[name])
        for name, slots in member.client_slots.items():
            if name in self.clients:
                self.clients[name].budgets.in_flight -= slots
                self.touch(self.clients[name])
        del self.members[member.name]
        self._set_limits(now)

    def _register(self, call: dict[str, Any], now: int) -> Member:
        """A new member, or one that comes back: it says what it holds, and what is left of the
        budgets as far as it knows. In a group that begins, that is the level; in one that runs,
        levels only fall: what it admitted alone was not counted here."""
        before = self.members.get(call.get("replaces", ""))
        if before is not None:
            self._expel(before, now)
        member = self.members[call["member"]] = Member(call["member"], call["limits"], now)
        self._set_limits(now)
        requests, tokens = call["levels"]
        for bucket, level in ((self.budgets.requests, requests), (self.budgets.tokens, tokens)):
            if bucket is not None and 0 <= level < bucket.level(now):
                bucket.fill_to(now, level)
        own, lanes, clients = call["slots"]
        member.own_slots = own
        self.budgets.in_flight += own
        for name, slots in lanes:
            member.lane_slots[name] = slots
            self._lane(name).budgets.in_flight += slots
        for name, slots in clients:
            member.client_slots[name] = slots
            if name in self.clients:
                self.clients[name].budgets.in_flight += slots
        return member

    def _set_limits(self, now: int) -> None:
        """The gate's own limits: of members that differ, the strictest counts."""
        limits = [member.limits for member in self.members.values()]
        if not limits:
            return
        period = max(each[0] for each in limits)
        burst = least(each[1] for each in limits)
        tokens = least(each[2] for each in limits)
        own = self.budgets
        own.requests = resized(own.requests, now, period, burst)
        own.tokens = resized(own.tokens, now, -1 if tokens < 0 else -(-MINUTE // tokens), tokens)
        slots, probes = least(each[3] for each in limits), least(each[4] for each in limits)
        own.slots = None if slots < 0 else slots
        self.probes = None if probes < 0 else probes
        self.limits = [period, burst, tokens, slots, probes]
        self.touch()

    def _lane(self, name: str) -> GroupLaneScope:
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = GroupLaneScope(name, GroupLane(slots=self.probes))
        return lane

    def _lane_budgets(self, name: str) -> GroupLane:
        return self._lane(name).budgets

    def _update_clients(self, call: dict[str, Any]) -> None:
        """The weights and limits of clients: the newest file wins."""
        if call.get("clients") is None or call["clients_version"] <= self.clients_version:
            return
        self.clients_version = call["clients_version"]
        self.client_weights = {name: weight for name, weight, *_ in call["clients"]}
        limits = {name: values for name, _, *values in call["clients"]}
        for name, values in limits.items():
            scope = self.clients.get(name)
            if scope is None:
                scope = self.clients[name] = ClientScope(Budgets())
            if self.client_limits.get(name) != values:
                period, burst, tokens, slots = values
                scope.budgets.requests = None if period < 0 else TokenBucket(period, burst)
                scope.budgets.tokens = None if tokens < 0 else TokenBucket.per_minute(tokens)
                scope.budgets.slots = None if slots < 0 else slots
                self.touch(scope)
        for name in self.clients.keys() - limits.keys():
            self.clients[name].budgets.replace_limits(Budgets())
            self.touch(self.clients[name])
        self.client_limits = limits

    # What happened to what was granted.

    def _apply(self, member: Member, event: list[Any], now: int) -> None:
        """One event: its kind, and its values."""
        kind, *values = event
        getattr(self, f"_on_{kind}")(member, now, *values)

    def _on_charge(self, member: Member, now: int, lane: str, client: str, tokens: int) -> None:
        """An admission that was not granted: upstream began a turn by itself."""
        self.budgets.take(now, tokens)
        self._lane(lane).budgets.take(now, tokens)
        if client in self.clients:
            self.clients[client].budgets.take(now, tokens)
        self._hold_slots(member, lane, client)
        member.granted += 1

    def _on_settle(
        self, member: Member, now: int, client: str, estimated: int, actual: int
    ) -> None:
        """The tokens that an admission has really taken."""
        self.budgets.settle(now, estimated, actual)
        self.touch()
        if client in self.clients:
            self.clients[client].budgets.settle(now, estimated, actual)
            self.touch(self.clients[client])

    def _on_give_back(self, member: Member, now: int, lane: str, client: str, tokens: int) -> None:
        """An admission that was not used: nothing was sent upstream."""
        self.budgets.give_back(tokens)
        self._lane(lane).budgets.give_back(tokens)
        self.touch(self._lane(lane))
        if client in self.clients:
            self.clients[client].budgets.give_back(tokens)
            self.touch(self.clients[client])

    def _on_waive(self, member: Member, now: int, client: str, tokens: int) -> None:
        """An admission that was no work: it counts for its lane only."""
        self.budgets.give_back(tokens)
        self.touch()
        if client in self.clients:
            self.clients[client].budgets.give_back(tokens)
            self.touch(self.clients[client])

    def _on_answer(self, member: Member, now: int, lane: str) -> None:
        """Upstream has responded, so the lane's slot is free."""
        if member.lane_slots.get(lane, 0) > 0:
            member.lane_slots[lane] -= 1
            self._lane(lane).budgets.in_flight -= 1
            self.touch(self._lane(lane))

    def _on_release(self, member: Member, now: int, client: str) -> None:
        """An exchange has ended, so its slots are free."""
        if member.own_slots > 0:
            member.own_slots -= 1
            self.budgets.in_flight -= 1
            self.touch()
        if member.client_slots.get(client, 0) > 0:
            member.client_slots[client] -= 1
            if client in self.clients:
                self.clients[client].budgets.in_flight -= 1
                self.touch(self.clients[client])

    def _on_known(self, member: Member, now: int, lane: str) -> None:
        """A lane's model exists: requests in flight need no limit."""
        budgets = self._lane_budgets(lane)
        budgets.known, budgets.slots = True, None
        self.touch(self._lane(lane))

    def _on_learn(self, member: Member, now: int, lane: str, *values: int) -> None:
        """What a response says of a lane's quota; see `GroupLane.learn`."""
        self._lane_budgets(lane).learn(now, *values)
        self.touch(self._lane(lane))

    def _on_teach(
        self, member: Member, now: int, lane: str, kind: int, limit: int, level: int, period: int
    ) -> None:
        """What a member that registers knows of a lane's quota. The group may know better: then
        the level only falls."""
        self._lane_budgets(lane).teach(now, kind, limit, level, period)
        self.touch(self._lane(lane))

    def _on_pause(self, member: Member, now: int, lane: str, wait: int) -> None:
        """Upstream refused a request: admit none of this lane for a while."""
        budgets = self._lane_budgets(lane)
        budgets.paused_until = max(budgets.paused_until, now + wait)
        self.touch(self._lane(lane))

    def _on_pace(self, member: Member, now: int, lane: str, period: int) -> None:
        """The lane's pace from now on, in ns per request; 0 for none."""
        budgets = self._lane_budgets(lane)
        budgets.paced_until = now + PACE_LEASE
        if period <= 0:
            budgets.pace = None
        elif budgets.pace is None:
            budgets.pace = TokenBucket(period, 1)
        else:
            budgets.pace.full_at += period - budgets.pace.period
            budgets.pace.period = period
        self.touch(self._lane(lane))

    def _hold_slots(self, member: Member, lane: str, client: str) -> None:
        """Count an admission of a member as in flight."""
        member.own_slots += 1
        member.lane_slots[lane] = member.lane_slots.get(lane, 0) + 1
        if client in self.clients:
            member.client_slots[client] = member.client_slots.get(client, 0) + 1

    def _free_slots(self, member: Member, lane: str, client: str, now: int) -> None:
        self._on_answer(member, now, lane)
        self._on_release(member, now, client)

    # Demand.

    def _flow_of(self, key: FlowKey, weight: float) -> GroupFlow:
        lane, index, client = key
        scope = self.clients.get(client)
        weight = self.client_weights.get(client, weight)
        flow = self.flow(self._lane(lane), CLASS_NAMES[index], client, weight, scope)
        assert isinstance(flow, GroupFlow)
        return flow

    def _update_demand(self, member: Member, demand: list[list[Any]], now: int) -> None:
        for lane, index, client, weight, sizes, rest, rest_tokens, age in demand:
            key = (lane, index, client)
            reported = Demand(deque(sizes), rest, rest_tokens, now - age)
            for boxed in member.box:
                if boxed.key == key and reported.count:
                    reported.take(reported.since)
            if reported.count:
                member.demands[key] = reported
                member.weights[key] = weight
            else:
                member.demands.pop(key, None)
            if member.lent:
                self._place(member, key, weight)
        if not member.lent:
            member.lent = True
            for key in member.demands:
                self._place(member, key, member.weights[key])

    def _place(self, member: Member, key: FlowKey, weight: float) -> None:
        """Put a member's demand into its flow, or take it out."""
        flow = self._flow_of(key, weight)
        demand = member.demands.get(key) if member.lent else None
        if demand is None:
            flow.demands.pop(member.name, None)
        else:
            flow.demands[member.name] = demand
        self._recount(flow)

    def _withdraw_demand(self, member: Member) -> None:
        for key in member.demands:
            self._place(member, key, member.weights[key])

    def _recount(self, flow: GroupFlow) -> None:
        was_empty = not flow.count
        if was_empty and flow.demands:
            self._enter(flow)
        count, tokens = flow.recount()
        index = flow.share.index
        self.waiting += count
        self.waiting_tokens += tokens
        self.waiting_by_class[index] += count
        for scope in (flow.lane, flow.client):
            if scope is not None:
                scope.waiting[index] += count
                scope.waiting_tokens[index] += tokens
        if was_empty and flow.count:
            self._offer(flow)
        elif not was_empty:
            self._first_changed(flow)

    # Grants.

    def _grant(self, flow: Flow[str], at: int) -> Grant[str]:
        grant = super()._grant(flow, at)
        member, lane = self.members[grant.item], flow.lane
        assert isinstance(lane, GroupLaneScope)
        key = (lane.name, flow.share.index, str(flow.share.client))
        demand = member.demands.get(key)
        if demand is not None and not demand.count:
            del member.demands[key]
        self._hold_slots(member, lane.name, key[2])
        budgets = lane.budgets
        member.box.append(
            Boxed(0, key, grant.tokens, at, budgets.total_requests, budgets.total_tokens)
        )
        member.granted += 1
        return grant

    def _collect(self, member: Member, now: int) -> list[list[Any]]:
        """The grants that a member has not got yet."""
        collected = []
        for place, boxed in enumerate(member.box):
            if boxed.seq == 0:
                member.box[place] = boxed._replace(seq=member.seq)
                collected.append([*boxed.key, boxed.tokens, max(0, boxed.at - now), *boxed[4:]])
        return collected

    def _acknowledge(self, member: Member, ack: int) -> None:
        member.box = [boxed for boxed in member.box if not 0 < boxed.seq <= ack]

    def _return_box(self, member: Member, now: int) -> None:
        """Give back what a silent member has not acknowledged."""
        for boxed in member.box:
            lane, _, client = boxed.key
            self._on_give_back(member, now, lane, client, boxed.tokens)
            self._free_slots(member, lane, client, now)
        member.box = []

    # Floats.

    def _lend_floats(self, member: Member, wanted: list[list[Any]], now: int) -> None:
        """Charge the float that a member wants, as far as there is room: in all lanes together at
        most its part of half the gate's own capacity, and the same of a lane's."""
        part = 2 * len(self.members)
        for name, count, tokens in wanted:
            lane = self._lane_budgets(name)
            held = member.floats.get(name)
            if held is None:
                held = Float(0, tokens)
            elsewhere = sum(each.count for each in member.floats.values()) - held.count
            count = min(
                count,
                _room(self.budgets, part, held) - elsewhere,
                _room(lane, part, held),
            )
            while held.count < count:
                if self.budgets.wait(now, held.tokens) != 0 or lane.wait(now, held.tokens) != 0:
                    break
                member.floats[name] = held
                held.count += 1
                lane.lend(now, held.tokens)
                self.budgets.take(now, held.tokens)
                for budgets in (self.budgets, lane):
                    change_held(budgets, 1, held.tokens)

    def _return_floats(self, member: Member, now: int, keep: Iterable[str] = ()) -> None:
        """Give back the float of a member that it has not used, except in some lanes."""
        for name in [name for name in member.floats if name not in keep]:
            held, lane = member.floats.pop(name), self._lane_budgets(name)
            for budgets in (self.budgets, lane):
                cap(budgets, now)
                change_held(budgets, -held.count, held.tokens)
                for _ in range(held.count):
                    budgets.give_back(held.tokens)
                    budgets.release()
            self.touch(self._lane(name))

    def _on_float_used(
        self, member: Member, now: int, lane: str, client: str, tokens: int
    ) -> None:
        """An admission of the member's float, which cost this many tokens."""
        held = member.floats.get(lane)
        if held is None or not held.count:
            self._on_charge(member, now, lane, client, tokens)
            return
        held.count -= 1
        lane_budgets = self._lane_budgets(lane)
        lane_budgets.count(tokens)
        for budgets in (self.budgets, lane_budgets):
            cap(budgets, now)
            change_held(budgets, -1, held.tokens)
            budgets.settle(now, held.tokens, tokens)
        if client in self.clients:
            self.clients[client].budgets.take(now, tokens)
        self._hold_slots(member, lane, client)
        member.granted += 1

    # The reply.

    def _reply(self, member: Member, grants: list[list[Any]], now: int) -> dict[str, Any]:
        next_at = self.next_at
        return {
            "grants": grants,
            "floats": [self._float_state(name, held) for name, held in member.floats.items()],
            "next": -1 if next_at == inf else max(0, int(next_at) - now),
            "waiting": self.waiting,
            "members": len(self.members),
            "share": self._share(member),
            "differs": int(member.limits != self.limits),
            "levels": [
                -1 if bucket is None else bucket.level(now)
                for bucket in (self.budgets.requests, self.budgets.tokens)
            ],
            "waiting_by_class": self.waiting_by_class[:],
            "waiting_tokens": self.waiting_tokens,
            "lanes": [
                self._lane_state(name, lane, now)
                for name, lane in self.lanes.items()
                if lane.budgets.known or any(lane.waiting)
            ],
        }

    def _float_state(self, name: str, held: Float) -> list[Any]:
        """Name, admissions held, tokens each, and the lane's totals without them."""
        lane = self._lane_budgets(name)
        return [name, held.count, held.tokens, lane.total_requests, lane.total_tokens]

    def _share(self, member: Member) -> float:
        """The member's part of what was granted lately."""
        total = sum(each.granted for each in self.members.values())
        equal = 1 / len(self.members)
        if total <= 0:
            return equal
        return (1 - EQUAL_PART) * member.granted / total + EQUAL_PART * equal

    @staticmethod
    def _lane_state(name: str, scope: "GroupLaneScope", now: int) -> list[Any]:
        """Name, known, requests (limit, level, ns per unit), tokens (the same), pause in ns, pace,
        and what waits by class, with its tokens."""
        lane = scope.budgets
        quotas = [
            [-1, 0, 0] if bucket is None else [bucket.burst, bucket.level(now), bucket.period]
            for bucket in (lane.requests, lane.tokens)
        ]
        paced = lane.pace is not None and now < lane.paced_until
        pace = lane.pace.period if lane.pace is not None and paced else 0
        return [
            name, int(lane.known), *quotas, max(0, lane.paused_until - now), pace,
            scope.waiting[:], scope.waiting_tokens[:],
        ]  # fmt: skip


def _room(budgets: Budgets, part: int, held: Float) -> int:
    """How many admissions a member may hold of a set of budgets."""
    rooms = [MAX_FLOAT]
    if budgets.requests is not None:
        rooms.append(budgets.requests.burst // part)
    if budgets.tokens is not None:
        rooms.append(budgets.tokens.burst // (part * max(1, held.tokens)))
    if budgets.slots is not None:
        rooms.append(held.count + (budgets.slots - budgets.in_flight) // part)
    return min(rooms)
