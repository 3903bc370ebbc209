"""What a member reports about its waiters, with passed-in time."""

from collections import Counter
from typing import Any

import pytest

from rustygate.admission.group.demand import REFRESH_INTERVAL, REFRESHED, Demand
from rustygate.admission.waiter import ClientQueue, LaneQueue, Waiter
from rustygate.core.budgets import Budgets
from rustygate.core.group_call import MAX_TOKENS, SIZES_REPORTED
from rustygate.core.group_demand import FlowKey
from rustygate.core.group_state import MAX_FLOWS_REPORTED
from rustygate.core.lane import Lane
from rustygate.core.scheduler import Scheduler
from rustygate.exchange import Exchange

DEFAULT_CLASS = 1


class Member:
    """The waiters of a member, which all want the same model."""

    def __init__(self) -> None:
        self.scheduler: Scheduler[Waiter] = Scheduler(Budgets())
        self.lane = LaneQueue("m", Lane())
        self.demand = Demand()

    def wait(
        self, client: str, tokens: int = 0, at: int = 0, scope: ClientQueue | None = None
    ) -> Waiter:
        """A request of a client begins to wait."""
        waiter = Waiter(Exchange(client, "POST", "/v1/x", tokens=tokens), self.lane, scope)
        waiter.since = at
        waiter.flow = self.scheduler.flow(self.lane, "default", client, 2.5, scope)
        self.scheduler.push(waiter.flow, waiter, tokens)
        self.demand.add(waiter.flow)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """A request waits no longer."""
        assert waiter.flow is not None
        self.scheduler.remove(waiter.flow, waiter)

    def report(self, now: int = 0, **granted: int) -> list[list[Any]]:
        """The report, and how many waiters of each client have a grant."""
        return self.demand.report(Counter({key(name): n for name, n in granted.items()}), now)


def key(client: str) -> FlowKey:
    return "m", DEFAULT_CLASS, client


def test_flow_is_reported_with_its_first_sizes_and_the_rest_as_a_sum() -> None:
    member = Member()
    for number in range(SIZES_REPORTED + 3):
        member.wait("a", number + 1, at=100 + number)
    first = list(range(1, SIZES_REPORTED + 1))
    assert member.report(150) == [["m", DEFAULT_CLASS, "a", 2.5, first, 3, 9 + 10 + 11, 50]]
    assert member.demand.new == [key("a")]
    assert member.report(150) == []
    assert member.demand.new == []


def test_waiters_with_a_grant_are_not_reported() -> None:
    member = Member()
    for number in range(SIZES_REPORTED + 3):
        member.wait("a", number + 1, at=100 + number)
    second = list(range(3, SIZES_REPORTED + 3))
    assert member.report(150, a=2) == [["m", DEFAULT_CLASS, "a", 2.5, second, 1, 11, 48]]
    member.demand.change(key("a"))
    [report] = member.report(150, a=SIZES_REPORTED + 3)
    assert report == ["m", DEFAULT_CLASS, "a", 2.5, [], 0, 0, 0]


def test_age_of_a_waiter_is_never_negative() -> None:
    member = Member()
    member.wait("a", at=100)
    assert member.report(99)[0][-1] == 0


def test_sizes_are_limited_to_what_the_group_accepts() -> None:
    member = Member()
    for _ in range(SIZES_REPORTED + 2):
        member.wait("a", MAX_TOKENS + 7)
    [report] = member.report()
    assert report[4:7] == [[MAX_TOKENS] * SIZES_REPORTED, 2, 2 * MAX_TOKENS]


def test_flow_without_waiters_is_reported_once() -> None:
    member = Member()
    waiter = member.wait("a")
    member.report()
    member.leave(waiter)
    member.demand.change(key("a"))
    assert member.report() == [["m", DEFAULT_CLASS, "a", 1.0, [], 0, 0, 0]]
    assert repr(member.demand) == "<Demand of 0 flows, 0 changed>"
    assert member.report(REFRESH_INTERVAL) == []
    member.wait("a")
    member.report()
    assert member.demand.new == [key("a")]


@pytest.mark.parametrize("is_last", [True, False])
def test_flow_whose_last_waiter_was_admitted_is_forgotten(is_last: bool) -> None:
    member = Member()
    first = member.wait("a")
    if not is_last:
        member.wait("a")
    assert first.flow is not None
    member.demand.on_left(key("a"), first.flow)
    member.report()
    member.leave(first)
    member.demand.on_left(key("a"), first.flow)
    member.demand.on_left(key("b"), first.flow)
    flows = 0 if is_last else 1
    assert repr(member.demand) == f"<Demand of {flows} flows, 0 changed>"
    assert len(member.report(REFRESH_INTERVAL)) == flows


def test_flow_that_changed_is_not_forgotten_before_it_is_reported() -> None:
    member = Member()
    waiter = member.wait("a")
    assert waiter.flow is not None
    member.leave(waiter)
    member.demand.on_left(key("a"), waiter.flow)
    assert [flow[2] for flow in member.report()] == ["a"]


def test_a_few_flows_are_reported_again_after_a_while() -> None:
    member = Member()
    names = "abcdef"
    for name in names:
        member.wait(name)
    member.report(0)
    assert member.report(REFRESH_INTERVAL - 1) == []
    again = [report[2] for report in member.report(REFRESH_INTERVAL)]
    assert again == list(names[:REFRESHED])
    assert [report[2] for report in member.report(REFRESH_INTERVAL)] == list(names[REFRESHED:])
    assert member.report(REFRESH_INTERVAL) == []
    assert member.demand.new == []


def test_report_has_a_limit_and_the_next_one_continues() -> None:
    member = Member()
    for number in range(MAX_FLOWS_REPORTED + 1):
        member.wait(str(number))
    assert len(member.report()) == MAX_FLOWS_REPORTED
    assert [report[2] for report in member.report()] == [str(MAX_FLOWS_REPORTED)]


def test_group_that_knows_nothing_gets_everything() -> None:
    member = Member()
    for name in "ab":
        member.wait(name)
    gone = member.wait("c")
    member.report()
    member.leave(gone)
    member.demand.change(key("c"))
    member.demand.restart(member.scheduler)
    assert sorted(report[2] for report in member.report()) == ["a", "b"]
    assert sorted(member.demand.new) == [key("a"), key("b")]
    member.demand.change_all()
    assert sorted(report[2] for report in member.report()) == ["a", "b"]


def test_waiters_from_before_a_client_got_limits_come_first() -> None:
    member = Member()
    before = [member.wait("a", 1), member.wait("a", 2)]
    after = member.wait("a", 3, scope=ClientQueue("a"))
    assert member.demand.waiters(key("a")) == [*before, after]
    assert member.report()[0][4:7] == [[1, 2, 3], 0, 0]
    assert member.demand.first(key("a")) == (before[0].flow, before[0])
    for waiter in before:
        member.leave(waiter)
    assert member.demand.first(key("a")) == (after.flow, after)
    assert member.demand.first(key("b")) is None
    # The empty flow is forgotten with the next waiter.
    another = member.wait("a", 4, scope=after.client)
    assert member.demand.waiters(key("a")) == [after, another]
    assert member.report()[0][4:7] == [[3, 4], 0, 0]
