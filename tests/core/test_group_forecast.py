"""Predicted waits in a group of three members, and the waits had."""

from random import Random
from typing import Any

import pytest

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.clients import Limits
from rustygate.core.group_forecast import GroupNewcomer, forecast
from rustygate.core.group_scheduler import MS, GroupScheduler
from rustygate.core.work import Work
from tests.admission.test_predicted_waits import SCENARIOS, Crowd, Scenario
from tests.support.group_calls import Member

CLASSES = {"interactive": 0, "default": 1, "batch": 2}


def limits_of(scenario: Scenario) -> list[int]:
    rate = scenario.settings.get("rate_limit", 10)
    tokens = scenario.settings.get("tokens_per_minute", -1)
    if rate is None:
        return [-1, -1, tokens, -1, -1]
    return [SECOND // rate, scenario.settings["rate_limit_burst"], tokens, -1, -1]


def clients_of(limits: dict[str, Limits]) -> list[list[Any]]:
    rows = []
    for name, each in limits.items():
        bucket = each.budgets().requests
        assert bucket is not None
        rows.append([name, 1.0, bucket.period, bucket.burst, -1, -1])
    return rows


class Group:
    """Three members, to which the requests of a scenario are spread."""

    def __init__(self, scenario: Scenario, random: Random) -> None:
        self.random, self.now, self.scheduler = random, 0, GroupScheduler()
        self.members = [Member(f"m{number}", limits_of(scenario)) for number in range(3)]
        self.clients = clients_of(scenario.limits)
        self.members[0].news = [
            ["learn", "m", kind, limit, 0, 0, -(-MINUTE // limit), 0]
            for kind, limit in enumerate(scenario.learned)
            if limit is not None
        ]
        requests = [each for crowd in scenario.crowds for each in crowd.requests(random)]
        random.shuffle(requests)
        for request in requests:
            self.arrive(random.choice(self.members), request)

    def arrive(self, member: Member, request: dict[str, Any]) -> None:
        member.arrive(self.now, key_of(request), request["tokens"])

    def sync(self, member: Member) -> dict[str, Any]:
        call = {**member.call(self.now), "clients": self.clients, "clients_version": 1}
        reply = member.deliver(self.scheduler, call, self.now)
        member.receive(reply, self.now)
        for admission in member.in_flight[:]:
            member.finish(admission)
        return reply

    def forecast(self, member: Member, request: dict[str, Any]) -> int:
        """From the member's last reply, and what it knows about its flow."""
        key = key_of(request)
        member.changed.add(key)
        reply = self.sync(member)
        own = [tokens for tokens, _ in member.queues.get(key, ())]
        others = [each[3:] for each in reply["flows"] if tuple(each[:3]) == key]
        items = len(own) + sum(each[0] for each in others)
        tokens = sum(own) + sum(each[1] for each in others)
        return forecast(reply, GroupNewcomer(key, 1.0, request["tokens"], items, tokens)).wait

    def wait_had(self, member: Member, request: dict[str, Any]) -> int:
        """Until one more request of the flow is admitted than wait now."""
        key, began = key_of(request), self.now
        self.now += 1
        self.arrive(member, request)
        size = sum(len(each.queues.get(key, ())) for each in self.members)
        before = sum(self.count(each, request) for each in self.members)
        while sum(self.count(each, request) for each in self.members) < before + size:
            self.now += 100 * MS
            for each in self.members:
                self.sync(each)
        instants = sorted(
            one.at for each in self.members for one in each.admitted if one.key == key
        )
        return instants[before + size - 1] - began

    @staticmethod
    def count(member: Member, request: dict[str, Any]) -> int:
        return sum(each.key == key_of(request) for each in member.admitted)


def key_of(request: dict[str, Any]) -> tuple[str, int, str]:
    return "m", CLASSES[request["priority"]], request["client"]


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_predicted_wait_in_a_group_is_within_thirty_percent(scenario: Scenario) -> None:
    for crowd in scenario.crowds:
        predicted, actual = predicted_and_actual(scenario, crowd, Random(1))
        assert predicted == pytest.approx(actual, rel=0.3, abs=SECOND)


def predicted_and_actual(scenario: Scenario, crowd: Crowd, random: Random) -> tuple[int, int]:
    group = Group(scenario, random)
    for member in group.members:
        group.sync(member)
    request = next(crowd.requests(random))
    member = group.random.choice(group.members)
    predicted = group.forecast(member, request)
    return predicted, group.wait_had(member, request)


def test_pause_and_pace_of_a_lane_are_predicted() -> None:
    group = GroupScheduler()
    member = Member("one", [-1, -1, -1, -1, -1])
    member.news = [["pause", "m", 5 * SECOND], ["pace", "m", 4 * SECOND]]
    for _ in range(3):
        member.arrive(0, ("m", 1, "a"))
    reply = group.sync(member.call(0), 0)
    newcomer = GroupNewcomer(("m", 1, "a"), 1.0, 0, 3, 0)
    assert forecast(reply, newcomer).wait == 12 * SECOND
    assert forecast(reply, newcomer._replace(at_front=True), SECOND).wait == 4 * SECOND


@pytest.mark.parametrize("limited", [False, True], ids=["gate", "client"])
def test_waiter_is_behind_those_before_it_in_its_flow_only(limited: bool) -> None:
    group = GroupScheduler()
    member = Member("one", [SECOND // 10 if not limited else 1, 1, -1, -1, -1])
    for _ in range(41):
        member.arrive(0, ("m", 1, "a"))
    clients = [["a", 1.0, SECOND // 10, 1, -1, -1]] if limited else []
    reply = group.sync({**member.call(0), "clients": clients, "clients_version": 1}, 0)
    waiting = reply["waiting"]
    for before in (0, 15, waiting):
        ahead = Work(0, before, 0)
        waiter = GroupNewcomer(("m", 1, "a"), 1.0, 0, waiting, 0, ahead=ahead)
        wait = forecast(reply, waiter).wait / SECOND
        assert wait == pytest.approx((before + 1) / 10, abs=0.11), before


def test_other_flows_of_equal_weight_get_as_much_as_the_newcomer() -> None:
    """Although the reply sums them up with the newcomer's own flow."""
    group = GroupScheduler()
    member = Member("one", [SECOND, 1, -1, -1, -1])
    for client, count in ("a", 9), ("b", 15):
        for _ in range(count):
            member.arrive(0, ("m", 1, client), 0)
    reply = group.sync(member.call(0), 0)
    [grant] = reply["grants"]
    assert grant[:3] == ["m", 1, "a"]
    predicted = forecast(reply, GroupNewcomer(("m", 1, "a"), 1.0, 0, 8, 0))
    assert predicted.ahead == pytest.approx(16, abs=1)


@pytest.mark.parametrize(("tokens", "waiting"), [(0, 3), (50, 3), (0, 0)])
def test_another_lane_that_is_short_counts_as_one_item(tokens: int, waiting: int) -> None:
    group = GroupScheduler()
    member = Member("one", [SECOND, 1, -1, -1, -1])
    member.news = [["pause", "x", 60 * SECOND]]
    for _ in range(waiting):
        member.arrive(0, ("x", 1, "a"), tokens)
    reply = group.sync(member.call(0), 0)
    assert reply["grants"] == []
    ahead = forecast(reply, GroupNewcomer(("m", 1, "b"), 1.0, 1)).ahead
    assert ahead == (1 if waiting else 0)
