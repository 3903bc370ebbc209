"""The scheduler of a group: it takes the demand of all members, and returns each one's grants.

Gates that share one quota report what waits in them, and one scheduler (`core.scheduler`) owns all
budgets and the fair order over all of it. A member calls `sync` with what has changed since its
last call, and gets its grants. In Redis the same function is a Lua script
(`admission/group/sync/`), with the same grants for the same calls; tests hold the two together.

A network can lose, delay or repeat messages:
- Grants stay in the member's *box* until it acknowledges the reply, and are sent again with each
  reply until then. A report that crossed them on the way still counts their items, so they are
  subtracted from it. A grant that its member collects later than `LATE` after its instant goes
  back, and its item waits again: grants that pile up must not be spent at once.
- A call with the number of the last one gets the same reply. One with a lower number comes too
  late, and is ignored.
- A server that fails over, or loads a file, may go back to an older state. A member that has the
  reply to a call that the state does not know shows that; then all is forgotten, and all members
  register again.
- A member that is silent for `DEMAND_LEASE` is not granted more until it calls again. After
  `BOX_LEASE` what it has not acknowledged goes back: it is *stale*, and must register again. After
  `SLOT_LEASE` its slots and float go back, too. So a member must not use what it was given when
  more than `BOX_LEASE` has passed since it sent the last call that was answered.

Members that cannot reach the scheduler go on alone, each with its share of the limits. When they
come back, one after the other, those that are still alone go on spending their shares, and hold
slots that are not counted here. So after a time without any call, the first member that was alone
makes the group wait: for `RETURN_LEASE` since the first call nothing is granted, and levels begin
at 0 at the end of it. Within this time the others have come back, too.

If the state was lost and no member was alone, the others may still use grants that were made
ahead and that no member reports. So the levels that a returning member reports are taken as of
the latest instant for which there may be such a grant.

Grants reach `HORIZON` ahead, each with the instant that it was charged at, so that a round trip
costs no quota; further in a large group, whose members call less often (`core.group_load`). While
nobody waits anywhere, a member may hold a *float*: admissions that are charged in advance, so that
a request need not wait for a round trip. A bucket's level is at most its capacity less the float,
so that a float does not make bursts larger. A member keeps a float until it says otherwise, so
that it can use it while a call is on its way.

Time is in nanoseconds since the group's epoch, and all numbers are integers below 2**53 or floats:
a Lua number holds both exactly.
"""

from collections import Counter, deque
from math import inf
from typing import Any

from rustygate.core import group_clients, group_floats, group_load, group_news
from rustygate.core.bucket import SECOND
from rustygate.core.group_call import check
from rustygate.core.group_demand import Demand, FlowKey
from rustygate.core.group_reply import client_states, lane_states, leads, quotas, shared_flows
from rustygate.core.group_state import MAX_FLOWS, GroupState, Member

MS = SECOND // 1000

# The most nanoseconds per unit: 13 days.
MAX_PERIOD = 2**50

HORIZON = 25 * MS
LATE = 50 * MS
DEMAND_LEASE = 200 * MS
BOX_LEASE = SECOND
SLOT_LEASE = 1500 * MS

# Members call more often than this, and those that are alone come back within this time.
SILENCE = SECOND
RETURN_LEASE = 250 * MS

# A member's share is its part of what was granted lately: each grant counts half as much after
# this time. This part of the shares is divided equally: a member without demand gets some, too.
HALF_LIFE = 10 * SECOND
EQUAL_PART = 1 / 11


class GroupScheduler(GroupState):
    """The state of a group, and `sync`."""

    def sync(self, call: dict[str, Any], clock: int) -> dict[str, Any]:
        """One call of a member; `core.group_call` describes it. Raises `CallError`.

        Args:
            clock: the time since the group's epoch.

        Returns:
            `stale`: 1, and nothing else, if the member must register; `ignored`: 1, and nothing
            else, for a call that a later one has overtaken; `left`: 1 after it left. Otherwise:

            `grants`: lane, class, client, tokens, ns from now until it may be used, its mark
            (requests, tokens), and the version of the clients' limits. `floats`, all that it
            holds: lane, admissions, tokens each, and the lane's totals: the mark of the n-th
            admission from it is n requests more. `next`: ns until another call can bring a grant,
            if nothing changes before; -1 if none can. `spacing`: ns between its calls while it has
            waiters. `waiting`, `waiting_by_class`, `waiting_tokens`: what waits in the group.
            `members`, `share`: how many there are, and this one's part of what was granted lately.
            `limits`: the gate's own, those in force. `levels`: what is left of its requests and
            tokens; -1 for no limit. `clients_version`. `refused`: flows (lane, class, client) of
            the call that are too many for a group; to be reported again. `quotas`, `leads`,
            `lanes`, `clients` and `flows`: see `core.group_reply`.
        """
        check(call)
        if self._has_lost_calls(call):
            self.__init__()  # type: ignore[misc]
        now = self._advance(clock, call["elapsed"])
        self._end_leases(now)
        self._age_shares(now)
        member = self.members.get(call["member"])
        if member is not None and (member.lapsed or _registers_again(call, member)):
            self._expel(member, now)
            member = None
        if member is None:
            if call["known"]:
                return {"stale": 1}
            member = self._register(call, now)
        elif call["seq"] < member.seq:
            return {"ignored": 1}
        elif call["seq"] == member.seq:
            member.seen = now
            return member.reply
        member.seen, member.seq = now, call["seq"]
        return self._serve(member, call, now)

    def _serve(self, member: Member, call: dict[str, Any], now: int) -> dict[str, Any]:
        self._acknowledge(member, call["ack"])
        self._take_back_late(member, now)
        group_clients.update(self, call, now)
        for event in call["news"]:
            group_news.apply(self, member, event, now)
        refused = self._update_demand(member, call["demand"], now)
        keep = {name for name, *_ in call["float"]}
        group_floats.return_all(self, member, now, keep)
        if call.get("leave"):
            self._expel(member, now)
            self.forget_lanes()
            return {"left": 1}
        members = self.members.values()
        member.load = group_load.load(members)
        horizon = group_load.horizon(members)
        may_grant = now + HORIZON >= self.begins_at
        if may_grant:
            self.dispatch(now, horizon)
        grants = self._collect(member, now)
        if may_grant and not self.waiting:
            group_floats.lend(self, member, call["float"], now)
        reported = [(lane, index, client) for lane, index, client, *_ in call["demand"]]
        next_in = self._next_in(now, horizon)
        member.reply = self._reply(member, grants, next_in, refused, reported, now)
        self.forget_lanes()
        return member.reply

    def _has_lost_calls(self, call: dict[str, Any]) -> bool:
        """Whether the state is older than a reply that the caller has."""
        member = self.members.get(call["member"])
        return member is not None and bool(call["ack"] > member.seq)

    # Time and leases.

    def _advance(self, clock: int, elapsed: int) -> int:
        """The group's time. It stands still when the clock jumps back, and does not follow a jump
        ahead of more than a second beyond what the caller has seen pass."""
        now = clock + self.offset
        is_resumed = not self.members or now - self.now > SILENCE
        if self.members:
            latest = self.now + elapsed + SECOND
            if now < self.now:
                self.offset += self.now - now
                now = self.now
            elif now > latest:
                self.offset -= now - latest
                now = latest
        self.now = now
        if is_resumed:
            self.resumed_at = now
        return now

    def _end_leases(self, now: int) -> None:
        for member in self.in_order():
            silent = now - member.seen
            if silent > SLOT_LEASE:
                self._expel(member, now)
                continue
            if silent > DEMAND_LEASE and member.lent:
                self.withdraw(member)
            if silent > BOX_LEASE and member.box:
                self.empty_box(member)
                member.lapsed = True

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
            self.withdraw(member)
        self.empty_box(member)
        group_floats.return_all(self, member, now, keep=set())
        self.free_all_slots(member)
        del self.members[member.name]
        self.set_limits(now)

    def _register(self, call: dict[str, Any], now: int) -> Member:
        """A new member, or one that comes back: it says what it holds, and what is left of the
        budgets as far as it knows. In a group that begins, that is the level; in one that runs,
        levels only fall: what it admitted alone was not counted here."""
        before = self.members.get(call.get("replaces") or "")
        if before is not None:
            self._expel(before, now)
        member = self.members[call["member"]] = Member(call["member"], call["limits"][:], now)
        if member.limits[0] < 0:
            member.limits[1] = -1
        self.set_limits(now)
        self._lower_levels(call, now)
        # First: what the member has in flight counts for clients that only its own file knows.
        group_clients.update(self, call, now)
        member.own_slots, lanes, clients = call["slots"]
        self.own.in_flight += member.own_slots
        for name, slots in lanes:
            member.lane_slots[name] = slots
            self.lane(name).budgets.in_flight += slots
            self.touch(self.lanes[name])
        for name, slots in clients:
            if name in self.clients:
                member.client_slots[name] = slots
                self.clients[name].budgets.in_flight += slots
                self.touch(self.clients[name])
        return member

    def _lower_levels(self, call: dict[str, Any], now: int) -> None:
        ends_at = self.resumed_at + RETURN_LEASE
        at = max(now, min(self.resumed_at + (call.get("ahead") or 0), ends_at))
        if call.get("alone") and now < ends_at:
            at = self.begins_at = ends_at
        buckets = self.own.requests, self.own.tokens
        for bucket, level in zip(buckets, call["levels"], strict=True):
            if bucket is not None and 0 <= level < bucket.level(at):
                bucket.fill_to(at, level)

    # Demand and grants.

    def _update_demand(self, member: Member, demand: list[list[Any]], now: int) -> list[list[Any]]:
        """Adopt what a member reports, less what it was granted meanwhile. Returns the flows that
        are too many."""
        granted = Counter(boxed.key for boxed in member.box)
        flows = sum(len(each.demands) for each in self.members.values())
        changed, refused = [], []
        for lane, index, client, weight, sizes, rest, rest_tokens, age in demand:
            key = (lane, index, client)
            reported = Demand(deque(sizes), rest, rest_tokens, now - age, weight)
            for _ in range(min(granted[key], reported.count)):
                reported.take(reported.since)
            if reported.count and key not in member.demands and flows >= MAX_FLOWS:
                refused.append([lane, index, client])
                continue
            flows -= key in member.demands
            member.demands.pop(key, None)
            if reported.count:
                member.demands[key] = reported
                flows += 1
            changed.append(key)
        if not member.lent:
            member.lent = True
            changed = sorted(member.demands)
        self.place(member, changed)
        return refused

    def _take_back_late(self, member: Member, now: int) -> None:
        """What a member has not received in time waits again."""
        late = [boxed for boxed in member.box if boxed.at < now - LATE]
        member.box = [boxed for boxed in member.box if boxed.at >= now - LATE]
        for boxed in reversed(late):
            self.take_back(member, boxed)
            self.put_back(member, boxed, now)
        self.place(member, sorted({boxed.key for boxed in late}))

    def _collect(self, member: Member, now: int) -> list[list[Any]]:
        """The grants that a member has not got yet."""
        member.box = [boxed._replace(seq=member.seq) for boxed in member.box]
        return [
            [*boxed.key, boxed.tokens, max(0, boxed.at - now), *boxed[4:]] for boxed in member.box
        ]

    def _acknowledge(self, member: Member, ack: int) -> None:
        member.box = [boxed for boxed in member.box if not 0 < boxed.seq <= ack]

    # The reply.

    def _reply(
        self,
        member: Member,
        grants: list[list[Any]],
        next_in: int,
        refused: list[list[Any]],
        reported: list[FlowKey],
        now: int,
    ) -> dict[str, Any]:
        return {
            "grants": grants,
            "floats": [self._float_state(member, name) for name in sorted(member.floats)],
            "next": next_in,
            "spacing": group_load.spacing(member.load),
            "waiting": self.waiting,
            "members": len(self.members),
            "share": self._share(member),
            "limits": self.limits[:],
            "levels": [
                -1 if bucket is None else max(0, bucket.level(now))
                for bucket in (self.own.requests, self.own.tokens)
            ],
            "waiting_by_class": self.waiting_by_class[:],
            "waiting_tokens": self.waiting_tokens,
            "clients_version": self.clients_version,
            "refused": refused,
            "quotas": quotas(self.own, now),
            "leads": leads(self.order),
            "lanes": lane_states(self, member, reported, now),
            "clients": client_states(self, reported, now),
            "flows": shared_flows(self, member, reported),
        }

    def _next_in(self, now: int, horizon: int) -> int:
        """When the next call can bring a grant."""
        if self.waiting and now + HORIZON < self.begins_at:
            return self.begins_at - HORIZON - now
        return -1 if self.next_at == inf else max(0, int(self.next_at) - horizon - now)

    def _float_state(self, member: Member, name: str) -> list[Any]:
        """Name, admissions held, tokens each, and the lane's totals without them."""
        held, lane = member.floats[name], self.lane(name).budgets
        return [name, held.count, held.tokens, lane.total_requests, lane.total_tokens]

    def _share(self, member: Member) -> float:
        """The member's part of what was granted lately."""
        total = 0.0
        for each in self.in_order():
            total += each.granted
        equal = 1 / len(self.members)
        if total <= 0:
            return equal
        return (1 - EQUAL_PART) * member.granted / total + EQUAL_PART * equal


def _registers_again(call: dict[str, Any], member: Member) -> bool:
    return not call["known"] and call["seq"] > member.seq
