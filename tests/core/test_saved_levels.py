"""Levels over a restart: nothing is granted twice, and nothing learned is forgotten."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.lane import AdmissionTotals, Lane
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.core.saved_levels import (
    SavedBucket,
    SavedLane,
    SavedLevels,
    restore_bucket,
    saved_bucket,
)

# The instants of two processes: their clocks have nothing in common.
BEFORE, AFTER = 1000 * SECOND, 7 * SECOND


def restored(bucket: TokenBucket, saved: SavedBucket | None, elapsed: int) -> TokenBucket:
    new = replace(bucket, full_at=0)
    restore_bucket(new, saved, AFTER, elapsed)
    return new


@given(
    st.integers(1, 10 * SECOND),
    st.integers(1, 1000),
    st.integers(0, 1500),
    st.integers(0, 20 * MINUTE),
)
def test_restored_bucket_is_as_full_as_one_that_went_on(
    period: int, burst: int, taken: int, elapsed: int
) -> None:
    bucket = TokenBucket(period, burst)
    bucket.take(BEFORE, min(taken, 2 * burst))
    new = restored(bucket, saved_bucket(bucket, BEFORE), elapsed)
    assert new.level(AFTER) == bucket.level(BEFORE + elapsed)
    assert new.wait(AFTER) == bucket.wait(BEFORE + elapsed)


def test_full_bucket_takes_no_time_to_be_full() -> None:
    assert saved_bucket(TokenBucket(10, 3), BEFORE) == SavedBucket(10, 3, 0)
    assert saved_bucket(None, BEFORE) is None


def test_changed_rate_keeps_the_number_of_missing_units() -> None:
    bucket = TokenBucket(SECOND, 10)
    bucket.take(BEFORE, 7)
    faster = TokenBucket(SECOND // 4, 10)
    restore_bucket(faster, saved_bucket(bucket, BEFORE), AFTER, 2 * SECOND)
    assert faster.level(AFTER) == 5


def test_smaller_burst_is_overdrawn_by_one_capacity_at_most() -> None:
    bucket = TokenBucket(SECOND, 1000)
    bucket.take(BEFORE, 1000)
    small = TokenBucket(SECOND, 5)
    restore_bucket(small, saved_bucket(bucket, BEFORE), AFTER, 0)
    assert small.level(AFTER) == -5


def test_bucket_that_was_not_saved_starts_full() -> None:
    bucket = TokenBucket(SECOND, 5)
    restore_bucket(bucket, None, AFTER, 0)
    assert bucket.level(AFTER) == 5
    restore_bucket(None, SavedBucket(1, 1, 1), AFTER, 0)


# Lanes.


def learned_lane() -> Lane:
    lane = Lane(slots=2)
    lane.take(BEFORE, 100)
    lane.confirm_model()
    update = RateLimitUpdate(Quota(60, 40), Quota(6000, 3000))
    lane.learn(BEFORE, lane.totals, update)
    lane.answer(lane.totals)
    return lane


def restart(lane: Lane, elapsed: int = 0) -> Lane:
    saved = msgspec.json.encode(lane.save("gpt-4o", BEFORE))
    new = Lane(slots=2)
    new.restore(AFTER, msgspec.json.decode(saved, type=SavedLane), elapsed)
    return new


def test_lane_keeps_its_learned_limits_and_levels() -> None:
    lane = restart(learned_lane())
    assert lane.known
    assert lane.slots is None
    assert lane.requests is not None
    assert lane.tokens is not None
    assert (lane.requests.burst, lane.requests.period) == (60, SECOND)
    assert lane.requests.level(AFTER) == 40
    assert (lane.tokens.burst, lane.tokens.level(AFTER)) == (6000, 3000)
    later = restart(learned_lane(), elapsed=5 * SECOND)
    assert later.requests is not None
    assert later.requests.level(AFTER) == 45


def test_restored_lane_learns_on() -> None:
    lane = restart(learned_lane())
    lane.take(AFTER, 10)
    update = RateLimitUpdate(Quota(60, 12), Quota(6000, 700))
    assert not lane.learn(AFTER, lane.totals, update)
    assert lane.requests is not None
    assert lane.requests.level(AFTER) == 12
    assert not restart(learned_lane()).recently_updated(AFTER + 2 * MINUTE)


def test_unknown_lane_keeps_its_probes() -> None:
    lane = restart(Lane(slots=2))
    assert (lane.known, lane.slots, lane.requests, lane.tokens) == (False, 2, None, None)
    assert lane.wait(AFTER) == 0


@pytest.mark.parametrize(("elapsed", "left"), [(0, 20), (15 * SECOND, 5), (30 * SECOND, 0)])
def test_pause_goes_on(elapsed: int, left: int) -> None:
    lane = learned_lane()
    lane.pause(BEFORE, 20 * SECOND)
    assert restart(lane, elapsed).wait(AFTER) == left * SECOND


def test_slow_lane_recovers_from_where_it_was() -> None:
    lane = learned_lane()
    lane.slow_down(BEFORE, AdmissionTotals(BEFORE, 1, 100))
    assert lane.throttle is not None
    for elapsed in (0, MINUTE):
        new = restart(lane, elapsed).throttle
        assert new is not None
        expected = 0.5 + elapsed / (5 * MINUTE)
        assert new.fraction(AFTER) == pytest.approx(expected, abs=0.001)
        assert new.period(AFTER) == pytest.approx(lane.throttle.period(BEFORE) * 0.5 / expected)
    recovered = restart(lane, 5 * MINUTE).throttle
    assert recovered is not None
    assert recovered.has_recovered(AFTER)


def test_pace_is_kept_unless_it_is_out_of_date() -> None:
    lane = Lane()
    lane.take(BEFORE)
    lane.refuse(BEFORE, 3 * SECOND, lane.totals)
    period = lane.pace_period(BEFORE)
    assert period > 3 * SECOND
    new = restart(lane, MINUTE)
    assert new.pace_period(AFTER) == pytest.approx(period, rel=1e-6)
    assert restart(lane, MINUTE + 1).pace is None
    assert restart(learned_lane()).pace is None


@pytest.mark.parametrize(
    "text",
    [
        b'{"version": 1}',
        b'{"version": 1, "saved_at": 1, "requests": {"period": 0, "burst": 1, "full_in": 0}}',
        b'{"version": 1, "saved_at": 1, "requests": {"period": 1, "burst": 1, "full_in": -1}}',
        b'{"version": 1, "saved_at": 1, "lanes": [{"name": 5, "known": true}]}',
        b'{"version": 1, "saved_at": 1, "lanes": [{"name": "m", "known": true, '
        b'"throttle": [1, 0.0]}]}',
    ],
    ids=["no time", "no period", "negative time", "name of a number", "throttle of zero"],
)
def test_values_that_make_no_sense_are_not_read(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=SavedLevels)
