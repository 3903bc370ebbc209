"""Budgets of clients per day and month: reserved, settled, and renewed at midnight UTC."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.client_budgets import (
    NANO,
    Account,
    Budget,
    ClientBudgets,
    Cost,
    Exceeded,
    budgets_of,
)
from rustygate.core.clients import SpendingLimits


def at(text: str) -> int:
    """An instant of UTC in nanoseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NANO


NOON = at("2026-11-28 12:00")
LATER = at("2026-11-28 13:00")
NEXT_DAY = at("2026-11-29 00:00")
NEXT_MONTH = at("2026-12-01 00:00")
PER_DAY = SpendingLimits(tokens_per_day=1000)
ALL = SpendingLimits(1000, 5000, 0.5, 2.0)


def account(limits: SpendingLimits = PER_DAY) -> Account:
    return Account("search", budgets_of(limits))


def spend(account: Account, now: int, tokens: int, usd: float = 0) -> None:
    """Reserve and settle a cost that has room."""
    cost = Cost(tokens, round(usd * NANO))
    assert account.reserve(now, cost) is None
    account.settle(now, cost, cost)


def test_budgets_are_those_with_a_limit() -> None:
    assert budgets_of(SpendingLimits()) == ()
    assert budgets_of(ALL) == (
        Budget("tokens_per_day", 1000),
        Budget("tokens_per_month", 5000),
        Budget("usd_per_day", NANO // 2),
        Budget("usd_per_month", 2 * NANO),
    )


def test_budget_can_be_spent_to_the_last_token_and_no_further() -> None:
    each = account()
    spend(each, NOON, 999)
    assert each.reserve(NOON, Cost(2)) == Exceeded(
        Budget("tokens_per_day", 1000), spent=999, reserved=0, cost=2, ends=NEXT_DAY
    )
    spend(each, LATER, 1)
    # Not even a request that may cost nothing.
    exceeded = each.reserve(LATER, Cost(0))
    assert exceeded is not None
    assert exceeded.spent == 1000


def test_reservation_takes_room_until_it_is_settled() -> None:
    each = account()
    assert each.reserve(NOON, Cost(600)) is None
    exceeded = each.reserve(NOON, Cost(500))
    assert exceeded is not None
    assert (exceeded.spent, exceeded.reserved) == (0, 600)
    each.settle(NOON, Cost(600), Cost(500))
    assert each.reserve(NOON, Cost(500)) is None


def test_refused_cost_takes_nothing_of_any_budget() -> None:
    each = account(SpendingLimits(tokens_per_day=1000, tokens_per_month=1500))
    spend(each, NOON, 900)
    spend(each, NEXT_DAY, 500)
    exceeded = each.reserve(NEXT_DAY, Cost(200))
    assert exceeded is not None
    assert exceeded.budget.name == "tokens_per_month"
    assert exceeded.ends == NEXT_MONTH
    assert each.reserved == Cost()


def test_actual_cost_above_the_estimate_overdraws() -> None:
    each = account()
    assert each.reserve(NOON, Cost(1000)) is None
    each.settle(NOON, Cost(1000), Cost(1300))
    [budget] = each.budgets
    assert (each.spent(budget, NOON), each.left(budget, NOON)) == (1300, 0)


@pytest.mark.parametrize(
    ("limits", "last", "first"),
    [
        (SpendingLimits(tokens_per_day=10), NEXT_DAY - 1, NEXT_DAY),
        (SpendingLimits(tokens_per_month=10), NEXT_MONTH - 1, NEXT_MONTH),
        (SpendingLimits(usd_per_day=1e-8), NEXT_DAY - 1, NEXT_DAY),
        (SpendingLimits(usd_per_month=1e-8), NEXT_MONTH - 1, NEXT_MONTH),
    ],
    ids=["tokens per day", "tokens per month", "usd per day", "usd per month"],
)
def test_budget_starts_again_with_its_period(
    limits: SpendingLimits, last: int, first: int
) -> None:
    each = account(limits)
    cost = Cost(10, 10)
    assert each.reserve(NOON, cost) is None
    each.settle(NOON, cost, cost)
    exceeded = each.reserve(last, cost)
    assert exceeded is not None
    assert exceeded.ends == first
    assert each.reserve(first, cost) is None


def test_cost_belongs_to_the_day_in_which_it_settles() -> None:
    each = account()
    cost = Cost(700)
    assert each.reserve(NEXT_DAY - 1, cost) is None
    each.settle(NEXT_DAY, cost, cost)
    [budget] = each.budgets
    assert (each.spent(budget, NEXT_DAY - 1), each.spent(budget, NEXT_DAY)) == (0, 700)


def test_clock_that_is_set_back_renews_nothing() -> None:
    each = account()
    spend(each, NEXT_DAY - 1, 800)
    spend(each, NEXT_DAY, 300)
    exceeded = each.reserve(NEXT_DAY - 1, Cost(300))
    assert exceeded is not None
    assert exceeded.spent == 800


def test_old_periods_are_forgotten_and_the_current_ones_kept() -> None:
    each = account(SpendingLimits(tokens_per_day=100, tokens_per_month=100_000))
    day = 86_400 * NANO
    for number in range(60):
        spend(each, NOON + number * day, 100)
    daily, monthly = each.budgets
    now = NOON + 59 * day
    # 28 November and 59 days: 26 January.
    assert (each.spent(daily, now), each.spent(monthly, now)) == (100, 2600)
    assert len(each._spent) == 4


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 400), st.booleans()), min_size=1, max_size=30
    )
)
def test_spent_never_exceeds_the_budget_if_estimates_hold(
    exchanges: list[tuple[int, int, bool]],
) -> None:
    """Whatever is in flight meanwhile."""
    each = account()
    [budget] = each.budgets
    in_flight: list[tuple[Cost, Cost]] = []
    for estimated, actual, settles in exchanges:
        cost = Cost(estimated)
        if each.reserve(NOON, cost) is None:
            in_flight.append((cost, Cost(min(estimated, actual))))
        if settles and in_flight:
            each.settle(NOON, *in_flight.pop(0))
        assert each.spent(budget, NOON) + each.reserved.tokens <= budget.limit
    for reserved, spent in in_flight:
        each.settle(NOON, reserved, spent)
    assert each.reserved == Cost()
    assert each.spent(budget, NOON) <= budget.limit


def test_alert_comes_once_per_level_and_period() -> None:
    each = account()
    spend(each, NOON, 799)
    assert each.alerts(NOON) == []
    spend(each, NOON, 1)
    [alert] = each.alerts(NOON)
    assert (alert.client, alert.budget.name, alert.level) == ("search", "tokens_per_day", 0.8)
    assert (alert.spent, alert.ends) == (800, NEXT_DAY)
    assert each.alerts(LATER) == []
    spend(each, LATER, 200)
    assert [alert.level for alert in each.alerts(LATER)] == [1.0]
    spend(each, NEXT_DAY, 900)
    assert [alert.level for alert in each.alerts(NEXT_DAY)] == [0.8]


def test_budget_without_room_for_a_request_counts_as_used_up() -> None:
    each = account()
    spend(each, NOON, 900)
    exceeded = each.reserve(NOON, Cost(200))
    assert exceeded is not None
    [alert] = each.alerts(NOON, exceeded.budget)
    assert (alert.level, alert.spent) == (1.0, 900)
    assert each.alerts(NOON, exceeded.budget) == []
    spend(each, NOON, 100)
    assert each.alerts(NOON) == []


def test_large_request_does_not_use_up_a_budget() -> None:
    each = account()
    spend(each, NOON, 799)
    exceeded = each.reserve(NOON, Cost(202))
    assert exceeded is not None
    assert each.alerts(NOON, exceeded.budget) == []
    spend(each, NOON, 1)
    assert [alert.level for alert in each.alerts(NOON)] == [0.8]


def test_levels_reached_at_once_are_one_alert() -> None:
    each = account()
    spend(each, NOON, 1000)
    assert [alert.level for alert in each.alerts(NOON)] == [1.0]
    assert each.alerts(NOON) == []


def test_new_limit_has_alerts_of_its_own() -> None:
    each = account()
    spend(each, NOON, 1000)
    each.alerts(NOON)
    each.budgets = budgets_of(SpendingLimits(tokens_per_day=2000))
    spend(each, NOON, 600)
    assert [alert.level for alert in each.alerts(NOON)] == [0.8]


@given(
    st.lists(
        st.tuples(
            # No more periods than an account keeps.
            st.sampled_from([NOON, LATER, NEXT_DAY]),
            st.integers(0, 10**6),
            st.integers(0, 10**12),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_counting_without_budgets_is_like_settling(
    spent: list[tuple[int, int, int, bool]],
) -> None:
    """On a clock that may go back, and with looks at the sums in between."""
    counted, settled = Account("search"), Account("search")
    periods = ("2026-11-28", "2026-11-29", "2026-11")
    for now, tokens, nano_usd, looks in spent:
        counted.count(now, tokens, nano_usd)
        settled.settle(now, Cost(), Cost(tokens, nano_usd))
        if looks:
            assert counted.spent_in(periods[0]) == settled.spent_in(periods[0])
    assert [counted.spent_in(each) for each in periods] == [
        settled.spent_in(each) for each in periods
    ]
    counted.budgets = budgets_of(PER_DAY)
    assert counted.left(counted.budgets[0], NOON) == max(
        0, 1000 - settled.spent_in("2026-11-28").tokens
    )


def test_new_limits_keep_what_was_spent() -> None:
    budgets = ClientBudgets()
    budgets.set_limits({"search": PER_DAY, "other": SpendingLimits()})
    each = budgets.account("search")
    assert each is not None
    spend(each, NOON, 900)
    assert [one.client for one in budgets.accounts()] == ["search"]
    budgets.set_limits({"search": SpendingLimits(tokens_per_day=950)})
    assert budgets.account("search") is each
    exceeded = each.reserve(NOON, Cost(100))
    assert exceeded is not None
    assert exceeded.budget.limit == 950
    budgets.set_limits({})
    assert each.reserve(NOON, Cost(100_000)) is None
    assert list(budgets.accounts()) == []
    assert budgets.account("unknown") is None
    assert repr(budgets) == "<ClientBudgets of search, other>"
