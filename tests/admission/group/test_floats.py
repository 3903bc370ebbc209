"""Which admissions a member holds in advance, with passed-in time."""

import pytest

from rustygate.admission.group.floats import Floats, Held
from rustygate.core.bucket import SECOND
from rustygate.core.group_floats import MAX_FLOAT
from rustygate.core.lane import AdmissionTotals

MS = SECOND // 1000


def requested(
    floats: Floats,
    elapsed: int = 0,
    now: int = 0,
    *,
    contended: bool = False,
    waiting: bool = False,
    scarce: bool = True,
) -> list[list[object]]:
    """What a call asks for."""
    return floats.request(elapsed, now, contended=contended, waiting=waiting, scarce=scarce)


def holding(count: int, tokens: int, noted: int) -> tuple[Floats, Held]:
    """A float of this many admissions with tokens each, where a request takes `noted` tokens."""
    floats = Floats()
    held = floats.note("m", noted, 0)
    floats.receive([["m", count, tokens, 100, 1000]])
    return floats, held


@pytest.mark.parametrize(
    ("per_second", "scarce", "wanted"),
    [
        (0, True, 4),
        (20, True, 4),
        (21, True, 5),
        (40, True, 8),
        (4, False, 4),
        (5, False, 5),
        (40, False, 40),
        (10_000, False, MAX_FLOAT),
    ],
)
def test_float_is_wanted_for_a_part_of_a_second(
    per_second: int, scarce: bool, wanted: int
) -> None:
    floats = Floats()
    for _ in range(per_second or 1):
        floats.note("m", 7, 0)
    elapsed = SECOND if per_second else 0
    assert requested(floats, elapsed, scarce=scarce) == [["m", wanted, 7]]


def test_rate_of_requests_is_averaged_over_a_second() -> None:
    floats = Floats()
    for _ in range(10):
        held = floats.note("m", 0, 0)
    requested(floats)
    assert held.rate == 0
    requested(floats, SECOND // 4)
    assert held.rate == pytest.approx(40 / 4)
    requested(floats, SECOND // 2)
    assert held.rate == pytest.approx(10 / 2)
    requested(floats, 10 * SECOND)
    assert held.rate == 0


def test_lane_without_requests_for_two_seconds_needs_no_float() -> None:
    floats = Floats()
    floats.note("m", 5, SECOND)
    assert requested(floats, now=3 * SECOND) == [["m", 4, 5]]
    assert requested(floats, now=3 * SECOND + 1) == []
    floats.note("m", 3, 4 * SECOND)
    assert requested(floats, now=4 * SECOND) == [["m", 4, 3]]


def test_float_is_for_the_largest_request_lately() -> None:
    floats = Floats()
    wanted = [floats.note("m", tokens, 0).wanted_tokens for tokens in (100, 10, 10, 200)]
    assert wanted == [100, 90, 81, 200]


def test_each_admission_is_marked_with_the_totals_of_its_lane() -> None:
    floats, held = holding(3, 10, 10)
    assert floats.take(held, 4, 55) == AdmissionTotals(55, 101, 1004)
    assert floats.take(held, 6, 66) == AdmissionTotals(66, 102, 1010)
    assert (held.count, held.used, floats.held) == (1, 2, 1)
    assert repr(floats) == "<Floats {'m': 1}>"


def test_what_is_used_during_a_call_is_not_held_after_it() -> None:
    floats, held = holding(4, 10, 10)
    floats.take(held, 10, 0)
    assert requested(floats) == [["m", 4, 10]]
    for _ in range(2):
        floats.take(held, 7, 0)
    floats.receive([["m", 4, 5, 200, 3000], ["other", 3, 9, 1, 9]])
    assert floats.held == 2 + 3
    assert floats.take(held, 1, 9) == AdmissionTotals(9, 203, 3011)
    floats.receive([["m", 1, 5, 200, 3000]])
    assert floats.held == 0


def test_float_is_low_at_half_of_what_there_was() -> None:
    floats, held = holding(4, 10, 10)
    low = []
    for _ in range(4):
        low.append(held.is_low)
        floats.take(held, 10, 0)
    assert low == [False, False, True, True]


@pytest.mark.parametrize(
    ("tokens", "noted", "asked"),
    [(10, 10, 10), (10, 5, 10), (10, 4, None), (10, 11, None)],
    ids=["fits", "twice as large", "too large", "too small"],
)
def test_float_of_another_size_is_given_back(tokens: int, noted: int, asked: int | None) -> None:
    floats, _ = holding(1, tokens, noted)
    assert requested(floats) == ([] if asked is None else [["m", 4, asked]])
    assert floats.held == (0 if asked is None else 1)
    # The next call asks for the size that is wanted now.
    assert requested(floats) == [["m", 4, asked or noted]]


def test_float_is_given_back_while_requests_wait_here() -> None:
    floats, _ = holding(3, 10, 10)
    assert requested(floats, waiting=True) == []
    assert floats.held == 0
    assert requested(floats, waiting=True) == [["m", 4, 10]]


def test_there_is_no_float_while_requests_wait_in_the_group() -> None:
    floats, _ = holding(3, 10, 10)
    assert requested(floats, contended=True) == []
    assert floats.held == 0
    assert requested(floats, contended=True) == []


def test_float_that_the_group_took_back_is_gone() -> None:
    floats, held = holding(3, 10, 10)
    floats.take(held, 10, 0)
    floats.drop()
    assert (floats.held, repr(floats)) == (0, "<Floats {}>")
    floats.receive([["m", 3, 10, 100, 1000]])
    assert floats.held == 3
    assert not held.is_low
