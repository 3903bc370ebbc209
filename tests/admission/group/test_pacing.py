"""When a member calls next, with passed-in time."""

from random import Random

import pytest

from rustygate.admission.group.pacing import (
    DEMAND_HEARTBEAT,
    HEARTBEAT,
    SPACING,
    Pacing,
    Urgency,
)
from rustygate.core.bucket import SECOND
from rustygate.core.group_scheduler import DEMAND_LEASE, HORIZON, MS


def due(urgency: Urgency, *, waiting: bool = False, grants_at: int | None = None) -> int:
    """The instant of the call after one at 0."""
    pacing = Pacing(0, Random(1))
    pacing.sent(0)
    return pacing.due(1, urgency, waiting=waiting, grants_at=grants_at)


def test_idle_member_calls_every_half_second() -> None:
    assert 0.8 * HEARTBEAT <= due(Urgency.NONE) <= HEARTBEAT


@pytest.mark.parametrize(
    ("urgency", "waiting", "longest"),
    [(Urgency.NONE, False, HEARTBEAT), (Urgency.LATER, True, DEMAND_HEARTBEAT)],
    ids=["idle", "with waiters"],
)
def test_heartbeats_vary_but_never_come_late(
    urgency: Urgency, waiting: bool, longest: int
) -> None:
    instants = []
    for seed in range(50):
        pacing = Pacing(0, Random(seed))
        instants.append(pacing.due(0, urgency, waiting=waiting, grants_at=SECOND))
    assert 0.8 * longest <= min(instants) < 0.9 * longest
    assert max(instants) == longest


def test_urgent_call_is_made_at_once() -> None:
    assert due(Urgency.AT_ONCE) == 1


def test_calls_are_spaced_by_less_than_the_horizon() -> None:
    for seed in range(50):
        pacing = Pacing(0, Random(seed))
        pacing.sent(0)
        instant = pacing.due(0, Urgency.SPACED, waiting=True, grants_at=None)
        assert 0.8 * SPACING <= instant < HORIZON


@pytest.mark.parametrize("urgency", [Urgency.SPACED, Urgency.LATER])
def test_calls_are_spaced_as_the_group_says(urgency: Urgency) -> None:
    for seed in range(50):
        pacing = Pacing(0, Random(seed))
        pacing.space(131 * MS)
        pacing.sent(0)
        instant = pacing.due(0, urgency, waiting=True, grants_at=None)
        assert 0.8 * 131 * MS <= instant < 156 * MS


def test_calls_at_once_are_as_far_apart_on_average_as_the_group_says() -> None:
    pacing, now, calls = Pacing(0, Random(1)), 0, 0
    pacing.space(4 * SPACING)
    while now < 10 * SECOND:
        now = pacing.due(now, Urgency.AT_ONCE, waiting=True, grants_at=None)
        pacing.sent(now)
        calls += 1
    assert calls == pytest.approx(10 * 12 + 8, abs=2)


@pytest.mark.parametrize(
    ("grants_at", "least", "most"),
    [
        (None, 17 * MS, HORIZON),
        (0, 17 * MS, HORIZON),
        (50 * MS, 50 * MS, 52 * MS),
        (10 * SECOND, 0.8 * DEMAND_LEASE // 2, DEMAND_LEASE // 2),
    ],
    ids=["no instant", "now", "soon", "far away"],
)
def test_member_with_waiters_calls_when_a_grant_can_come(
    grants_at: int | None, least: float, most: float
) -> None:
    assert least <= due(Urgency.NONE, waiting=True, grants_at=grants_at) <= most


def test_no_second_has_more_than_60_calls() -> None:
    pacing, now, calls = Pacing(0, Random(1)), 0, []
    while now < 5 * SECOND:
        now = pacing.due(now, Urgency.AT_ONCE, waiting=True, grants_at=None)
        pacing.sent(now)
        calls.append(now)
    most = max(sum(start <= at < start + SECOND for at in calls) for start in calls)
    assert 50 <= most <= 60
