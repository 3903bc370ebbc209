"""What a group's lane learns from responses: levels, and debts as those of a single gate."""

from typing import Any

import pytest

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.group_scheduler import MS, GroupScheduler
from tests.support.group_calls import Caller, demand

LIMITS = [SECOND // 1000, 1000, -1, -1, -1]


class Lane:
    """A lane with a limit of 60 units a minute, about which one member reports."""

    def __init__(self, admitted: int, tokens: int = 0, kind: int = 0) -> None:
        self.group, self.kind = GroupScheduler(), kind
        self.member = Caller(self.group, "one", LIMITS)
        news = [["charge", "m", "c", tokens], ["answer", "m"], ["release", "c"]] * admitted
        self.member.sync(0, news=[["known", "m"], *news])

    def learn(self, level: int, mark: int, age: int = 0, limit: int = 60, at: int = 0) -> None:
        event = ["learn", "m", self.kind, limit, level, mark, -(-MINUTE // limit), age]
        self.member.sync(at, news=[event])

    @property
    def bucket(self) -> Any:
        budgets = self.group.lanes["m"].budgets
        return (budgets.requests, budgets.tokens)[self.kind]

    def level(self, at: int = 0) -> int:
        level = self.bucket.level(at)
        assert isinstance(level, int)
        return level


@pytest.mark.parametrize(
    ("age", "left"),
    [(0, 0), (SECOND - 1, 0), (4 * SECOND, -4), (10 * SECOND, -10), (11 * SECOND, 0)],
)
@pytest.mark.parametrize("kind", [0, 1], ids=["requests", "tokens"])
def test_what_upstream_must_have_refused_is_not_owed(kind: int, age: int, left: int) -> None:
    """Since the request of the response, it had no more than the level and what refilled."""
    lane = Lane(500, tokens=kind, kind=kind)
    lane.learn(10, 1, age)
    assert lane.level() == left


def test_what_was_admitted_since_is_owed_up_to_what_refilled() -> None:
    lane = Lane(15)
    lane.learn(10, 2, 5 * SECOND)
    assert lane.level() == 10 - 13


def test_level_in_a_late_response_is_credited_with_the_refill_and_only_lowers() -> None:
    lane = Lane(20)
    lane.learn(30, 18)
    assert lane.level() == 28
    lane.learn(30, 19, 20 * SECOND)
    assert lane.level() == 28
    lane.learn(4, 20, 20 * SECOND)
    assert lane.level() == 24


def test_late_response_at_one_member_changes_nothing_that_others_know() -> None:
    lane = Lane(500)
    lane.learn(40, 500)
    lane.learn(5, 1, 60 * SECOND, limit=600)
    assert (lane.level(), lane.bucket.burst) == (40, 60)


@pytest.mark.parametrize("kind", [0, 1], ids=["requests", "tokens"])
def test_what_was_granted_ahead_is_owed(kind: int) -> None:
    """Upstream has room for it when it is due, even if nothing was left before."""
    lane = Lane(10, tokens=kind, kind=kind)
    lane.learn(0, 10, limit=6000)
    reply = lane.member.sync(0, demand(9, tokens=kind))
    assert [grant[4] for grant in reply["grants"]] == [10 * MS, 20 * MS]
    lane.learn(0, 10, age=MS, limit=6000, at=MS)
    assert lane.level(MS) == -2
    [grant] = lane.member.sync(6 * MS)["grants"]
    assert grant[4] == 25 * MS


@pytest.mark.parametrize("kind", [0, 1], ids=["requests", "tokens"])
@pytest.mark.parametrize(
    ("left", "mark", "level"),
    [(60, 20, 60), (31, 20, 31), (30, 20, 25), (35, 15, 30), (36, 15, 31), (35, 14, 29)],
)
def test_unanswered_requests_count_where_little_is_left(
    kind: int, left: int, mark: int, level: int
) -> None:
    """Five of twenty: upstream may see them after a request that was admitted later."""
    lane = Lane(15, tokens=kind, kind=kind)
    lane.member.sync(0, news=[["charge", "m", "c", kind]] * 5)
    lane.learn(left, mark)
    assert lane.level() == level


def test_unanswered_requests_count_with_the_lanes_average_tokens() -> None:
    lane = Lane(15, tokens=9, kind=1)
    lane.member.sync(0, news=[["charge", "m", "c", 2]] * 5)
    lane.learn(200, 145, limit=600)
    assert lane.level() == 200 - 5 * (145 // 20)


@pytest.mark.parametrize(("age", "level_then"), [(SECOND // 2, 10), (SECOND // 2 + 1, 40)])
def test_older_response_counts_if_upstream_may_have_sent_it_later(
    age: int, level_then: int
) -> None:
    lane = Lane(20)
    lane.learn(40, 20)
    lane.learn(20, 10, age)
    assert lane.level() == level_then


def test_level_does_not_rise_by_a_request_that_upstream_may_have_seen_before() -> None:
    """A grant collected late has a lower mark than requests that were sent before it."""
    lane = Lane(20)
    lane.learn(30, 5, age=300 * MS)
    lane.learn(20, 4)
    assert lane.level() == 4
    lane.learn(40, 6, age=1 * MS)
    assert lane.level() == 4
    lane.learn(40, 7)
    assert lane.level() == 40 - 13


def test_older_response_leaves_no_debt() -> None:
    lane = Lane(500)
    lane.learn(40, 500, 400 * MS)
    lane.learn(20, 10, 900 * MS)
    assert lane.level() == 0


def test_part_of_a_quota_that_is_left_to_others_is_owed() -> None:
    lane = Lane(500)
    lane.learn(-5, 500)
    assert lane.level() == -5


def test_admissions_that_upstream_began_by_itself_are_owed_until_it_reports() -> None:
    lane = Lane(10)
    lane.learn(2, 10)
    lane.member.sync(0, news=[["charge", "m", "c", 0], ["answer", "m"]] * 100)
    assert lane.level() == -98
    lane.learn(1, 105, 6 * SECOND)
    assert lane.level() == -4


def test_debt_to_a_larger_limit_is_at_most_one_capacity_of_a_smaller_one() -> None:
    lane = Lane(0)
    lane.learn(5000, 0, limit=6000)
    lane.member.sync(0, news=[["charge", "m", "c", 0]] * 5500)
    assert lane.level() == -500
    lane.learn(600, 6000, limit=600)
    assert lane.level() == -500
    lane.learn(60, 6000, limit=60)
    assert lane.level() == -60


@pytest.mark.parametrize("is_known", [False, True])
def test_debt_that_a_member_brings_is_at_most_one_capacity(is_known: bool) -> None:
    lane = Lane(0)
    if is_known:
        lane.learn(30, 0)
    lane.member.sync(0, news=[["teach", "m", 0, 60, -20, SECOND]])
    assert lane.level() == -20
    lane.member.sync(0, news=[["teach", "m", 0, 60, -5000, SECOND]])
    assert lane.level() == -60


# Float that members hold when a limit becomes known.


def float_of(lane: Lane, count: int, used: int = 0, tokens: int = 0) -> None:
    """The member keeps this many admissions, and has used some."""
    news = [["float_used", "m", "c", tokens]] * used
    keep = [["m", count, tokens]] if count else []
    lane.member.sync(0, news=news, float=keep)


@pytest.mark.parametrize(
    ("used", "level", "level_then"), [(0, -30, 30), (40, -70, -10), (90, -70, -60), (95, -65, -60)]
)
def test_float_larger_than_a_learned_limit_is_owed_only_if_it_is_used(
    used: int, level: int, level_then: int
) -> None:
    """At most one capacity is held, and at most one is owed."""
    lane = Lane(0)
    float_of(lane, 100)
    event = ["learn", "m", 0, 60, 30, 0, SECOND, 0]
    lane.member.sync(0, news=[event], float=[["m", 100, 0]])
    assert lane.level() == -30
    float_of(lane, 100 - used, used)
    assert lane.level() == level
    float_of(lane, 0)
    assert lane.level() == level_then
    assert lane.level(30 * SECOND) == min(60, level_then + 30)


@pytest.mark.parametrize(("used", "level_then"), [(0, 1), (1, 0), (3, -1)])
def test_float_for_more_tokens_than_a_learned_limit_costs_one_capacity(
    used: int, level_then: int
) -> None:
    lane = Lane(0, kind=1)
    float_of(lane, 3, tokens=3)
    lane.member.sync(0, news=[["teach", "m", 1, 1, 1, MINUTE]], float=[["m", 3, 3]])
    assert lane.level() == 0
    float_of(lane, 0, used, tokens=3)
    assert lane.level() == level_then


def test_float_larger_than_a_limit_that_falls_is_no_debt() -> None:
    lane = Lane(0)
    lane.learn(600, 0, limit=600)
    float_of(lane, 100)
    keep = [["m", 100, 0]]
    lane.member.sync(0, news=[["learn", "m", 0, 60, 60, 0, SECOND, 0]], float=keep)
    assert lane.level() == 0
    float_of(lane, 0)
    assert lane.level() == 60
