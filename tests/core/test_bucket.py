"""The token bucket's laws, with passed-in time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import SECOND, TokenBucket

MS = SECOND // 1000

periods = st.integers(1, 10 * SECOND)
bursts = st.integers(1, 1000)
instants = st.integers(0, 10**18)
steps = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 20)), max_size=60)


def test_new_bucket_is_full() -> None:
    bucket = TokenBucket(period=SECOND, burst=3)
    assert [bucket.level(0), bucket.wait(0, 3)] == [3, 0]
    assert bucket.wait(0, 4) == SECOND


def test_repr_shows_the_live_state() -> None:
    bucket = TokenBucket(period=5, burst=2)
    bucket.take(now=10)
    assert repr(bucket) == "TokenBucket(period=5, burst=2, full_at=15)"


@pytest.mark.parametrize(
    ("rate", "period"),
    [(1, SECOND), (3, 333_333_334), (0.5, 2 * SECOND), (1e12, 1), (0.1, 10 * SECOND)],
)
def test_period_is_rounded_up_so_that_the_rate_is_never_exceeded(rate: float, period: int) -> None:
    assert TokenBucket.from_rate(rate, 1).period == period


@pytest.mark.parametrize("rate", [1e-20, 1e-320])
def test_wait_at_the_lowest_rate_is_finite(rate: float) -> None:
    bucket = TokenBucket.from_rate(rate, 10**12)
    bucket.take(0, 10**12)
    assert bucket.wait(0, 10**12) / SECOND > 10**24


@given(periods, bursts, steps)
def test_any_window_holds_at_most_burst_and_rate_times_its_length(
    period: int, burst: int, arrivals: list[tuple[int, int]]
) -> None:
    bucket = TokenBucket(period, burst)
    taken: list[tuple[int, int]] = []
    now = 0
    for pause, cost in arrivals:
        now += pause
        if bucket.wait(now, cost) == 0:
            bucket.take(now, cost)
            taken.append((now, cost))
    for first, (begin, _) in enumerate(taken):
        for last in range(first, len(taken)):
            units = sum(cost for _, cost in taken[first : last + 1])
            assert (units - burst) * period <= taken[last][0] - begin


@given(periods, bursts, instants, st.integers(1, 1000), st.integers(1, 1000))
def test_denied_before_the_promised_instant_and_allowed_at_it(
    period: int, burst: int, now: int, spent: int, cost: int
) -> None:
    bucket = TokenBucket(period, burst)
    bucket.take(now, spent)
    cost = min(cost, burst)
    wait = bucket.wait(now, cost)
    assert bucket.wait(now + wait, cost) == 0
    if wait:
        assert bucket.wait(now + wait - 1, cost) == 1


@given(
    periods,
    bursts,
    instants,
    st.lists(st.tuples(st.integers(0, SECOND), st.integers(1, 100)), max_size=3),
    st.lists(st.integers(1, 100), min_size=1, max_size=3),
    st.integers(0, SECOND),
    st.integers(0, 9),
)
def test_take_then_give_back_is_identity(
    period: int,
    burst: int,
    now: int,
    before: list[tuple[int, int]],
    costs: list[int],
    later: int,
    lags: int,
) -> None:
    touched, untouched = TokenBucket(period, burst), TokenBucket(period, burst)
    for bucket in (touched, untouched):
        for _ in range(lags):
            bucket.increase_lag()
        for ago, spent in sorted(before, reverse=True):
            bucket.take(now - ago, spent)
    for cost in costs:
        touched.take(now, cost)
    for cost in costs:
        touched.give_back(cost)
    assert touched.level(now + later) == untouched.level(now + later)
    assert touched.wait(now + later, burst) == untouched.wait(now + later, burst)
    touched.take(now + later)
    untouched.take(now + later)
    assert touched == untouched


@given(periods, bursts, instants)
def test_wait_and_level_take_nothing(period: int, burst: int, now: int) -> None:
    bucket = TokenBucket(period, burst)
    before = repr(bucket)
    bucket.wait(now, burst)
    bucket.level(now)
    assert repr(bucket) == before


@given(periods, bursts, instants)
def test_level_counts_whole_units(period: int, burst: int, now: int) -> None:
    bucket = TokenBucket(period, burst)
    bucket.take(now, burst)
    assert bucket.level(now) == 0
    assert bucket.level(now + period - 1) == 0
    assert bucket.level(now + period) == 1
    assert bucket.level(now + burst * period) == burst


# A bucket that starts to refill late.


def instants_of(bucket: TokenBucket, now: int, count: int) -> list[int]:
    """When this many units are taken from an instant on, each as soon as possible, in ms."""
    taken = []
    for _ in range(count):
        now += bucket.wait(now)
        bucket.take(now)
        taken.append(now // MS)
    return taken


def test_bucket_refills_late_once_after_it_was_full() -> None:
    bucket = TokenBucket(100 * MS, 3)
    assert instants_of(bucket, 0, 5) == [0, 0, 0, 100, 200]
    bucket.increase_lag()
    assert instants_of(bucket, 250 * MS, 2) == [300, 400]
    assert instants_of(bucket, 2000 * MS, 6) == [2000, 2000, 2002, 2102, 2202, 2302]
    assert instants_of(bucket, 9000 * MS, 4) == [9000, 9000, 9002, 9102]


@pytest.mark.parametrize(
    ("period", "burst", "lags"),
    [
        (100 * MS, 10, [2 * MS, 4 * MS, 8 * MS, 16 * MS, 18 * MS, 18 * MS]),
        (100 * MS, 2, [2 * MS, 2 * MS]),
        (SECOND, 3, [2 * MS, 4 * MS, 8 * MS, 16 * MS, 32 * MS, 40 * MS, 40 * MS]),
        (MS, 2, [20_000, 20_000]),
        (MS, 1, [0, 0]),
    ],
)
def test_lag_doubles_up_to_a_fiftieth_of_the_time_to_refill_all_but_one(
    period: int, burst: int, lags: list[int]
) -> None:
    bucket = TokenBucket(period, burst)
    for lag in lags:
        bucket.increase_lag()
        assert bucket.lag == lag


@pytest.mark.parametrize("burst", [1, 2, 20])
def test_bucket_that_refills_late_keeps_its_rate_under_steady_demand(burst: int) -> None:
    bucket = TokenBucket(100 * MS, burst)
    for _ in range(9):
        bucket.increase_lag()
    taken = instants_of(bucket, 0, burst + 50)[-50:]
    assert taken == [taken[0] + 100 * number for number in range(50)]


def test_bucket_that_is_almost_full_refills_as_if_it_had_been_full() -> None:
    bucket = TokenBucket(100 * MS, 3)
    bucket.take(0)
    bucket.increase_lag()
    assert instants_of(bucket, 99 * MS, 4) == [99, 99, 101, 201]
    bucket.take(1000 * MS, 3)
    assert instants_of(bucket, 1300 * MS, 4) == [1300, 1300, 1302, 1402]
