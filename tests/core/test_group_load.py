"""A large group's members call less often, and its grants reach further ahead."""

import pytest

from rustygate.core.bucket import SECOND
from rustygate.core.group_load import MOST_LOAD
from rustygate.core.group_scheduler import DEMAND_LEASE, HORIZON, MS, GroupScheduler
from rustygate.core.group_state import LEAST_LOAD
from tests.support.group_calls import call, demand

PERIOD = 10 * MS
LIMITS = [PERIOD, 1, -1, -1, -1]


def group_of(count: int) -> GroupScheduler:
    """A group in which this many members have waiters. They have all called at instant 0."""
    group = GroupScheduler()
    for number in range(count):
        group.sync(call(f"m{number}", limits=LIMITS, demand=[demand(100)]), 0)
    return group


@pytest.mark.parametrize(
    ("waiting", "spacing"),
    [(1, 21), (16, 21), (17, 21 * 17 / 16), (32, 42), (100, 131.25), (150, 131.25)],
)
def test_members_are_spaced_by_how_many_have_waiters(waiting: int, spacing: float) -> None:
    reply = group_of(waiting).sync(call("idle", limits=LIMITS), 0)
    assert reply["spacing"] == spacing * MS


def test_all_calls_together_are_as_many_as_those_of_a_small_group() -> None:
    for waiting in (LEAST_LOAD, 50, MOST_LOAD):
        spacing = group_of(waiting).sync(call("idle", limits=LIMITS), 0)["spacing"]
        assert waiting * SECOND / spacing == pytest.approx(762, abs=1)


def test_member_calls_before_the_lease_of_its_demand_ends() -> None:
    spacing = group_of(MOST_LOAD).sync(call("idle", limits=LIMITS), 0)["spacing"]
    assert 1.15 * spacing + 25 * MS < DEMAND_LEASE


@pytest.mark.parametrize(("waiting", "horizon"), [(1, 25), (16, 25), (32, 50), (100, 156.25)])
def test_grants_reach_ahead_to_the_next_calls(waiting: int, horizon: float) -> None:
    group = group_of(waiting)
    # Its reply tells the last member the largest spacing.
    members = group.members.values()
    instants = [boxed.at for member in members for boxed in member.box]
    assert horizon * MS - PERIOD < max(instants) <= horizon * MS
    assert horizon >= HORIZON / MS
    reply = group.sync(call("m0", 2), 0)
    assert reply["next"] == max(instants) + PERIOD - horizon * MS


def test_grants_reach_as_far_as_members_were_told_until_these_call_again() -> None:
    group = group_of(32)
    for number in range(1, 31):
        group.sync(call(f"m{number}", 2, demand=[demand(0)]), 0)
    # It has been told to call within 42 ms, and two have waiters now.
    reply = group.sync(call("m0", 2), 0)
    assert reply["spacing"] == 21 * MS
    latest = max(boxed.at for member in group.members.values() for boxed in member.box)
    assert 40 * MS < latest <= 50 * MS
    group.sync(call("m31", 2), 100 * MS)
    reply = group.sync(call("m0", 3), 100 * MS)
    latest = max(boxed.at for member in group.members.values() for boxed in member.box)
    assert 115 * MS < latest <= 125 * MS
