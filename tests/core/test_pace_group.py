"""Which lanes share a pace, with passed-in time."""

import pytest

from rustygate.core.bucket import SECOND
from rustygate.core.lane import AdmissionTotals, Lane
from rustygate.core.pace_group import PaceGroup


def lanes(count: int) -> list[Lane]:
    group = PaceGroup()
    return [Lane(known=True, pace_group=group) for _ in range(count)]


def admit(lane: Lane, now: int) -> AdmissionTotals:
    lane.take(now)
    return lane.totals


def refuse(lane: Lane, now: int) -> None:
    lane.refuse(now + 1, SECOND, admit(lane, now), guessed=True)


def accept(lane: Lane, now: int) -> None:
    lane.accept(now + 1, admit(lane, now))


def herd(lane: Lane, accepted: int, refused: int) -> None:
    """Let upstream accept some of the requests that came at once, and refuse the others."""
    totals = [admit(lane, 0) for _ in range(accepted + refused)]
    for each in totals[accepted:]:
        lane.refuse(1, SECOND, each, guessed=True)


def test_lane_with_nothing_accepted_joins_another() -> None:
    one, other = lanes(2)
    herd(one, accepted=1, refused=3)
    herd(other, accepted=0, refused=4)
    assert one.pace is other.pace
    assert repr(one.pace_group) == "<PaceGroup [<Pace 1 in 1.08 s>]>"
    admit(one, 2 * SECOND)
    wait = other.wait(2 * SECOND)
    assert wait == pytest.approx(1.08 * SECOND)


def test_order_of_the_refusals_does_not_matter() -> None:
    one, other = lanes(2)
    herd(other, accepted=0, refused=1)
    herd(one, accepted=1, refused=3)
    assert one.pace is not other.pace
    refuse(other, 2 * SECOND)
    assert one.pace is other.pace


def test_lanes_follow_a_pace_that_joins_another() -> None:
    one, two, three = lanes(3)
    herd(one, accepted=1, refused=1)
    herd(two, accepted=0, refused=2)
    accept(three, SECOND)
    herd(three, accepted=2, refused=1)
    assert two.pace is one.pace is not three.pace
    for lane in (one, two):
        refuse(lane, 3 * SECOND)
        assert lane.wait(9 * SECOND) == 0
    assert one.pace is two.pace is three.pace


def test_lanes_with_limits_of_their_own_have_paces_of_their_own() -> None:
    one, other = lanes(2)
    for lane in (one, other):
        herd(lane, accepted=1, refused=3)
    assert one.pace is not other.pace
    admit(one, 2 * SECOND)
    assert other.wait(2 * SECOND) == 0


def test_lane_that_was_never_refused_waits_for_no_other() -> None:
    one, other = lanes(2)
    herd(one, accepted=1, refused=3)
    assert other.pace is None
    assert other.wait(2) == 0


def test_lane_leaves_when_only_itself_is_refused() -> None:
    one, other = lanes(2)
    herd(one, accepted=1, refused=1)
    herd(other, accepted=0, refused=2)
    shared = one.pace
    for second in (2, 4):
        accept(one, second * SECOND)
        assert other.pace is shared
        refuse(other, second * SECOND + SECOND // 2)
    assert other.pace is not shared
    assert one.pace is shared
    # For good, although it is the only one that is refused.
    for second in (6, 8, 10):
        accept(one, second * SECOND)
        refuse(other, second * SECOND + SECOND // 2)
        assert other.pace is not shared


def test_success_keeps_a_lane_in_the_group() -> None:
    one, other = lanes(2)
    herd(one, accepted=1, refused=1)
    herd(other, accepted=0, refused=2)
    shared = one.pace
    for second in range(2, 12, 3):
        accept(one, second * SECOND)
        refuse(other, second * SECOND + SECOND // 2)
        accept(other, second * SECOND + 2 * SECOND)
    assert other.pace is one.pace is shared


def test_only_the_first_refusal_in_a_row_is_waited_out_at_the_pace() -> None:
    one, other = lanes(2)
    herd(one, accepted=1, refused=1)
    accept(one, 2 * SECOND)
    refuse(one, 3 * SECOND)
    assert one.paused_until <= 3 * SECOND + 1
    accept(other, 4 * SECOND)
    herd(other, accepted=0, refused=2)
    refuse(one, 5 * SECOND)
    assert one.paused_until == 6 * SECOND + 1


def test_no_lane_joins_a_pace_that_is_over() -> None:
    one, other = lanes(2)
    herd(one, accepted=1, refused=1)
    accept(one, 2 * SECOND)
    totals = admit(other, 200 * SECOND)
    other.refuse(200 * SECOND + 1, SECOND, totals)
    assert other.pace is not one.pace
