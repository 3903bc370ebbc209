"""Sets of budgets, with passed-in time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets


def budgets(slots: int | None = None) -> Budgets:
    """Two requests at once, then one a second; ten tokens at once, then two a second."""
    return Budgets(TokenBucket(SECOND, 2), TokenBucket(SECOND // 2, 10), slots)


@pytest.mark.parametrize(
    ("requests", "tokens", "wanted", "wait"),
    [(0, 0, 10, 0), (2, 0, 0, SECOND), (1, 10, 4, 2 * SECOND), (2, 10, 1, SECOND)],
    ids=["room", "no requests", "no tokens", "both"],
)
def test_wait_is_that_of_the_scarcest_budget(
    requests: int, tokens: int, wanted: int, wait: int
) -> None:
    spent = budgets()
    for number in range(requests):
        spent.take(0, 0 if number else tokens)
    assert spent.wait(0, wanted) == wait


def test_slot_becomes_free_by_a_release() -> None:
    full = budgets(slots=1)
    full.take(0)
    assert full.wait(0) is None
    full.release()
    assert full.wait(0) == 0


def test_cost_above_the_capacity_counts_as_the_capacity() -> None:
    taken = budgets()
    assert taken.wait(0, 1000) == 0
    taken.take(0, 1000)
    assert taken.wait(0, 1) == SECOND // 2
    taken.give_back(1000)
    assert taken.wait(0, 10) == 0


def test_debt_is_bounded() -> None:
    taken = budgets()
    taken.take(0, 5)
    taken.settle(0, 5, 10**9)
    assert taken.wait(0, 10) == 10 * SECOND


@pytest.mark.parametrize(("tokens", "cost"), [(0, SECOND), (2, SECOND), (6, 3 * SECOND)])
def test_cost_is_the_refill_time_of_the_most_strained_budget(tokens: int, cost: int) -> None:
    assert budgets().cost(tokens) == cost


def test_without_buckets_every_exchange_costs_one() -> None:
    assert Budgets(slots=3).cost(5000) == Budgets().cost(0) == 1


@given(st.lists(st.integers(0, 3), max_size=3), st.integers(0, 10), st.integers(0, 10))
def test_settling_is_like_taking_the_actual_cost(
    before: list[int], estimated: int, actual: int
) -> None:
    one, other = budgets(), budgets()
    for tokens in before:
        one.take(0, tokens)
        other.take(0, tokens)
    one.take(0, estimated)
    one.settle(0, estimated, actual)
    other.take(0, actual)
    assert repr(one) == repr(other)


@given(st.integers(0, 100))
def test_take_then_give_back_is_identity(tokens: int) -> None:
    taken = budgets()
    taken.take(SECOND, 7)
    before = repr(taken)
    taken.take(SECOND, tokens)
    taken.give_back(tokens)
    taken.release()
    assert repr(taken) == before
