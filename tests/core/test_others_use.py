"""How fast others take from a quota, with passed-in time."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import SECOND
from rustygate.core.others_use import OthersUse

PERIOD, LIMIT = SECOND // 10, 600


class Quota:
    """A quota of ten units a second, whose level is reported each tenth of a second."""

    def __init__(self, level: int = 100) -> None:
        self.now, self.level, self.spent = 0, level, 0
        self.use = OthersUse(0, level, 0)

    def run(self, seconds: int, ours: float, others: float) -> None:
        """Let us and others take units at these rates per second."""
        for _ in range(seconds * 10):
            self.now += SECOND // 10
            taken = round(self.now * ours / SECOND) - round(
                (self.now - SECOND // 10) * ours / SECOND
            )
            gone = round(self.now * others / SECOND) - round(
                (self.now - SECOND // 10) * others / SECOND
            )
            self.spent += taken
            self.level = min(LIMIT, self.level + 1) - taken - gone
            self.use.observe(self.now, self.level, self.spent, PERIOD, LIMIT)


@pytest.mark.parametrize(("ours", "others"), [(5, 5), (2, 8), (8, 2), (3, 0), (10, 0), (0, 5)])
def test_share_is_what_others_take(ours: float, others: float) -> None:
    quota = Quota()
    quota.run(20, ours, others)
    assert quota.use.share == pytest.approx(others / 10, abs=0.06)
    assert quota.use.left(PERIOD) == pytest.approx(PERIOD / max(1 / 8, 1 - others / 10), rel=0.1)


def test_share_follows_within_5_s() -> None:
    quota = Quota()
    quota.run(5, 5, 5)
    assert 0.35 <= quota.use.share <= 0.5
    quota.run(5, 10, 0)
    assert quota.use.share <= 0.1


def test_refill_of_a_full_quota_is_not_missing() -> None:
    quota = Quota(LIMIT)
    quota.run(10, 2, 0)
    assert quota.use.share == 0


def test_others_take_seven_eighths_at_most() -> None:
    quota = Quota(500)
    quota.run(10, 0, 20)
    assert quota.use.share == 1
    assert quota.use.left(PERIOD) == 8 * PERIOD


def test_reserve_is_what_others_take_in_a_moment() -> None:
    quota = Quota()
    quota.run(10, 5, 5)
    assert quota.use.reserve(PERIOD, LIMIT) == pytest.approx(8.75, abs=1)
    assert quota.use.reserve(PERIOD, 30) == 3
    quota.run(20, 5, 0)
    assert quota.use.reserve(PERIOD, LIMIT) == 0


def test_requests_admitted_together_are_taken_as_one() -> None:
    """Upstream may report each of them as if it had seen all."""
    use = OthersUse(0, 0, 0)
    for spent in range(100, 2100, 100):
        use.observe(SECOND, 0, spent, SECOND // 2000, 120_000)
    use.observe(2 * SECOND, 2000, 2000, SECOND // 2000, 120_000)
    assert use.share == 0


@pytest.mark.parametrize(
    ("period_s", "averaged"),
    [(0.1, [False, False, True, False, True]), (1, [False, False, False, False, True])],
    ids=["a quarter of a second", "a unit's time"],
)
def test_share_is_averaged_over_some_time(period_s: float, averaged: list[bool]) -> None:
    """Of the first second, in which others take everything."""
    use = OthersUse(0, 30, 0)
    period, times = round(period_s * SECOND), (0.2, 0.4, 0.6, 1, 1.1)
    found = [use.observe(round(at * SECOND), 30, 0, period, LIMIT) for at in times]
    assert found == averaged
    assert use.share == pytest.approx(1 - exp(-1 / max(3, 10 * period_s)))


def test_units_that_others_return_are_not_kept_for_later() -> None:
    """A negative share is limited, too, so that the next use is seen soon."""
    use = OthersUse(0, 0, 0)
    use.observe(SECOND, 200, 0, PERIOD, LIMIT)
    for second in range(2, 7):
        use.observe(second * SECOND, 200, 0, PERIOD, LIMIT)
    # Four seconds after it was -1, the average of 1.
    assert use.share == pytest.approx(1 - 2 * exp(-4 / 3))


@given(
    st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 600), st.integers(-9, 600))),
)
def test_any_reports_leave_a_share_of_the_quota(reports: list[tuple[int, int, int]]) -> None:
    use, at, spent = OthersUse(0, 0, 0), 0, 0
    for elapsed, level, taken in reports:
        at, spent = at + elapsed, spent + taken
        use.observe(at, level, spent, PERIOD, LIMIT)
        assert 0 <= use.share <= 1
        assert PERIOD <= use.left(PERIOD) <= 8 * PERIOD
        assert 0 <= use.reserve(PERIOD, LIMIT) <= 60
