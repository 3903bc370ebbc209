"""The share of a group's limits with which a member continues alone, with passed-in time."""

import pytest

from rustygate.admission.group.shares import changed, part_of
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, (100, 10, 1000, 600, 4)),
        (0.5, (200, 5, 2000, 300, 2)),
        (0.3, (334, 3, 3334, 180, 1)),
        (0.01, (10_000, 1, 100_000, 6, 1)),
        (0.333, (301, 3, 3004, 199, 1)),
    ],
)
def test_share_is_at_least_one_unit(
    share: float, expected: tuple[int, int, int, int, int]
) -> None:
    limits = Budgets(TokenBucket(100, 10), TokenBucket(1000, 600), 4)
    part = part_of(limits, share)
    assert part.requests is not None
    assert part.tokens is not None
    found = part.requests.period, part.requests.burst, part.tokens.period, part.tokens.burst
    assert (*found, part.slots) == expected


def test_almost_equal_shares_leave_no_unit_unused() -> None:
    assert [part_of(Budgets(slots=6), share).slots for share in (0.333, 0.32)] == [2, 1]


def test_limits_that_are_not_set_have_no_share() -> None:
    part = part_of(Budgets(), 0.5)
    assert (part.requests, part.tokens, part.slots) == (None, None, None)


@pytest.mark.parametrize(
    ("taken", "share", "level"),
    [(0, 0.5, 5), (0, 1.0, 8), (4, 0.5, 3), (12, 0.5, -1)],
    ids=["share", "no more than the burst", "of what is left", "of a debt"],
)
def test_changed_bucket_has_a_share_of_the_level(taken: int, share: float, level: int) -> None:
    bucket = TokenBucket(SECOND, 10)
    bucket.take(0, taken)
    after = changed(bucket, TokenBucket(2 * SECOND, 8), 0, share)
    assert after is bucket
    assert (after.period, after.burst, after.level(0)) == (2 * SECOND, 8, level)


def test_bucket_that_did_not_exist_begins_empty() -> None:
    after = changed(None, TokenBucket(SECOND, 8), 5, 1.0)
    assert after is not None
    assert (after.level(5), after.wait(5)) == (0, SECOND)
    assert changed(TokenBucket(SECOND, 8), None, 5, 1.0) is None
