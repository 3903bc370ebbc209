"""A quota as responses report it: its level by their age and order, others' use, and refusals."""

import pytest

from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.learned_quota import LearnedQuota, is_scarce
from rustygate.core.rate_limit_headers import Quota
from rustygate.core.saved_levels import SavedBucket

# Of most quotas here: a unit a second.
LIMIT = 60


class Learned:
    """A learned quota and its bucket, in seconds."""

    def __init__(self) -> None:
        self.quota = LearnedQuota()
        self.bucket: TokenBucket | None = None

    def report(
        self,
        at: float,
        remaining: int | None,
        age: float = 0,
        *,
        limit: int = LIMIT,
        admitted: int = 0,
        later: int = 0,
    ) -> None:
        """A response arrives, to a request that was admitted `age` before."""
        now = round(at * SECOND)
        self.bucket = self.quota.update(
            self.bucket,
            Quota(limit, remaining),
            now,
            admitted_at=now - round(age * SECOND),
            admitted=admitted,
            later=later,
        )

    def level(self, at: float) -> int:
        assert self.bucket is not None
        return self.bucket.level(round(at * SECOND))

    @property
    def others(self) -> float:
        """Units that others take in a minute."""
        assert self.bucket is not None
        return self.quota.others_per_minute(self.bucket)


@pytest.mark.parametrize(
    ("remaining", "later", "level"),
    [(40, 0, 40), (40, 3, 37), (None, 0, 60), (None, 3, 57)],
    ids=["level", "level and later requests", "limit", "limit and later requests"],
)
def test_first_report_sets_limit_and_level(remaining: int | None, later: int, level: int) -> None:
    learned = Learned()
    learned.report(100, remaining, later=later)
    assert learned.bucket is not None
    assert (learned.bucket.burst, learned.bucket.period) == (LIMIT, SECOND)
    assert [learned.level(at) for at in (100, 102)] == [level, min(LIMIT, level + 2)]


def test_response_without_a_quota_changes_nothing() -> None:
    learned = Learned()
    learned.report(100, 40)
    for bucket in None, learned.bucket:
        kept = learned.quota.update(bucket, None, 0, admitted_at=0, admitted=0, later=0)
        assert kept is bucket


@pytest.mark.parametrize(
    ("remaining", "age", "level"),
    [(30, 0, 30), (30, 10, 30), (30, 10.5, 40), (30, 20, 50), (55, 20, 60), (0, 70, 60)],
)
def test_level_in_a_response_that_took_long_is_credited_with_the_refill(
    remaining: int, age: float, level: int
) -> None:
    learned = Learned()
    learned.report(100, 50)
    learned.report(130, remaining, age)
    assert learned.level(130) == level


def test_response_that_took_long_raises_no_level() -> None:
    learned = Learned()
    learned.report(100, 5)
    learned.report(105, 50, 20)
    assert learned.level(105) == 10


@pytest.mark.parametrize(("age", "level"), [(0, 0), (0.9, 0), (3, -3), (9, -8)])
def test_later_requests_overdraw_only_what_has_refilled_since(age: float, level: int) -> None:
    """Upstream admits no more than it has. What goes beyond that is refused."""
    learned = Learned()
    learned.report(100, 2, age, later=10)
    assert learned.level(100) == level


@pytest.mark.parametrize("remaining", [None, 50], ids=["unknown", "reported late"])
def test_overdraft_is_a_minute_at_most(remaining: int | None) -> None:
    learned = Learned()
    learned.report(100, 5)
    assert learned.bucket is not None
    learned.bucket.fill_to(100 * SECOND, -500)
    learned.report(101, remaining, 20)
    assert learned.level(101) == -LIMIT


@pytest.mark.parametrize(
    ("limit", "remaining", "elapsed", "level"),
    [
        (60, 35, 0.2, 30),
        (60, 35, 0.5, 30),
        (60, 35, 0.51, 35),
        (60, 25, 0.2, 25),
        (6000, 60, 0.2, 50),
        (6000, 45, 0.2, 45),
    ],
    ids=["soon", "half a second", "later", "lower", "with refill", "lower with refill"],
)
def test_lowest_of_the_levels_for_requests_admitted_together_counts(
    limit: int, remaining: int, elapsed: float, level: int
) -> None:
    """Upstream may have seen them in another order."""
    learned = Learned()
    learned.report(100, 30, limit=limit)
    learned.report(100 + elapsed, remaining, limit=limit)
    assert learned.level(100 + elapsed) == level


def test_group_sets_limit_period_and_level() -> None:
    quota, now = LearnedQuota(), 100 * SECOND
    assert quota.adopt(None, now, -1, 0, SECOND, 0) is None
    bucket = quota.adopt(None, now, LIMIT, 0, 2 * SECOND, 20 * SECOND)
    assert bucket is not None
    assert (bucket.burst, bucket.period, bucket.level(now)) == (LIMIT, 2 * SECOND, 50)
    assert quota.others_per_minute(bucket) == pytest.approx(30)
    assert quota.adopt(bucket, now, -1, 0, SECOND, 0) is bucket
    assert quota.adopt(bucket, now, LIMIT, 0, SECOND, 5 * SECOND) is bucket
    assert (bucket.period, bucket.level(now)) == (SECOND, 55)


def test_level_is_kept_over_a_restart_and_refills_meanwhile() -> None:
    learned = Learned()
    learned.report(100, 40)
    saved = learned.quota.save(learned.bucket, 100 * SECOND)
    assert saved == SavedBucket(SECOND, LIMIT, 20 * SECOND)
    restored = LearnedQuota().restore(7 * SECOND, saved, 5 * SECOND)
    assert restored is not None
    assert (restored.burst, restored.period) == (LIMIT, SECOND)
    assert restored.level(7 * SECOND) == 45
    assert learned.quota.save(None, 0) is None
    assert learned.quota.restore(0, None, 0) is None


@pytest.mark.parametrize("refused", [0, 1], ids=["no refusals", "refusals"])
def test_units_that_do_not_come_back_are_taken_by_others(refused: int) -> None:
    """A request that upstream refused has taken none."""
    learned = Learned()
    for second in range(60):
        learned.report(100 + second, 20, admitted=refused * second)
        learned.quota.count_refusal(1 + second, refused)
    assert learned.others == pytest.approx(50, abs=3)
    # As much as others take in 1.75 s is left to them.
    assert learned.level(159) == 20 - 2
    assert learned.quota.take_left() == 18
    assert learned.quota.take_left() is None
    # While much is left, they matter no longer.
    learned.report(200, 50)
    assert (learned.others, learned.level(200)) == (0, 50)


@pytest.mark.parametrize("admitted", [4, 5, 6])
def test_refused_request_is_not_taken_for_others_use(admitted: int) -> None:
    """Whether the first report, at the fifth request, counted it as spent or not."""
    learned = Learned()
    learned.report(100, 10, admitted=5)
    learned.quota.count_refusal(admitted, 1)
    learned.report(101, 11, admitted=max(5, admitted))
    learned.report(102, 12, admitted=max(5, admitted))
    assert learned.others == 0


@pytest.mark.parametrize(
    ("quota", "later", "scarce"),
    [
        (None, 0, False),
        (Quota(60, None), 0, False),
        (Quota(60, 31), 0, False),
        (Quota(60, 31), 1, True),
        (Quota(60, 30), 0, True),
    ],
)
def test_half_of_a_quota_is_scarce(quota: Quota | None, later: int, scarce: bool) -> None:
    assert is_scarce(quota, later) is scarce


def test_older_response_lowers_the_level_only() -> None:
    learned = Learned()
    learned.report(100, 30)

    def lower(at: float, remaining: int | None, unanswered: int = 0) -> int:
        quota = None if remaining is None else Quota(LIMIT, remaining)
        now = round(at * SECOND)
        learned.quota.lower(
            learned.bucket, quota, now, admitted_at=99 * SECOND, unanswered=unanswered
        )
        return learned.level(at)

    assert lower(100, None) == 30
    assert lower(100, 35) == 30
    assert lower(100, 25, 3) == 22
    assert lower(100, 2, 9) == 0
