"""Token buckets, quotas and their headers; the tests pass in the time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.simulator.limits import (
    MAX_MODELS,
    MINUTE,
    Bucket,
    Limits,
    Quota,
    Quotas,
    go_duration,
)

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (6, "6ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (1005, "1.005s"),
        (10_000, "10s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (72_500, "1m12.5s"),
        (3_600_000, "1h0m0s"),
        (90_061_001, "25h1m1.001s"),
    ],
)
def test_go_duration(ms: int, text: str) -> None:
    assert go_duration(ms) == text


def test_reset_headers_are_the_time_until_full() -> None:
    quota = Quota(Limits(rpm=60, tpm=600))
    quota.charge(0, 100)
    assert quota.headers(SECOND // 2) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "500ms",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "505",
        "x-ratelimit-reset-tokens": "9.5s",
    }


def test_exceeded_token_limit_costs_one_request_and_no_tokens() -> None:
    quota = Quota(Limits(rpm=10, tpm=100))
    assert quota.charge(0, 80) is None
    exceeded = quota.charge(0, 40)
    assert exceeded is not None
    assert (exceeded.kind, exceeded.used, exceeded.wait) == ("tokens", 80, 12 * SECOND)
    headers = quota.headers(0)
    assert headers["x-ratelimit-remaining-requests"] == "8"
    assert headers["x-ratelimit-remaining-tokens"] == "20"


def test_exceeded_request_limit_costs_nothing() -> None:
    quota = Quota(Limits(rpm=1, tpm=100))
    quota.charge(0, 1)
    waits = [exceeded.wait for now in range(3) if (exceeded := quota.charge(now, 1))]
    assert waits == [MINUTE, MINUTE - 1, MINUTE - 2]


def test_request_above_the_limit_never_fits() -> None:
    exceeded = Quota(Limits(rpm=1, tpm=100)).charge(0, 101)
    assert exceeded is not None
    assert exceeded.wait is None


def test_resize_keeps_units_taken_up_to_the_new_limit() -> None:
    bucket = Bucket(100)
    bucket.take(0, 40)
    bucket.resize(0, 200)
    assert (bucket.remaining(0), bucket.time_until_full(0)) == (160, 12 * SECOND)
    bucket.resize(0, 10)
    assert (bucket.remaining(0), bucket.time_until_full(0)) == (0, MINUTE)


def test_resized_bucket_refills_at_its_new_rate() -> None:
    bucket = Bucket(60)
    bucket.take(0, 60)
    bucket.resize(10 * SECOND, 600)
    assert bucket.remaining(10 * SECOND) == 550
    assert bucket.remaining(11 * SECOND) == 560


def test_new_limit_starts_with_a_full_bucket() -> None:
    quota = Quota(Limits(rpm=0, tpm=0))
    assert quota.charge(0, 10**9) is None
    assert quota.headers(0) == {}
    quota.change_limits(0, Limits(rpm=5, tpm=0))
    assert quota.headers(0)["x-ratelimit-remaining-requests"] == "5"


def test_number_of_models_with_own_limits_is_bounded() -> None:
    quotas = Quotas(Limits(1, 1), {str(number): Limits(2, 2) for number in range(MAX_MODELS)})
    quotas.change(0, "0", rpm=3)
    with pytest.raises(OverflowError):
        quotas.change(0, "one more", rpm=3)


def test_least_recently_used_model_is_dropped() -> None:
    quotas = Quotas(Limits(1, 1), {})
    first = quotas.get("first")
    for number in range(MAX_MODELS - 1):
        quotas.get(str(number))
    assert quotas.get("first") is first
    quotas.get("one more")
    assert len(quotas) == MAX_MODELS
    assert quotas.get("first") is first


LIMITS = st.integers(1, 10**7)
TIMES = st.integers(0, 10**12)


@given(LIMITS, st.lists(st.tuples(st.integers(0, 10**10), st.integers(1, 10**6))))
def test_any_window_holds_at_most_the_limit_plus_the_refill(
    limit: int, requests: list[tuple[int, int]]
) -> None:
    bucket, now, taken = Bucket(limit), 0, 0
    for pause, units in requests:
        now += pause
        if not bucket.wait(now, units):
            bucket.take(now, units)
            taken += units
        assert taken * MINUTE <= (MINUTE + now) * limit
        assert 0 <= bucket.remaining(now) <= limit


@given(LIMITS, TIMES, st.data())
def test_request_is_denied_before_its_wait_and_allowed_after_it(
    limit: int, now: int, data: Any
) -> None:
    units = st.integers(1, limit)
    bucket = Bucket(limit)
    bucket.take(now, data.draw(units))
    requested = data.draw(units)
    wait = bucket.wait(now, requested)
    assert bucket.wait(now + wait, requested) == 0
    assert not wait or bucket.wait(now + wait - 1, requested) > 0
    full = now + bucket.time_until_full(now)
    assert bucket.remaining(full) == limit
    assert full == now or bucket.time_until_full(full - 1) > 0
