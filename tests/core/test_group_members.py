"""What members of a group hold, report and leave behind, with passed-in time."""

from typing import Any

import pytest

from rustygate.core.bucket import SECOND
from rustygate.core.group_budgets import PACE_LEASE
from rustygate.core.group_scheduler import HALF_LIFE, MS, GroupScheduler


class Caller:
    """A member, with the limits of a gate: ten requests a second, burst 12."""

    def __init__(self, group: GroupScheduler, name: str, limits: list[int] | None = None) -> None:
        self.group, self.name, self.seq = group, name, 0
        self.limits = limits or [SECOND // 10, 12, -1, -1, -1]

    def sync(self, now: int, demand: int = 0, **fields: Any) -> dict[str, Any]:
        self.seq += 1
        call = {
            "member": self.name, "known": int(self.seq > 1), "seq": self.seq, "ack": self.seq - 1,
            "elapsed": 0, "limits": self.limits, "news": [], "float": [], "slots": [0, [], []],
            "levels": [-1, -1], "demand": [], **fields,
        }  # fmt: skip
        if demand:
            call["demand"] = [
                ["m", 1, self.name, 1.0, [0] * min(8, demand), max(0, demand - 8), 0, 0]
            ]
        return self.group.sync(call, now)


def level(group: GroupScheduler, now: int) -> int:
    assert group.budgets.requests is not None
    return group.budgets.requests.level(now)


def test_member_keeps_its_float_while_others_wait_until_it_gives_it_back() -> None:
    group = GroupScheduler()
    one, other = Caller(group, "one"), Caller(group, "other")
    assert one.sync(0, float=[["m", 6, 0]])["floats"] == [["m", 6, 0, 0, 0]]
    assert len(other.sync(1, demand=8)["grants"]) == 6
    reply = one.sync(2, float=[["m", 6, 0]])
    assert (reply["waiting"], reply["floats"]) == (2, [["m", 6, 0, 6, 0]])
    assert one.sync(3)["floats"] == []
    assert len(other.sync(4)["grants"]) == 2
    assert level(group, 4) == 4


def test_floats_of_all_lanes_together_are_at_most_half_the_capacity() -> None:
    group = GroupScheduler()
    floats = Caller(group, "one").sync(0, float=[["m", 4, 0], ["n", 4, 0], ["o", 4, 0]])["floats"]
    assert [count for _, count, *_ in floats] == [4, 2]


def test_float_counts_in_its_lane_when_it_is_used() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, float=[["m", 4, 5]])
    reply = one.sync(1, float=[["m", 4, 5]], news=[["float_used", "m", "c", 7]])
    assert reply["floats"] == [["m", 4, 5, 1, 7]]
    assert group.members["one"].own_slots == 1


def test_use_of_a_float_that_is_not_held_is_charged() -> None:
    group = GroupScheduler()
    Caller(group, "one").sync(0, news=[["float_used", "m", "c", 0]])
    assert level(group, 0) == 11
    assert group.budgets.in_flight == 1


def test_member_that_leaves_gives_everything_back() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, demand=14)
    one.sync(1, news=[["charge", "m", "c", 0]])
    assert one.sync(2, leave=1, float=[["m", 4, 0]]) == {"left": 1}
    assert (group.members, group.waiting, group.budgets.in_flight) == ({}, 0, 0)
    assert one.sync(3) == {"stale": 1}


def test_member_that_registers_again_replaces_its_former_self() -> None:
    group = GroupScheduler()
    Caller(group, "one").sync(0, news=[["charge", "m", "c", 0]], demand=14)
    Caller(group, "two").sync(1, replaces="one", slots=[1, [["m", 1]], []])
    assert list(group.members) == ["two"]
    in_flight = group.budgets.in_flight, group.lanes["m"].budgets.in_flight
    assert (group.waiting, *in_flight) == (0, 1, 1)


def test_admission_that_was_no_work_counts_for_its_lane_only() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, news=[["learn", "m", 0, 60, 60, 0, SECOND, 0], ["charge", "m", "c", 0]])
    one.sync(1, news=[["waive", "c", 0]])
    assert level(group, 1) == 12
    assert group.lanes["m"].budgets.requests.level(1) == 59  # type: ignore[union-attr]


@pytest.mark.parametrize(("known", "level_then"), [(False, 20), (True, 20), (None, 10)])
def test_teaching_sets_an_unknown_quota_and_only_lowers_a_known_one(
    known: bool | None, level_then: int
) -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    if known is not False:
        left = 40 if known else 10
        one.sync(0, news=[["learn", "m", 0, 60, left, 0, SECOND, 0]])
    one.sync(0, news=[["teach", "m", 0, 60, 20, SECOND]])
    assert group.lanes["m"].budgets.requests.level(0) == level_then  # type: ignore[union-attr]


def test_pace_ends_unless_it_is_reported_again() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, news=[["known", "m"], ["pace", "m", 10 * SECOND], ["charge", "m", "c", 0]])
    lane = group.lanes["m"].budgets
    assert lane.wait(1) == 10 * SECOND - 1
    lane.take(PACE_LEASE - SECOND)
    assert lane.wait(PACE_LEASE - SECOND) == SECOND
    assert lane.wait(PACE_LEASE) == 0


def test_share_follows_recent_demand_and_leaves_some_to_a_member_without() -> None:
    group = GroupScheduler()
    busy, idle = Caller(group, "busy"), Caller(group, "idle")
    assert (busy.sync(0)["share"], idle.sync(0)["share"]) == (1, 1 / 2)
    shares = [busy.sync(1, demand=10)["share"], idle.sync(1)["share"]]
    assert shares == pytest.approx([21 / 22, 1 / 22])
    group._age_shares(HALF_LIFE)
    group._age_shares(HALF_LIFE + 1)
    assert group.members["busy"].granted == 5 * SECOND // 10


def test_weights_of_the_newest_file_count() -> None:
    group = GroupScheduler()
    old, new = Caller(group, "old"), Caller(group, "new")
    new.sync(0, clients=[["c", 3.0, -1, -1, -1, -1]], clients_version=2)
    old.sync(0, clients=[["c", 2.0, -1, -1, -1, -1]], clients_version=1)
    old.sync(MS, demand=0, float=[])
    flow = group.flow_of(("m", 1, "c"), 1.0)
    assert flow.share.weight == 3.0


@pytest.mark.parametrize(("level_told", "expected"), [(20, 17), (40, 40)])
def test_requests_of_others_without_a_response_count_where_little_is_left(
    level_told: int, expected: int
) -> None:
    group = GroupScheduler()
    one, other = Caller(group, "one"), Caller(group, "other")
    one.sync(0, news=[["learn", "m", 0, 60, 50, 0, SECOND, 0]])
    other.sync(0, news=[["charge", "m", "c", 0]] * 3)
    one.sync(0, news=[["charge", "m", "c", 0], ["answer", "m"]])
    one.sync(0, news=[["learn", "m", 0, 60, level_told, 4, SECOND, 0]])
    assert group.lanes["m"].budgets.requests.level(0) == expected  # type: ignore[union-attr]
