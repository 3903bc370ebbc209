"""What upstream teaches a lane, with passed-in time. The gate's tests show what comes of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.lane import AdmissionTotals, Lane
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate


def news(limit: int, remaining: int | None = None) -> RateLimitUpdate:
    return RateLimitUpdate(Quota(limit, remaining, None), None)


def asked(lane: Lane, now: int, count: int = 1) -> AdmissionTotals:
    """Admit some at an instant; the last one's mark."""
    for _ in range(count):
        lane.take(now)
    return lane.totals


def test_limit_without_a_remainder_is_a_full_bucket_less_what_was_admitted_since() -> None:
    lane = Lane()
    mark = asked(lane, 0)
    asked(lane, 0, 4)
    lane.learn(SECOND, mark, news(60))
    assert lane.requests is not None
    assert (lane.requests.burst, lane.requests.level(SECOND)) == (60, 56)


def test_answer_without_news_of_a_kind_leaves_its_bucket() -> None:
    lane = Lane()
    lane.learn(0, asked(lane, 0), news(60, 30))
    before = repr(lane.requests)
    lane.learn(0, lane.totals, RateLimitUpdate(None, Quota(1000, 10, None)))
    assert repr(lane.requests) == before
    assert lane.tokens is not None


@pytest.mark.parametrize(
    ("age_s", "remaining", "level"),
    [(1, 30, 30), (9, 2, 2), (30, 0, 30), (30, 50, 59), (30, 20, 50)],
    ids=["fresh", "just fresh", "old and lower", "old and higher", "old and between"],
)
def test_old_news_only_lowers_the_level_and_is_credited_the_refill(
    age_s: int, remaining: int, level: int
) -> None:
    """The lane's own reckoning stands at 60, or a little below, when the answer comes."""
    lane = Lane()
    lane.learn(0, asked(lane, 0), news(60, 59))
    mark = asked(lane, 0)
    lane.learn(age_s * SECOND, mark, news(60, remaining))
    assert lane.requests is not None
    assert lane.requests.level(age_s * SECOND) == pytest.approx(level, abs=1)


@given(
    st.integers(-(10**9), 10**9),
    st.integers(1, 10**12),
    st.none() | st.integers(0, 10**12),
    st.integers(0, 10**6),
)
def test_whatever_is_told_there_is_a_next_attempt(
    elapsed: int, limit: int, remaining: int | None, tokens: int
) -> None:
    """Even a clock that steps back leaves the wait bounded by what filling up takes."""
    lane = Lane()
    lane.take(10 * SECOND, tokens)
    now = 10 * SECOND + elapsed
    told = Quota(limit, None if remaining is None else min(limit, remaining), None)
    lane.learn(now, lane.totals, RateLimitUpdate(told, told))
    lane.pause(now, MINUTE)
    lane.slow_down(now, lane.totals)
    lane.release()
    wait = lane.wait(now, tokens)
    assert wait is not None
    assert wait <= MINUTE + 2 * MINUTE + 2 * SECOND


def test_slowing_follows_the_rate_there_was_and_ends() -> None:
    lane = Lane(known=True)
    for tenth in range(200):
        asked(lane, tenth * SECOND // 10)
    now = 20 * SECOND
    lane.slow_down(now, lane.totals)
    assert lane.wait(now) == pytest.approx(SECOND / 5, rel=0.1)
    for _ in range(2):
        asked(lane, now)
    assert lane.wait(now) == pytest.approx(3 * SECOND / 5, rel=0.1)
    assert lane.wait(now + 5 * MINUTE) == 0


def test_slowing_a_quiet_lane_holds_nobody_up_for_long() -> None:
    lane = Lane(known=True)
    asked(lane, 0)
    lane.slow_down(30 * SECOND, lane.totals)
    assert lane.wait(30 * SECOND) == SECOND
    asked(lane, 31 * SECOND)
    assert lane.wait(31 * SECOND) == pytest.approx(SECOND, rel=0.01)


def test_second_slowing_halves_what_was_recovered() -> None:
    lane = Lane(known=True)
    for tenth in range(200):
        asked(lane, tenth * SECOND // 10)
    lane.slow_down(20 * SECOND, lane.totals)
    now = 20 * SECOND + MINUTE
    asked(lane, now)
    lane.slow_down(now + 1, lane.totals)
    share = (0.5 + 0.5 / 5) / 2
    asked(lane, now + SECOND)
    assert lane.wait(now + SECOND) == pytest.approx(SECOND / 10 / share, rel=0.1)


@pytest.mark.parametrize(
    ("state", "forgettable"),
    [
        ({}, True),
        ({"known": True}, False),
        ({"in_flight": 1}, False),
        ({"paused_until": 2}, False),
        ({"paused_until": 1}, True),
    ],
    ids=["new", "known", "in flight", "paused", "not paused any more"],
)
def test_lane_that_says_something_is_not_forgotten(
    state: dict[str, Any], forgettable: bool
) -> None:
    assert Lane(**state).is_evictable(1) is forgettable
