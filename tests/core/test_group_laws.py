"""The laws of a group under any sequence of events, lost messages and deaths: no unit is lost or
created, and no window holds more than the burst and the rate allow."""

from collections.abc import Iterable
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rustygate.core import group_state as state
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.group_demand import FlowKey
from rustygate.core.group_scheduler import MS, SLOT_LEASE, GroupScheduler
from tests.support.group_calls import Admitted, Member

PERIOD, BURST = 50 * MS, 6
TOKENS_PER_MINUTE = 6000
LIMITS = [PERIOD, BURST, TOKENS_PER_MINUTE, 9, -1]
# This client has limits of its own.
LIMITED, CLIENT_PERIOD, CLIENT_BURST = "limited", 150 * MS, 2
CLIENTS: list[list[Any]] = [[LIMITED, 1.0, CLIENT_PERIOD, CLIENT_BURST, -1, 4]]
KEYS: list[FlowKey] = [
    (lane, index, client)
    for lane in ("m", "n")
    for index in (0, 1, 2)
    for client in ("a", "b", LIMITED)
]
NAMES = ("x", "y", "z")


def excess(admitted: Iterable[Admitted], bucket: TokenBucket, *, in_tokens: bool = False) -> int:
    """By how many units, at most, a window holds more than a bucket allows."""
    most = 0
    for each in sorted(admitted, key=lambda one: one.at):
        cost = min(each.tokens, bucket.burst) if in_tokens else 1
        most = max(most, -(-bucket.wait(each.at, cost) // bucket.period))
        bucket.take(each.at, cost)
    return most


class CountingScheduler(GroupScheduler):
    """Counts the grants that it takes back."""

    taken_back = 0

    def take_back(self, member: state.Member, boxed: state.Boxed) -> None:
        self.taken_back += 1
        super().take_back(member, boxed)


class Group(RuleBasedStateMachine):
    """Three members, whose calls and replies can be lost, and which can die at any point."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.group = CountingScheduler()
        self.members = {name: Member(name, LIMITS) for name in NAMES}
        self.dead: list[Admitted] = []
        self.deaths = 0

    @property
    def admitted(self) -> list[Admitted]:
        """What was admitted, as far as the group can know."""
        return self.dead + [each for member in self.members.values() for each in member.admitted]

    def call(self, member: Member, *, wanted: int = 0) -> dict[str, Any]:
        floats = [[lane, wanted, 10] for lane in ("m", "n")] if wanted else []
        call = member.call(self.now, floats)
        return {**call, "clients": CLIENTS, "clients_version": 1}

    @rule(key=st.sampled_from(KEYS), name=st.sampled_from(NAMES), count=st.integers(1, 12))
    def arrive(self, key: FlowKey, name: str, count: int) -> None:
        member = self.members[name]
        for number in range(count):
            may_use_float = not member.waiting and key[2] != LIMITED and member.pending is None
            if not (may_use_float and member.use_float(self.now, key)):
                member.arrive(self.now, key, 5 * number)

    @rule(key=st.sampled_from(KEYS), name=st.sampled_from(NAMES))
    def leave(self, key: FlowKey, name: str) -> None:
        self.members[name].leave(key)

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 9))
    def finish(self, name: str, count: int) -> None:
        member = self.members[name]
        for admission in member.in_flight[:count]:
            member.finish(admission)

    @rule(name=st.sampled_from(NAMES), wanted=st.integers(0, 3))
    def sync(self, name: str, wanted: int) -> None:
        member = self.members[name]
        call = self.call(member, wanted=wanted)
        member.receive(member.deliver(self.group, call, self.now), self.now)

    @rule(name=st.sampled_from(NAMES), times=st.integers(0, 2))
    def lose(self, name: str, times: int) -> None:
        """A call gets lost, or its reply does; the next one repeats it."""
        call = self.call(self.members[name])
        for _ in range(times):
            self.members[name].deliver(self.group, call, self.now)

    @precondition(lambda self: self.deaths < 3)
    @rule(name=st.sampled_from(NAMES))
    def die(self, name: str) -> None:
        """A member dies, and another one starts. What it got with its last reply, and has not
        acknowledged, was used without the group's knowledge."""
        self.deaths += 1
        dead = self.members[name]
        known = self.group.members.get(f"{name}{dead.births}")
        unacknowledged = len(known.box) if known is not None and known.seq == dead.ack else 0
        granted = [each for each in dead.admitted if each.granted]
        lost = granted[len(granted) - unacknowledged :]
        self.dead += [each for each in dead.admitted if each not in lost]
        for name_used in [each for each in dead.admitted if each.unreported]:
            self.dead.remove(name_used)
        self.members[name] = Member(f"{name}'{self.deaths}", LIMITS)

    @rule(elapsed=st.sampled_from([1, 5 * MS, 20 * MS, 60 * MS, 210 * MS, SECOND, 2 * SECOND]))
    def advance(self, elapsed: int) -> None:
        self.now += elapsed

    @invariant()
    def windows_hold(self) -> None:
        """What goes back after others were admitted from a bucket that was full leaves up to one
        unit too much: the time in which the bucket would have stayed full counts as refill."""
        admitted = self.admitted
        given_back = self.group.taken_back
        given_back += sum(member.given_back for member in self.members.values())
        assert excess(admitted, TokenBucket(PERIOD, BURST)) <= given_back
        limited = [each for each in admitted if each.key[2] == LIMITED]
        assert excess(limited, TokenBucket(CLIENT_PERIOD, CLIENT_BURST)) <= given_back
        tokens = TokenBucket.per_minute(TOKENS_PER_MINUTE)
        assert excess(admitted, tokens, in_tokens=True) <= given_back * TOKENS_PER_MINUTE

    @invariant()
    def counts_agree(self) -> None:
        group = self.group
        flows = [flow for lane in group.lanes.values() for each in lane.busy for flow in each]
        assert group.waiting == sum(flow.count for flow in flows)
        assert group.waiting == sum(map(sum, (lane.waiting for lane in group.lanes.values())))
        lent = [member for member in group.members.values() if member.lent]
        demands = [demand for member in lent for demand in member.demands.values()]
        assert group.waiting == sum(demand.count for demand in demands)
        assert group.waiting_tokens == sum(demand.tokens for demand in demands)
        held = sum(one.count for each in group.members.values() for one in each.floats.values())
        assert group.own.held == held
        slots = sum(member.own_slots for member in group.members.values())
        assert group.own.in_flight == slots + held
        for lane in group.lanes.values():
            for index, depths in enumerate(lane.depths):
                sums = [sum(each[part] for each in depths.values()) for part in (1, 2)]
                assert sums == [lane.waiting[index], lane.waiting_tokens[index]]

    def teardown(self) -> None:
        """Everything is served or leaves, and all units are given back."""
        for _ in range(3):
            self.now += 10 * MS
            for name in NAMES:
                self.sync(name, 0)
        for _ in range(400):
            if not any(member.waiting for member in self.members.values()):
                break
            self.now += 100 * MS
            for name in NAMES:
                self.finish(name, 1000)
                self.sync(name, 0)
            self.windows_hold()
        assert not any(member.waiting for member in self.members.values())
        self.now += SLOT_LEASE // 2
        for _ in range(3):
            for name in NAMES:
                self.finish(name, 1000)
                self.sync(name, 0)
        self.now += SLOT_LEASE
        self.finished()

    def finished(self) -> None:
        group = self.group
        for name in NAMES:
            self.sync(name, 0)
            self.sync(name, 0)
        assert (group.waiting, group.own.in_flight, group.own.held) == (0, 0, 0)
        assert group.lanes == {}
        assert all(not scope.budgets.in_flight for scope in group.clients.values())
        far = self.now + 1000 * SECOND
        assert group.own.requests is not None
        assert group.own.tokens is not None
        assert group.own.requests.level(far) == BURST
        assert group.own.tokens.level(far) == TOKENS_PER_MINUTE
        assert group.own.requests.full_at <= self.now + BURST * PERIOD


TestGroup = Group.TestCase
TestGroup.settings = hypothesis_settings(max_examples=50, stateful_step_count=30)
