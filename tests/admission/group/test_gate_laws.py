"""The gate's laws under any sequence of events, for three gates that share their quota."""

import asyncio
from itertools import count
from typing import cast

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import invariant

from rustygate.admission.gate import Gate
from rustygate.admission.group import member
from rustygate.admission.group.dispatcher import GroupDispatcher
from rustygate.admission.group.pacing import HEARTBEAT
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.budgets import Budgets
from rustygate.core.group_scheduler import GroupScheduler
from tests.admission.test_gate_laws import GateMachine, Request
from tests.support.harness import Gates, run_ready_tasks

# Until then all gates have told the group what happened, and have got its grants.
REST_S = HEARTBEAT / SECOND + 0.01


def pending_grants(gate: Gate) -> int:
    """The grants whose instants are still to come."""
    assert isinstance(gate.dispatcher, GroupDispatcher)
    return len(gate.dispatcher.grants)


class CountingScheduler(GroupScheduler):
    """Counts the admissions that go back."""

    given_back = 0

    def give_back(self, lane: str, client: str, tokens: int, version: int) -> None:
        self.given_back += 1
        super().give_back(lane, client, tokens, version)


class GroupMachine(GateMachine):
    """Requests come to three gates in turn, which look like one."""

    def make_gate(self, settings: Settings) -> Gate:
        names = count(1)
        with pytest.MonkeyPatch.context() as patch:
            # Members call at moments that depend on their names. Each example can be repeated.
            patch.setattr(member, "token_hex", lambda size: f"member {next(names)}")
            self.gates = Gates(settings, 3)
        self.counting = self.gates.group.scheduler = CountingScheduler()
        return cast(Gate, self.gates)

    async def rest(self) -> None:
        await run_ready_tasks()
        await asyncio.sleep(REST_S)

    @property
    def group(self) -> GroupScheduler:
        return self.gates.group.scheduler

    def waiting(self) -> list[Request]:
        return [request for request in self.requests if request.waits]

    def in_flight(self) -> list[Request]:
        return [request for request in self.requests if request.in_flight]

    @invariant()
    def counts_match_the_requests(self) -> None:
        waiting, in_flight = self.waiting(), self.in_flight()
        assert self.gate.snapshot() == {"waiters": len(waiting), "in_flight": len(in_flight)}
        group = self.group
        # Grants reach ahead.
        granted = sum(len(member.box) for member in group.members.values())
        granted += sum(map(pending_grants, self.gates.gates))
        assert len(waiting) - granted <= group.waiting <= len(waiting)
        in_group = group.own.in_flight - group.own.held
        assert len(in_flight) <= in_group <= len(in_flight) + granted
        for name, lane in group.lanes.items():
            queued = [each for each in waiting if (each.exchange.model or "") == name]
            assert sum(lane.waiting) <= len(queued)
        for name, client in group.clients.items():
            held = [each for each in in_flight if each.exchange.client == name]
            assert client.budgets.in_flight <= len(held) + granted

    @invariant()
    def own_buckets_match_the_ledger(self) -> None:
        """The group's own buckets, floats included, hold no more than the second account, but for
        what a full bucket seems to refill while a unit that goes back is on its way."""
        now, group = self.gate.now(), self.group
        requests, expected = group.own.requests, self.ledger.budgets.requests
        if requests is not None and expected is not None:
            level = requests.level(now - self.gates.began) + group.own.held
            assert level <= expected.level(now) + 1 + self.counting.given_back

    @invariant()
    def lanes_owe_at_most_one_capacity(self) -> None:
        """What members hold in advance is not owed."""
        now = self.gate.now() - self.gates.began
        for lane in self.group.lanes.values():
            for bucket in (lane.budgets.requests, lane.budgets.tokens):
                assert bucket is None or bucket.level(now) + bucket.held >= -bucket.burst

    @invariant()
    def no_request_waits_without_a_reason(self) -> None:
        waiting = set(self.waiting())
        blocked = {each for each in waiting if self.exceeds(self.group.own, each)}
        if blocked:
            return
        blocked = {each for each in waiting if self.exceeds_a_scope(each)}
        while True:
            shared = {scope for each in blocked for scope in self.names(each)}
            more = {each for each in waiting - blocked if shared.intersection(self.names(each))}
            if not more:
                break
            blocked |= more
        assert waiting == blocked

    def may_precede(self, one: Request, other: Request) -> bool:
        """A grant that is on its way does not stop a newcomer from using the float."""
        return super().may_precede(one, other) or one.granted_at == other.granted_at

    def names(self, request: Request) -> set[tuple[str, str]]:
        """The lane of a request, and its client if that has limits."""
        exchange = request.exchange
        names = {("lane", exchange.model or "")}
        if exchange.client in self.group.clients:
            names.add(("client", exchange.client))
        return names

    def exceeds(self, budgets: Budgets, request: Request) -> bool:
        now = self.gate.now() - self.gates.began
        return budgets.wait(now, request.exchange.tokens) != 0

    def exceeds_a_scope(self, request: Request) -> bool:
        lane = self.group.lanes.get(request.exchange.model or "")
        client = self.group.clients.get(request.exchange.client)
        return any(
            scope is not None and self.exceeds(scope.budgets, request) for scope in (lane, client)
        )


TestGroupMachine = GroupMachine.TestCase
TestGroupMachine.settings = hypothesis_settings(
    max_examples=20, stateful_step_count=25, deadline=None
)
