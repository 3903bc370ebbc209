"""Limits and weights of clients, as a member sends them."""

import pytest

from rustygate.admission.group.clients import clients_of, full_budgets, limits_of
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.clients import Limits
from rustygate.core.group_scheduler import MAX_PERIOD


def test_clients_are_sent_with_weights_and_limits() -> None:
    limits = Limits(requests_per_second=2, burst=5, tokens_per_minute=600, concurrency=3)
    sent = clients_of({"a": limits, "gone": limits}, {"a": 0.5, "b": 2.0})
    assert sent == [["a", 0.5, SECOND // 2, 5, 600, 3], ["b", 2.0, -1, -1, -1, -1]]


@pytest.mark.parametrize(
    "limits",
    [[-1, -1, -1, -1], [1, 1, -1, -1], [-1, -1, 60, -1], [-1, -1, -1, 0], [250, 7, 600, 9]],
    ids=["none", "requests", "tokens", "slots", "all"],
)
def test_limits_are_the_same_after_sending(limits: list[int]) -> None:
    budgets = full_budgets([*limits, 99])
    assert limits_of(budgets) == limits
    for bucket in (budgets.requests, budgets.tokens):
        assert bucket is None or bucket.level(0) == bucket.burst


def test_longest_period_is_what_the_group_accepts() -> None:
    assert limits_of(Budgets(TokenBucket(MAX_PERIOD + 1, 1)))[0] == MAX_PERIOD
