"""What a lane learns from upstream, with passed-in time. The gate's tests show the effects."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.lane import AdmissionTotals, Lane, RateMeter
from rustygate.core.pace import Pace
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.core.work import Work


def update(limit: int, remaining: int | None = None) -> RateLimitUpdate:
    return RateLimitUpdate(Quota(limit, remaining), None)


def admit(lane: Lane, now: int, count: int = 1) -> AdmissionTotals:
    """Admit requests at an instant; the totals of the last one."""
    for _ in range(count):
        lane.take(now)
    return lane.totals


def test_limit_without_remaining_is_a_full_bucket_minus_later_admissions() -> None:
    lane = Lane()
    admitted = admit(lane, 0)
    admit(lane, 0, 4)
    lane.learn(SECOND, admitted, update(60))
    assert lane.requests is not None
    assert (lane.requests.burst, lane.requests.level(SECOND)) == (60, 56)


def test_response_without_a_quota_leaves_its_bucket() -> None:
    lane = Lane()
    lane.learn(0, admit(lane, 0), update(60, 30))
    before = repr(lane.requests)
    lane.learn(0, lane.totals, RateLimitUpdate(None, Quota(1000, 10)))
    assert repr(lane.requests) == before
    assert lane.tokens is not None


@pytest.mark.parametrize(
    ("age_s", "remaining", "level"),
    [(1, 30, 30), (9, 2, 2), (30, 0, 30), (30, 50, 59), (30, 20, 50)],
    ids=["fresh", "just fresh", "old and lower", "old and higher", "old and between"],
)
def test_old_update_is_credited_the_refill_and_may_only_lower_the_level(
    age_s: int, remaining: int, level: int
) -> None:
    """The lane's own level is 60, or a little less, when the response arrives."""
    lane = Lane()
    lane.learn(0, admit(lane, 0), update(60, 59))
    admitted = admit(lane, 0)
    lane.learn(age_s * SECOND, admitted, update(60, remaining))
    assert lane.requests is not None
    assert lane.requests.level(age_s * SECOND) == pytest.approx(level, abs=1)


@given(
    st.integers(-(10**9), 10**9),
    st.integers(1, 10**12),
    st.none() | st.integers(0, 10**12),
    st.integers(0, 10**6),
)
def test_any_update_allows_a_next_attempt(
    elapsed: int, limit: int, remaining: int | None, tokens: int
) -> None:
    """Even after the clock steps back, the wait is bounded by the time to fill up."""
    lane = Lane()
    lane.take(10 * SECOND, tokens)
    now = 10 * SECOND + elapsed
    quota = Quota(limit, None if remaining is None else min(limit, remaining))
    lane.learn(now, lane.totals, RateLimitUpdate(quota, quota))
    lane.pause(now, MINUTE)
    lane.slow_down(now, lane.totals)
    lane.release()
    wait = lane.wait(now, tokens)
    assert wait is not None
    assert wait <= MINUTE + 2 * MINUTE + 2 * SECOND


def test_slow_down_halves_the_measured_rate_and_ends() -> None:
    lane = Lane(known=True)
    for tenth in range(200):
        admit(lane, tenth * SECOND // 10)
    now = 20 * SECOND
    lane.slow_down(now, lane.totals)
    assert lane.wait(now) == pytest.approx(SECOND / 5, rel=0.1)
    for _ in range(2):
        admit(lane, now)
    assert lane.wait(now) == pytest.approx(3 * SECOND / 5, rel=0.1)
    assert lane.wait(now + 5 * MINUTE) == 0


def test_slow_down_of_a_quiet_lane_delays_little() -> None:
    lane = Lane(known=True)
    admit(lane, 0)
    lane.slow_down(30 * SECOND, lane.totals)
    assert lane.wait(30 * SECOND) == SECOND
    admit(lane, 31 * SECOND)
    assert lane.wait(31 * SECOND) == pytest.approx(SECOND, rel=0.01)


def test_second_slow_down_halves_the_recovered_rate() -> None:
    lane = Lane(known=True)
    for tenth in range(200):
        admit(lane, tenth * SECOND // 10)
    lane.slow_down(20 * SECOND, lane.totals)
    now = 20 * SECOND + MINUTE
    admit(lane, now)
    lane.slow_down(now + 1, lane.totals)
    fraction = (0.5 + 0.5 / 5) / 2
    admit(lane, now + SECOND)
    assert lane.wait(now + SECOND) == pytest.approx(SECOND / 10 / fraction, rel=0.1)


@pytest.mark.parametrize(
    ("state", "evictable"),
    [
        ({}, True),
        ({"known": True}, False),
        ({"in_flight": 1}, False),
        ({"paused_until": 2}, False),
        ({"paused_until": 1}, True),
    ],
    ids=["new", "known", "in flight", "paused", "pause over"],
)
def test_lane_in_use_is_not_evictable(state: dict[str, Any], evictable: bool) -> None:
    assert Lane(**state).is_evictable(1) is evictable


@given(st.integers(0, 2 * MINUTE), st.lists(st.tuples(st.integers(0, MINUTE), st.booleans())))
def test_any_refusals_leave_a_pace_between_a_millisecond_and_a_minute(
    wait: int, answers: list[tuple[int, bool]]
) -> None:
    lane, now = Lane(known=True), 0
    for elapsed, accepted in answers:
        now += elapsed
        admitted = admit(lane, now)
        if not accepted:
            lane.refuse(now, wait, admitted)
        elif lane.pace is not None:
            lane.pace.accept(now, admitted.at)
        if lane.pace is not None:
            assert SECOND // 1000 <= lane.pace.bucket.period <= MINUTE


def test_response_to_an_older_exchange_lowers_the_level_by_later_ones_without_a_response() -> None:
    """Upstream may have seen it after the newer ones, but not after unanswered ones."""
    lane = Lane()
    _, older, newer, *_ = [admit(lane, tenth * SECOND // 10) for tenth in range(5)]
    lane.learn(SECOND // 2, newer, update(60, 57))
    lane.answer(newer)
    assert lane.requests is not None
    assert lane.requests.level(SECOND // 2) == 53
    lane.learn(SECOND // 2, older, update(60, 50))
    assert lane.requests.level(SECOND // 2) == 48


def test_use_by_others_that_a_group_knows_of_ends_with_the_shortage() -> None:
    lane = Lane()
    lane.adopt(0, (600, 300, 8 * MINUTE // 600, 4 * MINUTE), (-1, -1, -1, 0))
    lane.learn(SECOND, admit(lane, 0), update(600, 300))
    assert dict(lane.others_per_minute) == {"requests": pytest.approx(525)}
    lane.learn(SECOND, admit(lane, SECOND), update(600, 301))
    assert dict(lane.others_per_minute) == {"requests": 0}


def test_report_leaves_the_same_for_a_group_whatever_the_level_is() -> None:
    """A group has admitted more meanwhile, and sets the level by itself."""
    lane = Lane()
    first = admit(lane, 0)
    second = admit(lane, SECOND)
    admit(lane, SECOND, 5)
    lane.learn(20 * SECOND, second, update(60, 3))
    assert lane.requests is not None
    assert lane.requests.level(20 * SECOND) == 3 - 5 + 19
    assert lane.request_quota.take_left() == 3 - 5
    assert lane.request_quota.take_left() is None
    lane.learn(20 * SECOND, first, update(60, 3))
    assert lane.request_quota.take_left() is None


def test_older_report_leaves_what_has_no_response() -> None:
    lane = Lane()
    first = admit(lane, 0)
    second = admit(lane, 1)
    lane.answer(second)
    lane.learn(SECOND, second, update(60, 40))
    assert lane.request_quota.take_left() == 40
    admit(lane, SECOND, 3)
    lane.learn(SECOND, first, update(60, 39))
    assert lane.request_quota.take_left() == 39 - 3


# The rate, the pace and the throttle.


def test_rate_is_that_of_this_window_and_the_one_before() -> None:
    meter = RateMeter(10 * SECOND)
    for second in range(16):
        meter.count(100 * SECOND + second * SECOND, 2)
    assert (meter.total, meter.span(115 * SECOND)) == (32, 15 * SECOND)
    assert meter.period(115 * SECOND) == 15 * SECOND // 32
    # The window before is forgotten, and after a quiet time the last one too.
    meter.count(120 * SECOND)
    assert (meter.total, meter.span(122 * SECOND)) == (13, 12 * SECOND)
    meter.count(140 * SECOND)
    assert (meter.total, meter.span(140 * SECOND)) == (1, SECOND)


@pytest.mark.parametrize(
    ("wait_s", "window_s", "accepted"),
    [(0.5, 0.5, 1), (1, 1.4, 15), (2, 2, 15), (2.1, 5.4, 28), (7, 7, 28)],
    ids=["exact wait", "second", "recent rate", "rate of seconds", "longer wait"],
)
def test_first_pace_is_what_upstream_accepted_lately(
    wait_s: float, window_s: float, accepted: int
) -> None:
    """All but the last of 29 requests, of which 16 were in the last short windows."""
    lane = Lane(known=True)
    admit(lane, 100 * SECOND, 10)
    for tenth in range(0, 50, 10):
        admit(lane, 101 * SECOND + tenth * SECOND // 10)
    for tenth in range(14):
        admitted = admit(lane, 104 * SECOND + tenth * SECOND // 10)
    now = 105 * SECOND + 4 * SECOND // 10
    lane.refuse(now, round(wait_s * SECOND), admitted)
    assert lane.pace is not None
    expected = Pace(now, round(window_s * SECOND), accepted).bucket.period
    assert lane.pace.bucket.period == expected


def paced_lane() -> Lane:
    """A lane that was refused at 99 s, and has a pace of a request in 0.54 s."""
    lane = Lane(known=True)
    lane.refuse(99 * SECOND, SECOND // 2, admit(lane, 99 * SECOND))
    return lane


def test_pace_spaces_admissions() -> None:
    lane, now = paced_lane(), 100 * SECOND
    assert (lane.wait(now), lane.pace_period(now)) == (0, 54 * SECOND // 100)
    admit(lane, now)
    assert lane.wait(now) == 54 * SECOND // 100
    # After a minute without requests there is no pace.
    later = now + 70 * SECOND
    assert lane.pace_period(later) == 0
    admit(lane, later)
    assert lane.pace is None


def test_accepted_request_makes_the_pace_faster() -> None:
    lane, now = paced_lane(), 100 * SECOND
    admit(lane, now - SECOND // 2)
    assert lane.accept(now, admit(lane, now)) is True
    assert lane.accept(now, AdmissionTotals(0, 1, 0)) is False
    assert lane.pace_period(now) < 54 * SECOND // 100
    assert Lane().accept(now, lane.totals) is False


NOW = 100 * SECOND


@pytest.mark.parametrize(
    "use",
    [
        lambda lane: lane.wait(NOW),
        lambda lane: lane.take(NOW),
        lambda lane: lane.record_grant(AdmissionTotals(NOW, 5, 5), 7),
        lambda lane: lane.pace_period(NOW),
        lambda lane: lane.accept(NOW, lane.totals),
        lambda lane: lane.current_pace,
    ],
    ids=["wait", "take", "grant", "period", "accept", "pace"],
)
def test_lane_follows_the_pace_that_replaced_its_own(use: Callable[[Lane], object]) -> None:
    lane, successor = paced_lane(), Pace(NOW, 4 * SECOND, 1)
    assert lane.pace is not None
    lane.pace.successor = successor
    use(lane)
    assert lane.pace is successor


def test_copy_has_a_copy_of_the_pace_that_replaced_the_lanes() -> None:
    lane, successor = paced_lane(), Pace(NOW, 4 * SECOND, 1)
    assert lane.pace is not None
    lane.pace.successor = successor
    paces: dict[Pace, Pace] = {}
    twin = lane.copy_with(paces)
    assert [*paces] == [successor]
    assert twin.pace is paces[successor] is not successor
    admit(lane, NOW)
    assert lane.wait(NOW) == pytest.approx(4.32 * SECOND)
    assert twin.wait(NOW) == 0


def test_grants_of_a_group_count_what_its_other_members_admit() -> None:
    lane = Lane(known=True)
    for second, number in (1, 40), (2, 45), (3, 43):
        lane.record_grant(AdmissionTotals(second * SECOND, number, number), 7)
    assert (lane.in_flight, lane.totals.requests) == (3, 45)
    # A request, five more, and one that is known: seven in three seconds.
    lane.slow_down(3 * SECOND, lane.totals)
    assert lane.wait(3 * SECOND) == 2 * (3 * SECOND // 7)
    lane.record_grant(AdmissionTotals(4 * SECOND, 46, 46), 7)
    assert lane.wait(4 * SECOND) == pytest.approx(6 * SECOND / 7, rel=0.01)


def test_grants_of_a_group_take_their_turns_at_a_pace() -> None:
    lane, now = paced_lane(), 100 * SECOND
    lane.record_grant(AdmissionTotals(now, 5, 5), 7)
    assert lane.wait(now) == 54 * SECOND // 100


def test_responses_free_slots_and_are_no_longer_awaited() -> None:
    lane = Lane()
    for tokens in 3, 4, 5:
        lane.take(0, tokens)
    assert lane.unanswered == Work(0, 3, 12)
    lane.answer(lane.totals)
    assert (lane.in_flight, lane.unanswered) == (2, Work(0, 2, 7))


def test_tokens_of_refused_requests_are_not_taken() -> None:
    """The level stays the same although they refill: others take them."""
    lane = Lane()
    for second in range(60):
        lane.take(second * SECOND, 1)
        lane.learn(second * SECOND, lane.totals, RateLimitUpdate(None, Quota(60, 20)))
        lane.count_refusal(lane.totals, 1)
        lane.answer(lane.totals)
    assert lane.limits_known is True
    assert dict(lane.others_per_minute) == {"tokens": pytest.approx(50, abs=3)}


@pytest.mark.parametrize(("down_s", "is_kept"), [(60, True), (61, False)])
def test_pace_is_kept_over_a_short_restart(down_s: int, is_kept: bool) -> None:
    lane, now = paced_lane(), 100 * SECOND
    lane.slow_down(now, lane.totals)
    saved, restored = lane.save("m", now), Lane()
    restored.restore(7 * SECOND, saved, down_s * SECOND)
    assert restored.known
    assert restored.pace_period(7 * SECOND) == pytest.approx(
        54 * SECOND // 100 if is_kept else 0, abs=1
    )
    assert Lane().save("n", now).pace == 0
    unpaced = Lane()
    unpaced.restore(7 * SECOND, Lane().save("n", now), 0)
    assert unpaced.pace is None


def test_slow_down_for_an_exchange_before_the_last_one_changes_nothing() -> None:
    lane = Lane(known=True)
    first = admit(lane, 9 * SECOND)
    second = admit(lane, 10 * SECOND)
    for admitted in second, first, second:
        lane.slow_down(10 * SECOND, admitted)
    assert lane.throttle is not None
    assert lane.throttle.fraction(10 * SECOND) == 0.5


def spent_lane() -> Lane:
    """A lane with one request a second and sixty tokens a minute, all spent just now."""
    bucket = TokenBucket(SECOND, 1)
    bucket.take(NOW)
    tokens = TokenBucket.per_minute(60)
    tokens.fill_to(NOW, 0)
    return Lane(bucket, tokens, known=True)


def slowed_lane() -> Lane:
    """A lane that may send one request a second at first."""
    lane = Lane(known=True)
    lane.slow_down(NOW, admit(lane, NOW))
    return lane


def test_copy_of_a_slowed_lane_waits_and_is_charged_by_itself() -> None:
    lane = slowed_lane()
    twin = lane.copy_with({})
    later = NOW + SECOND
    assert twin.wait(NOW) == lane.wait(NOW) == SECOND
    twin.take(later)
    assert twin.wait(later) == pytest.approx(SECOND, rel=0.01)
    assert lane.wait(later) == 0


def busy_paced_lane() -> Lane:
    """A lane that has just sent a request at its pace."""
    lane = paced_lane()
    admit(lane, NOW)
    return lane


def paused_for(seconds: float, lane: Lane) -> Lane:
    lane.pause(NOW, round(seconds * SECOND))
    return lane


@pytest.mark.parametrize(
    ("lane", "wait_s", "name"),
    [
        (spent_lane(), 3, "lane tokens"),
        (paused_for(2, spent_lane()), 3, "lane tokens"),
        (paused_for(3, spent_lane()), 3, "paused"),
        (paused_for(5, spent_lane()), 5, "paused"),
        (busy_paced_lane(), 0.54, "pace"),
        (paused_for(5, busy_paced_lane()), 5, "paused"),
    ],
    ids=["tokens", "short pause", "equal pause", "long pause", "pace", "pace and pause"],
)
def test_shortage_is_what_a_request_of_three_tokens_waits_for(
    lane: Lane, wait_s: float, name: str
) -> None:
    assert lane.shortage(NOW, 3) == (round(wait_s * SECOND), name)


@pytest.mark.parametrize(
    ("lane", "wait_s"),
    [
        (Lane(), 0),
        (spent_lane(), 14),
        (paused_for(20, spent_lane()), 20),
        (slowed_lane(), 5),
        (busy_paced_lane(), 0),
    ],
    ids=["nothing", "tokens", "pause", "slowed", "first pace"],
)
def test_wait_behind_four_requests_with_eleven_tokens(lane: Lane, wait_s: float) -> None:
    """The first pace is a guess, so nobody is refused for it."""
    assert lane.wait_behind(NOW, 3, 4, 11) == pytest.approx(wait_s * SECOND, abs=10)
