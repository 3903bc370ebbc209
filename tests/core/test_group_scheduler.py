"""The rules of a group's calls: leases, lost and repeated calls, reports, floats, limits."""

from copy import deepcopy
from typing import Any

import pytest

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.group_call import MAX_TOKENS, CallError
from rustygate.core.group_scheduler import (
    BOX_LEASE,
    DEMAND_LEASE,
    HORIZON,
    LATE,
    MS,
    RETURN_LEASE,
    SLOT_LEASE,
    GroupScheduler,
)
from rustygate.core.group_state import MAX_FLOWS, MAX_FLOWS_REPORTED, MAX_LANES
from tests.support.copies import copy_of
from tests.support.group_calls import LIMITS, Caller, call, demand

PERIOD = LIMITS[0]


def level(group: GroupScheduler, now: int) -> int:
    assert group.own.requests is not None
    return group.own.requests.level(now)


def empty(group: GroupScheduler) -> Caller:
    """A group whose bucket is empty at 0."""
    caller = Caller(group, "zero")
    caller.sync(0, levels=[0, -1])
    return caller


def grants(reply: dict[str, Any]) -> list[tuple[str, int]]:
    """Client and delay of each grant."""
    return [(client, delay) for _, _, client, _, delay, *_ in reply["grants"]]


# Grants and how far they reach ahead.


def test_grants_take_the_burst_and_then_wait_for_the_rate() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    reply = one.sync(0, demand(14))
    assert [delay for _, delay in grants(reply)] == [0] * 12
    assert reply["waiting"] == 2
    assert reply["next"] == PERIOD - HORIZON


def test_grants_reach_as_far_ahead_as_the_horizon_with_their_instants() -> None:
    group = GroupScheduler()
    empty(group)
    one = Caller(group, "one")
    assert grants(one.sync(PERIOD - HORIZON - 1, demand(3))) == []
    assert grants(one.sync(PERIOD - HORIZON)) == [("c", HORIZON)]
    assert one.sync(PERIOD - HORIZON + 1)["next"] == PERIOD - 1
    assert grants(one.sync(2 * PERIOD)) == [("c", 0)]


def test_each_grant_carries_its_mark_and_clients_version() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    reply = one.sync(0, demand(2, tokens=7), clients=[], clients_version=5)
    assert reply["grants"] == [["m", 1, "c", 7, 0, 1, 7, 5], ["m", 1, "c", 7, 0, 2, 14, 5]]


# Repeated, lost and overtaken calls.


def test_repeated_call_gets_the_same_reply_and_changes_nothing() -> None:
    group = GroupScheduler()
    first = call("one", demand=[demand(3)], news=[["charge", "m", "c", 0]])
    reply = deepcopy(group.sync(first, 0))
    assert group.sync(first, 10 * MS) == reply
    assert (level(group, 10 * MS), group.own.in_flight, group.waiting) == (8, 4, 0)


def test_call_that_a_later_one_has_overtaken_is_ignored() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0)
    one.sync(1)
    assert group.sync(call("one", 1, demand=[demand(3)]), 2) == {"ignored": 1}
    assert (group.waiting, level(group, 2)) == (0, 12)


def test_unknown_member_is_stale_and_gets_nothing() -> None:
    group = GroupScheduler()
    assert group.sync(call("one", 7, demand=[demand(3)]), 0) == {"stale": 1}
    assert (group.members, group.waiting) == ({}, 0)


def test_state_that_has_lost_calls_is_forgotten() -> None:
    """A server went back to an older state. What was granted and reported since is not known."""
    group = GroupScheduler()
    one, two = Caller(group, "one"), Caller(group, "two")
    one.sync(0, demand(1, client="a"))
    two.sync(0, demand(20, client="b"))
    older = copy_of(group)
    one.sync(20 * MS, demand(5, client="a"))
    two.group = one.group = older
    # This one has lost nothing.
    assert "stale" not in two.sync(21 * MS)
    assert one.sync(40 * MS) == {"stale": 1}
    assert (older.members, older.waiting, older.own.in_flight) == ({}, 0, 0)
    assert two.sync(41 * MS) == {"stale": 1}
    one.seq = 0
    one.sync(42 * MS, slots=[3, [["m", 3]], []], levels=[4, -1])
    assert (level(older, 42 * MS), older.own.in_flight) == (4, 3)


def test_grants_of_a_lost_reply_are_sent_again_once() -> None:
    group = GroupScheduler()
    group.sync(call("one", 1, demand=[demand(3)]), 0)
    again = group.sync(call("one", 2, ack=0), 10 * MS)
    assert grants(again) == [("c", 0)] * 3
    assert grants(group.sync(call("one", 3, ack=2), 20 * MS)) == []
    assert (level(group, 20 * MS), group.own.in_flight) == (9, 3)


@pytest.mark.parametrize(("late", "delays"), [(False, [0, 0]), (True, [0, 0])])
def test_grants_collected_late_are_granted_again(late: bool, delays: list[int]) -> None:
    """Their units may have been charged long ago; then they are charged now."""
    group = GroupScheduler()
    other, one = empty(group), Caller(group, "one", [PERIOD, 2, -1, -1, -1])
    one.sync(0, demand(5))
    other.sync(2 * PERIOD)
    at = 2 * PERIOD + LATE + late
    assert [delay for _, delay in grants(one.sync(at))] == delays
    instants = [boxed.at for boxed in group.members["one"].box]
    assert instants == ([at] * 2 if late else [2 * PERIOD] * 2)
    assert group.own.in_flight == 2
    assert group.waiting == 3


def test_registering_again_replaces_the_former_self() -> None:
    group = GroupScheduler()
    group.sync(call("one", 1, demand=[demand(2)], news=[["charge", "m", "c", 0]]), 0)
    reply = group.sync(call("one", 2, known=0, ack=0, slots=[1, [["m", 1]], []]), 1)
    assert reply["grants"] == []
    assert (group.own.in_flight, group.waiting) == (1, 0)
    assert level(group, 1) == 11


# Reports that cross grants.


def test_report_that_crossed_grants_does_not_count_their_items() -> None:
    group = GroupScheduler()
    zero = empty(group)
    one = Caller(group, "one")
    one.sync(0, demand(5))
    zero.sync(2 * PERIOD)
    assert group.waiting == 3
    reply = one.sync(2 * PERIOD + 10 * MS, demand(6))
    assert len(reply["grants"]) == 2
    assert group.waiting == 4


def test_report_after_the_grants_were_used_counts_fully() -> None:
    group = GroupScheduler()
    empty(group)
    one = Caller(group, "one")
    assert len(one.sync(PERIOD, demand(5))["grants"]) == 1
    one.sync(PERIOD + 1, demand(4))
    assert group.waiting == 4


def test_flow_without_waiters_is_forgotten() -> None:
    group = GroupScheduler()
    empty(group)
    one = Caller(group, "one")
    one.sync(0, demand(5))
    one.sync(1, demand(0))
    assert (group.waiting, group.members["one"].demands, group.lanes) == (0, {}, {})


def test_rest_counts_with_its_average() -> None:
    group = GroupScheduler()
    one = Caller(group, "one", [-1, -1, 1000, -1, -1])
    reply = one.sync(0, ["m", 1, "c", 1.0, [100, 300], 3, 301, 0])
    assert [tokens for *_, tokens, _, _, _, _ in reply["grants"]] == [100, 300, 100, 100, 101]


def test_members_of_a_flow_take_turns_by_arrival() -> None:
    group = GroupScheduler()
    zero = empty(group)
    one, two = Caller(group, "one"), Caller(group, "two")
    one.sync(10, demand(3, age=10))
    two.sync(10, demand(3, age=0))
    zero.sync(2 * PERIOD)
    assert [len(group.members[name].box) for name in ("one", "two")] == [1, 1]


# Leases.


def test_silent_members_demand_ends_after_its_lease_and_comes_back() -> None:
    group = GroupScheduler()
    zero = empty(group)
    one = Caller(group, "one")
    one.sync(0, demand(5))
    assert zero.sync(DEMAND_LEASE)["waiting"] == 3
    assert zero.sync(DEMAND_LEASE + 1)["waiting"] == 0
    assert len(one.sync(DEMAND_LEASE + 2)["grants"]) == 2
    assert group.waiting == 3


def test_unacknowledged_grants_go_back_after_a_second_and_slots_later() -> None:
    group = GroupScheduler()
    one, two = Caller(group, "one"), Caller(group, "two")
    one.sync(0, demand(12), news=[["charge", "m", "c", 0]] * 0)
    two.sync(0)
    two.sync(BOX_LEASE)
    assert (level(group, BOX_LEASE), group.own.in_flight) == (10, 12)
    two.sync(BOX_LEASE + 1)
    assert (level(group, BOX_LEASE + 1), group.own.in_flight) == (12, 0)
    assert one.sync(BOX_LEASE + 2) == {"stale": 1}


def test_slots_go_back_after_their_lease_and_are_reported_again() -> None:
    group = GroupScheduler()
    one, two = Caller(group, "one", [PERIOD, 12, -1, 3, -1]), Caller(group, "two")
    one.sync(0, demand(2))
    one.sync(1)
    two.sync(1)
    two.sync(SLOT_LEASE + 1)
    assert group.own.in_flight == 2
    two.sync(SLOT_LEASE + 2)
    assert group.own.in_flight == 0
    assert one.sync(SLOT_LEASE + 3) == {"stale": 1}
    again = Caller(group, "again")
    again.sync(SLOT_LEASE + 4, slots=[2, [["m", 2]], []])
    assert (group.own.in_flight, group.lanes["m"].budgets.in_flight) == (2, 2)
    again.sync(SLOT_LEASE + 5, news=[["answer", "m"], ["release", "c"]] * 3)
    assert (group.own.in_flight, group.lanes) == (0, {})


def test_lane_gets_more_slots_at_once_when_the_strictest_member_leaves() -> None:
    group = GroupScheduler()
    one = Caller(group, "one", [-1, -1, -1, -1, 3])
    strict = Caller(group, "strict", [-1, -1, -1, -1, 1])
    strict.sync(0)
    assert len(one.sync(0, demand(5))["grants"]) == 1
    strict.sync(1, leave=1)
    assert len(one.sync(1)["grants"]) == 2
    assert group.lanes["m"].budgets.slots == 3


def test_slot_that_becomes_free_is_granted_at_once() -> None:
    group = GroupScheduler()
    one, two = (Caller(group, name, [-1, -1, -1, 1, -1]) for name in ("one", "two"))
    assert len(one.sync(0, demand(1))["grants"]) == 1
    assert two.sync(0, demand(1))["grants"] == []
    one.sync(1, news=[["release", "c"]])
    assert len(two.sync(1)["grants"]) == 1


def test_release_frees_only_a_slot_that_was_counted_for_a_client() -> None:
    """One has a limit only since its request was admitted; the other one no longer has one."""
    group = GroupScheduler()
    one = Caller(group, "one")
    limited = {"c": ["c", 1.0, -1, -1, -1, 2], "d": ["d", 1.0, -1, -1, -1, 2]}
    one.sync(0, clients=[limited["d"]], clients_version=1)
    one.sync(0, demand(1, client="c"), demand(1, client="d"))
    one.sync(1, clients=[limited["c"]], clients_version=2)
    one.sync(1, news=[["release", "c"], ["release", "d"]])
    assert group.clients["c"].budgets.in_flight == 0
    assert group.own.in_flight == 0


def test_give_back_returns_the_units_and_the_slots() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, demand(2))
    one.sync(1, news=[["give_back", "m", "c", 0], ["answer", "m"], ["release", "c"]])
    assert (level(group, 1), group.own.in_flight) == (11, 1)


# The clock.


def test_clock_that_jumps_back_lets_time_stand_still() -> None:
    group = GroupScheduler()
    zero = empty(group)
    assert len(zero.sync(10 * PERIOD, demand(20))["grants"]) == 10
    assert len(zero.sync(2 * PERIOD)["grants"]) == 0
    assert len(zero.sync(3 * PERIOD)["grants"]) == 1


def test_clock_that_jumps_ahead_refills_no_more_than_a_second_beyond_the_callers_time() -> None:
    group = GroupScheduler()
    zero = empty(group)
    reply = zero.sync(1000 * SECOND, demand(20), elapsed=PERIOD)
    # The eleven units of that time; then its instants continue from there.
    assert len(reply["grants"]) == 11
    assert len(zero.sync(1000 * SECOND + PERIOD)["grants"]) == 1


# Registering.


def test_member_that_was_alone_lowers_the_levels_and_never_raises_them() -> None:
    group = GroupScheduler()
    one, two = Caller(group, "one"), Caller(group, "two")
    one.sync(0, levels=[9, -1])
    assert level(group, 0) == 9
    two.sync(0, levels=[4, -1])
    assert level(group, 0) == 4
    Caller(group, "three").sync(0, levels=[11, -1])
    assert level(group, 0) == 4


@pytest.mark.parametrize("silence", [0, 30 * SECOND], ids=["new", "silent"])
def test_group_waits_for_members_that_are_still_alone(silence: int) -> None:
    """Until then they spend their shares and hold slots; then the levels begin at 0."""
    group = GroupScheduler()
    if silence:
        Caller(group, "before").sync(0)
        Caller(group, "other").sync(0)
    alone = {"alone": 1, "levels": [0, -1]}
    one, two = Caller(group, "one"), Caller(group, "two")
    first = one.sync(silence, demand(20), float=[["m", 4, 0]], **alone)
    began = group.now
    assert (first["grants"], first["floats"]) == ([], [])
    assert first["next"] == RETURN_LEASE - HORIZON
    clock = silence + RETURN_LEASE - HORIZON - 1
    assert two.sync(clock, demand(20, client="d"), **alone)["grants"] == []
    # From the end of the lease on, units come at the rate.
    clock += 1 + HORIZON + 2 * PERIOD
    granted = one.sync(clock)["grants"] + two.sync(clock)["grants"]
    assert len(granted) == 2
    assert group.now == began + RETURN_LEASE + 2 * PERIOD


@pytest.mark.parametrize("fields", [{"alone": 1}, {}], ids=["alone", "not alone"])
def test_return_of_one_member_does_not_stop_the_others(fields: dict[str, int]) -> None:
    group = GroupScheduler()
    others = Caller(group, "one")
    for now in range(0, 2 * SECOND, SECOND // 2):
        others.sync(now, demand(20))
    Caller(group, "back").sync(2 * SECOND, levels=[0, -1], **fields)
    reply = others.sync(2 * SECOND + 2 * PERIOD, ack=others.seq)
    assert len(reply["grants"]) == 2


def test_group_that_begins_again_with_members_that_know_its_levels_does_not_wait() -> None:
    group = GroupScheduler()
    reply = Caller(group, "one").sync(0, demand(20), levels=[3, -1])
    assert len(reply["grants"]) == 3


def test_group_that_begins_again_counts_what_others_were_granted_ahead() -> None:
    """Each member says how far ahead that may be. The levels are those of that instant,
    in whatever order they come back."""
    group = GroupScheduler()
    one, two = Caller(group, "one"), Caller(group, "two")
    first = one.sync(0, demand(20), levels=[0, -1], ahead=HORIZON)
    assert (first["grants"], first["next"]) == ([], PERIOD)
    assert two.sync(HORIZON - 1, levels=[0, -1], ahead=HORIZON)["next"] == PERIOD - HORIZON + 1
    assert grants(one.sync(PERIOD)) == [("c", HORIZON)]
    assert grants(one.sync(2 * PERIOD)) == [("c", HORIZON)]
    # When the group has begun, the instant of a registration counts.
    three = Caller(group, "three").sync(2 * PERIOD + 1, levels=[0, -1], ahead=2**53)
    assert three["next"] == PERIOD - 1


def test_group_waits_no_longer_for_grants_of_others_than_for_members_that_are_alone() -> None:
    group = GroupScheduler()
    reply = Caller(group, "one").sync(0, demand(20), levels=[0, -1], ahead=2**53)
    assert reply["next"] == RETURN_LEASE + PERIOD - HORIZON


def test_group_that_begins_with_unknown_levels_is_full() -> None:
    group = GroupScheduler()
    Caller(group, "one").sync(0)
    assert level(group, 0) == 12


def test_clients_budgets_begin_empty_in_a_group_that_starts_again() -> None:
    group = GroupScheduler()
    clients = [["c", 1.0, PERIOD, 5, 1000, -1]]
    Caller(group, "one").sync(0, clients=clients, clients_version=1, levels=[0, -1])
    requests, tokens = group.clients["c"].budgets.requests, group.clients["c"].budgets.tokens
    assert requests is not None
    assert tokens is not None
    assert (requests.level(0), tokens.level(0)) == (0, 0)


@pytest.mark.parametrize("first", ["one", "two"])
def test_strictest_limits_of_members_count_until_they_leave(first: str) -> None:
    group = GroupScheduler()
    limits = {"one": [PERIOD, 12, 600, -1, 4], "two": [2 * PERIOD, 20, -1, 5, -1]}
    callers = {name: Caller(group, name, each) for name, each in limits.items()}
    second = "two" if first == "one" else "one"
    assert callers[first].sync(0)["limits"] == limits[first]
    assert callers[second].sync(0)["limits"] == [2 * PERIOD, 12, 600, 5, 4]
    assert group.limits == [2 * PERIOD, 12, 600, 5, 4]
    assert group.lane("m").budgets.slots == 4
    callers[second].sync(1, leave=1)
    assert group.limits == limits[first]
    assert callers[first].sync(2)["limits"] == limits[first]


def test_joining_with_another_burst_makes_no_debt_and_no_units() -> None:
    group = GroupScheduler()
    empty(group)
    two = Caller(group, "two", [PERIOD, 2, -1, -1, -1])
    two.sync(0)
    assert level(group, 0) == 0
    two.sync(0, leave=1)
    assert level(group, PERIOD) == 1


def test_burst_of_a_member_without_a_rate_does_not_count() -> None:
    group = GroupScheduler()
    assert Caller(group, "auto", [-1, 5, -1, -1, -1]).sync(0)["limits"] == [-1] * 5
    Caller(group, "one").sync(0)
    assert group.limits == LIMITS


# Clients.


def test_newest_clients_file_counts() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, clients=[["c", 2.0, PERIOD, 5, -1, -1]], clients_version=2)
    one.sync(1, clients=[["c", 3.0, PERIOD, 9, -1, -1]], clients_version=1)
    assert group.clients["c"].limits == [PERIOD, 5, -1, -1]
    assert group.client_weights == {"c": 2.0}
    one.sync(2, clients=[], clients_version=3)
    assert (group.clients, group.client_weights) == ({}, {})


def test_clients_limits_bind_what_waits_already() -> None:
    group = GroupScheduler()
    empty(group)
    one = Caller(group, "one")
    one.sync(0, demand(5), demand(5, client="d"))
    limits = [["c", 1.0, 1000 * SECOND, 1, -1, -1]]
    one.sync(1, clients=limits, clients_version=1)
    assert (group.waiting, sum(group.clients["c"].waiting)) == (10, 5)
    for at in range(1, 9):
        reply = one.sync(at * PERIOD)
        assert len(reply["grants"]) == (1 if at < 7 else 0)
    assert sum(group.clients["c"].waiting) == 4


def test_nothing_is_returned_to_limits_that_changed_since_an_admission() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, clients=[["c", 1.0, -1, -1, 1000, -1]], clients_version=1)
    one.sync(0, demand(1, tokens=600))
    one.sync(1, clients=[["c", 1.0, -1, -1, 2000, -1]], clients_version=2)
    tokens = group.clients["c"].budgets.tokens
    assert tokens is not None
    one.sync(1, demand(1, tokens=700))
    one.sync(1, news=[["settle", "c", 600, 100, 1], ["give_back", "m", "c", 600, 1]])
    assert tokens.level(1) == 1300
    one.sync(1, news=[["settle", "c", 700, 500, 2]])
    assert tokens.level(1) == 1500
    one.sync(1, news=[["settle", "c", 500, 300]])
    assert tokens.level(1) == 1700


# Floats.


def test_float_is_lent_only_while_nobody_waits() -> None:
    group = GroupScheduler()
    one, two = Caller(group, "one"), Caller(group, "two")
    two.sync(0, demand(14))
    assert one.sync(0, float=[["m", 3, 0]])["floats"] == []
    two.sync(1, demand(0))
    assert one.sync(SECOND, float=[["m", 3, 0]])["floats"] == [["m", 3, 0, 12, 0]]


def test_float_lowers_what_the_bucket_can_hold() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, float=[["m", 6, 0]])
    assert (level(group, 0), level(group, 100 * SECOND)) == (6, 6)
    one.sync(100 * SECOND, elapsed=100 * SECOND)
    assert level(group, 100 * SECOND) == 12


def test_all_members_together_hold_at_most_half_of_a_small_burst() -> None:
    group = GroupScheduler()
    callers = [Caller(group, name, [PERIOD, 3, -1, -1, -1]) for name in "abc"]
    for caller in callers:
        caller.sync(0)
    held = [caller.sync(0, float=[["m", 2, 0]])["floats"] for caller in callers]
    assert held == [[["m", 1, 0, 0, 0]], [], []]


@pytest.mark.parametrize(("members", "lent"), [(1, 2), (2, 1), (3, 1)])
def test_member_holds_its_part_of_half_the_tokens_but_may_hold_one(
    members: int, lent: int
) -> None:
    group = GroupScheduler()
    callers = [Caller(group, name, [-1, -1, 100, -1, -1]) for name in "abc"[:members]]
    for caller in callers:
        caller.sync(0)
    assert callers[0].sync(0, float=[["m", 5, 20]])["floats"] == [["m", lent, 20, 0, 0]]


def test_burst_of_one_is_not_lent() -> None:
    one = Caller(GroupScheduler(), "one", [PERIOD, 1, -1, -1, -1])
    assert one.sync(0, float=[["m", 1, 0]])["floats"] == []


@pytest.mark.parametrize(
    ("limits", "tokens"),
    [([PERIOD, 1, -1, -1, -1], 0), ([-1, -1, 100, -1, -1], 60)],
    ids=["requests", "tokens"],
)
def test_float_larger_than_a_new_limit_blocks_grants_until_it_goes_back(
    limits: list[int], tokens: int
) -> None:
    """Time alone does not free the capacity, so there is no instant to wait for."""
    group = GroupScheduler()
    one = Caller(group, "one", [-1] * 5)
    keep = {"float": [["m", 1, tokens]]}
    one.sync(0, **keep)
    two = Caller(group, "two", limits)
    for at in (0, MS, 2 * PERIOD):
        one.sync(at, **keep)
        reply = two.sync(at, demand(2, tokens=tokens))
        assert (reply["grants"], reply["next"]) == ([], -1)
    one.sync(2 * PERIOD)
    assert grants(two.sync(2 * PERIOD)) == [("c", 0)]


def test_silent_members_float_goes_back() -> None:
    group = GroupScheduler()
    one, two = Caller(group, "one"), Caller(group, "two")
    one.sync(0, float=[["m", 6, 0]])
    two.sync(SLOT_LEASE)
    assert (level(group, SLOT_LEASE), group.own.in_flight) == (6, 6)
    two.sync(SLOT_LEASE + 1)
    assert (level(group, SLOT_LEASE + 1), group.own.in_flight) == (12, 0)


def test_float_counts_in_a_quota_that_is_learned_later() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, float=[["m", 6, 5]])
    keep = {"float": [["m", 6, 5]]}
    one.sync(0, news=[["learn", "m", 0, 60, 30, 0, SECOND, 0]], **keep)
    requests = group.lanes["m"].budgets.requests
    assert requests is not None
    assert requests.level(0) == 24
    one.sync(0, news=[["float_used", "m", "c", 5]], float=[["m", 5, 5]])
    assert requests.level(0) == 24
    one.sync(0)
    assert requests.level(0) == 29
    assert group.own.in_flight == 1


def test_float_used_for_more_tokens_is_charged_the_difference() -> None:
    group = GroupScheduler()
    one = Caller(group, "one", [-1, -1, 600, -1, -1])
    one.sync(0, float=[["m", 2, 100]])
    assert group.own.tokens is not None
    assert group.own.tokens.level(0) == 400
    one.sync(0, news=[["float_used", "m", "c", 150]], float=[["m", 2, 100]])
    assert group.own.tokens.level(0) == 250  # lent another
    one.sync(0)
    assert group.own.tokens.level(0) == 450


def test_paced_lane_lends_no_float() -> None:
    one = Caller(GroupScheduler(), "one")
    news = [["pace", "m", SECOND]]
    assert one.sync(0, news=news, float=[["m", 2, 0]])["floats"] == []


# Lanes.


def learned(group: GroupScheduler, now: int = 0) -> int:
    requests = group.lanes["m"].budgets.requests
    assert requests is not None
    return requests.level(now)


def test_level_that_upstream_reports_is_as_of_its_mark() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, demand(5))
    one.sync(0, news=[["learn", "m", 0, 60, 50, 2, SECOND, 0]])
    assert learned(group) == 47
    one.sync(0, news=[["learn", "m", 0, 60, 55, 4, SECOND, 0]])
    assert learned(group) == 54


def test_older_mark_only_lowers() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, demand(5))
    one.sync(0, news=[["learn", "m", 0, 60, 50, 4, SECOND, 0]])
    one.sync(0, news=[["learn", "m", 0, 60, 58, 3, SECOND, 0]])
    assert learned(group) == 49
    one.sync(0, news=[["learn", "m", 0, 60, 40, 3, SECOND, 0]])
    assert learned(group) == 38


def test_mark_of_an_earlier_life_does_not_outlast_it() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, demand(2))
    one.sync(0, news=[["learn", "m", 0, 60, 50, 5000, SECOND, 0]])
    one.sync(0, news=[["learn", "m", 0, 60, 55, 5001, SECOND, 0]])
    assert learned(group) == 50
    one.sync(0, news=[["learn", "m", 0, 60, 55, 2, SECOND, 0]])
    assert learned(group) == 55


def test_limits_that_change_much_make_the_flows_of_a_lane_equal() -> None:
    group = GroupScheduler()
    one = Caller(group, "one", [-1, -1, -1, -1, -1])
    one.sync(0, news=[["learn", "m", 0, 10, 5, 0, 6 * SECOND, 0]])
    one.sync(0, demand(9, client="a"), demand(9, client="b"))
    lane = group.lanes["m"]
    assert max(flow.tag for flow in lane.busy[1]) >= 6 * SECOND
    one.sync(SECOND, news=[["learn", "m", 0, 1000, 0, 5, 60 * MS, 0]])
    assert [flow.tag for flow in lane.busy[1]] == [0.0, 0.0]


def test_pause_holds_a_lane_for_all_members() -> None:
    group = GroupScheduler()
    one, two = Caller(group, "one"), Caller(group, "two")
    one.sync(0, news=[["pause", "m", SECOND]])
    reply = two.sync(0, demand(1), demand(1, lane="n", client="d"))
    assert grants(reply) == [("d", 0)]
    assert reply["next"] == SECOND - HORIZON
    assert reply["lanes"][0][4] == SECOND
    one.sync(SECOND, elapsed=SECOND)
    two.sync(SECOND)
    assert len(group.members["two"].box) == 1


def test_slow_down_halves_the_rate_for_all_and_recovers() -> None:
    group = GroupScheduler()
    one, two = Caller(group, "one"), Caller(group, "two")
    one.sync(0, demand(10), news=[["known", "m"]])
    one.sync(0, news=[["slow_down", "m", 0]])
    # Ten requests in a second count as one each 100 ms.
    assert two.sync(0, demand(1))["next"] == 200 * MS - HORIZON
    lane = group.lanes["m"].budgets
    assert lane.spacing(0) == 200 * MS
    one.sync(1, news=[["slow_down", "m", SECOND]])
    assert lane.spacing(1) == 200 * MS
    assert lane.spacing(5 * MINUTE) == 0


def test_unknown_lane_is_forgotten_with_its_last_use() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    one.sync(0, demand(1, lane="x"), demand(1, lane="y"), news=[["pause", "z", SECOND]])
    one.sync(0, news=[["known", "y"], ["answer", "y"], ["answer", "x"]])
    assert sorted(group.lanes) == ["y", "z"]


def test_lanes_that_are_not_used_are_bounded() -> None:
    group = GroupScheduler()
    one = Caller(group, "one")
    for number in range(MAX_LANES + 5):
        one.sync(number, news=[["known", f"m{number}"]])
    assert len(group.lanes) == MAX_LANES
    assert "m4" not in group.lanes
    assert "m5" in group.lanes


def test_flows_are_bounded_and_those_refused_are_named() -> None:
    group = GroupScheduler()
    empty(group)
    for number in range(MAX_FLOWS // MAX_FLOWS_REPORTED):
        flows = [demand(1, client=f"{number}.{each}") for each in range(MAX_FLOWS_REPORTED)]
        assert Caller(group, f"m{number}").sync(0, *flows)["refused"] == []
    last = Caller(group, "last")
    reply = last.sync(0, demand(1, client="x"), demand(0, client="y"))
    assert reply["refused"] == [["m", 1, "x"]]
    assert reply["waiting"] == MAX_FLOWS


def test_silent_member_frees_the_slots_of_a_client() -> None:
    group = GroupScheduler()
    clients = {"clients": [["c", 1.0, -1, -1, -1, 2]], "clients_version": 1}
    two = Caller(group, "two")
    two.sync(0, **clients)
    Caller(group, "one").sync(0, slots=[2, [["m", 2]], [["c", 2]]], **clients)
    assert group.clients["c"].budgets.in_flight == 2
    assert two.sync(100 * MS, demand(1), **clients)["grants"] == []
    grants = Caller(group, "three").sync(10 * SECOND, demand(1), **clients)["grants"]
    assert (len(grants), group.clients["c"].budgets.in_flight) == (1, 1)


def test_first_member_that_registers_brings_clients_and_their_slots() -> None:
    """As after the server has restarted empty."""
    group = GroupScheduler()
    clients = {"clients": [["c", 1.0, -1, -1, -1, 2]], "clients_version": 1}
    one = Caller(group, "one")
    slots = [2, [["m", 2]], [["c", 2]]]
    reply = one.sync(0, demand(1), slots=slots, levels=[4, -1], **clients)
    assert (reply["grants"], group.clients["c"].budgets.in_flight) == ([], 2)
    reply = one.sync(1, demand(1), news=[["release", "c"]])
    assert (len(reply["grants"]), group.clients["c"].budgets.in_flight) == (1, 2)


# Bad calls.


BAD = {
    "no object": [],
    "member without a name": {"member": ""},
    "member with a number for a name": {"member": 5},
    "no seq": {"seq": None},
    "acknowledges itself": {"ack": 1},
    "negative elapsed": {"elapsed": -1},
    "limits too short": {"limits": [1, 2]},
    "rate without burst": {"limits": [PERIOD, -1, -1, -1, -1]},
    "zero period": {"limits": [0, 1, -1, -1, -1]},
    "demand too short": {"demand": [["m", 1, "c"]]},
    "unknown class": {"demand": [["m", 3, "c", 1.0, [1], 0, 0, 0]]},
    "negative size": {"demand": [["m", 1, "c", 1.0, [-1], 0, 0, 0]]},
    "huge size": {"demand": [["m", 1, "c", 1.0, [MAX_TOKENS + 1], 0, 0, 0]]},
    "too many sizes": {"demand": [["m", 1, "c", 1.0, [1] * 9, 0, 0, 0]]},
    "tokens of no rest": {"demand": [["m", 1, "c", 1.0, [1], 0, 5, 0]]},
    "weight of zero": {"demand": [["m", 1, "c", 0, [1], 0, 0, 0]]},
    "too many flows": {"demand": [demand(1)] * (MAX_FLOWS_REPORTED + 1)},
    "unknown news": {"news": [["explode", "m"]]},
    "private method as news": {"news": [["__init__"]]},
    "news without values": {"news": [["pause", "m"]]},
    "negative pause": {"news": [["pause", "m", -5]]},
    "news with a name for a number": {"news": [["charge", "m", "c", "d"]]},
    "float without tokens": {"float": [["m", 1]]},
    "client without limits": {"clients": [["c", 1.0]], "clients_version": 1},
    "clients without version": {"clients": []},
    "no slots": {"slots": None},
    "negative slots": {"slots": [-1, [], []]},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_call_is_refused_and_changes_nothing(bad: Any) -> None:
    group = GroupScheduler()
    one = empty(group)
    one.sync(0, demand(3))
    news = [["charge", "m", "c", 1]]
    value = {**call("bad", news=news), **bad} if isinstance(bad, dict) else bad
    with pytest.raises(CallError):
        group.sync(value, 5 * SECOND)
    assert (list(group.members), group.now, group.waiting) == (["zero"], 0, 3)
    assert group.own.in_flight == 0
