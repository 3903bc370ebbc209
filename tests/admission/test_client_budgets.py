"""How exchanges use their clients' budgets: reservations, settlement, refusals and warnings."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from rustygate.admission.client_budgets import Spending
from rustygate.core.bucket import SECOND
from rustygate.core.client_budgets import Cost
from rustygate.core.clients import SpendingLimits
from rustygate.core.price_list import ModelPrice, PriceList, rate_of
from rustygate.core.saved_levels import SavedSpending
from rustygate.errors import BudgetExceeded, ModelNotAllowed
from rustygate.exchange import Exchange
from tests.support.gate import Log, captured_log

# Ten seconds before midnight.
NOW = int(datetime(2026, 11, 28, 23, 59, 50, tzinfo=UTC).timestamp()) * SECOND

# A dollar for a million tokens of input, and four for the output.
PRICES = PriceList(own={"gpt-4o": ModelPrice([rate_of(input=1, cached=0.5, written=1, output=4)])})


@pytest.fixture
def log() -> Iterator[Log]:
    with captured_log() as log:
        yield log


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def spending(**limits: Any) -> Spending:
    result = Spending(PRICES, Clock())
    result.set_limits({"search": SpendingLimits(**limits), "free": SpendingLimits()})
    return result


def exchange(tokens: int = 100, input_tokens: int = 40, **fields: Any) -> Exchange:
    """An exchange that reached upstream and ended well, unless it says otherwise."""
    given: dict[str, Any] = {
        "model": "gpt-4o",
        "connected": True,
        "outcome": "ok",
        "upstream_status": 200,
    }
    return Exchange(
        "search",
        "POST",
        "/v1/chat/completions",
        tokens=tokens,
        input_tokens=input_tokens,
        **(given | fields),
    )


async def run(budgets: Spending, ended: Exchange) -> Exchange:
    if budgets.has_budgets(ended.client):
        await budgets.reserve(ended)
    budgets.settle(ended)
    return ended


async def test_exchange_of_a_client_without_budgets_reserves_nothing() -> None:
    budgets = spending(tokens_per_day=10)
    for client in ("free", "unknown"):
        ended = exchange()
        ended.client = client
        await run(budgets, ended)
        assert (ended.reserved, ended.budget_left) == (None, None)
    assert budgets.left("free") == budgets.left("unknown") == {}


async def test_reported_tokens_replace_the_estimate() -> None:
    budgets = spending(tokens_per_day=1000)
    ended = exchange(tokens_in=30, tokens_out=20)
    await budgets.reserve(ended)
    assert ended.budget_left == "tokens_per_day=900"
    assert budgets.left("search") == {"tokens_per_day": 900}
    budgets.settle(ended)
    assert budgets.left("search") == {"tokens_per_day": 950}


async def test_dollars_are_reserved_by_price_and_settled_by_cost() -> None:
    budgets = spending(usd_per_day=0.001)
    ended = exchange(tokens_in=30, tokens_out=20, cost_nano=99_000)
    await budgets.reserve(ended)
    # 40 tokens of input for 1 and 60 of output for 4 millionths of a dollar.
    assert ended.budget_left == "usd_per_day=0.00072"
    budgets.settle(ended)
    assert budgets.left("search") == {"usd_per_day": pytest.approx(0.000901)}


@pytest.mark.parametrize(
    ("fields", "spent"),
    [
        ({}, 100),
        ({"outcome": "client_left", "upstream_status": None}, 100),
        ({"outcome": "aborted", "reason": "draining"}, 100),
        ({"outcome": "upstream_error", "reason": "upstream_timeout"}, 100),
        ({"outcome": "upstream_error", "upstream_status": 500}, 0),
        ({"outcome": "refused", "reason": "draining"}, 0),
        ({"outcome": "client_left", "connected": False}, 0),
        ({"outcome": "upstream_error", "reason": "upstream_unreachable", "connected": False}, 0),
        ({"outcome": "upstream_error", "tokens_in": 7, "tokens_out": 5}, 12),
        ({"tokens_in": None, "tokens_out": 5}, 5),
    ],
    ids=[
        "no usage", "client left", "aborted", "timeout", "upstream error", "refused",
        "left before it was sent", "not connected", "error in a stream", "output only",
    ],
)  # fmt: skip
async def test_what_is_charged_without_a_usage(fields: dict[str, Any], spent: int) -> None:
    budgets = spending(tokens_per_month=1000)
    await run(budgets, exchange(**fields))
    assert budgets.left("search") == {"tokens_per_month": 1000 - spent}


async def test_unknown_cost_of_work_keeps_the_reserved_dollars() -> None:
    budgets = spending(usd_per_month=0.001)
    await run(budgets, exchange(tokens_in=1, tokens_out=1, cost_nano=None))
    assert budgets.left("search") == {"usd_per_month": pytest.approx(0.00072)}


async def test_charge_that_the_usage_record_does_not_show_is_saved() -> None:
    limits = {"tokens_per_day": 1000, "usd_per_month": 0.01}
    budgets = spending(**limits)
    await run(budgets, exchange(tokens_in=30, tokens_out=20, cost_nano=99_000))
    assert budgets.save_unrecorded() == ()
    await run(budgets, exchange(outcome="client_left", cost_nano=0))
    await run(budgets, exchange(tokens_in=1, tokens_out=2, cost_nano=None))
    saved = budgets.save_unrecorded()
    assert [(each.period, each.tokens, each.nano_usd) for each in saved] == [
        ("2026-11-28", 100, 560_000),
        ("2026-11", 100, 560_000),
    ]
    restarted = spending(**limits)
    restarted.restore_unrecorded([*saved, SavedSpending("search", "2026-11-27", 7, 7)])
    assert restarted.left("search") == {
        "tokens_per_day": 900,
        "usd_per_month": pytest.approx(0.00944),
    }
    assert restarted.save_unrecorded() == saved
    # The usage record could not be read before.
    restarted.set_recorded("search", "2026-11-28", Cost(50))
    assert restarted.left("search")["tokens_per_day"] == 850


async def test_unrecorded_charge_of_a_day_is_forgotten_after_it() -> None:
    budgets = spending(tokens_per_day=1000, tokens_per_month=1000)
    await run(budgets, exchange())
    clock = budgets._clock
    assert isinstance(clock, Clock)
    clock.now += 10 * SECOND
    await run(budgets, exchange())
    assert [(each.period, each.tokens) for each in budgets.save_unrecorded()] == [
        ("2026-11-29", 100),
        ("2026-11", 200),
    ]


async def test_tokens_without_a_reservation_are_charged() -> None:
    """Such as those of a turn that upstream starts on its own."""
    budgets = spending(tokens_per_day=1000)
    budgets.settle(exchange(tokens_in=30, tokens_out=20))
    assert budgets.left("search") == {"tokens_per_day": 950}


async def test_refusal_says_what_is_used_and_when_it_starts_again() -> None:
    budgets = spending(tokens_per_day=250, tokens_per_month=10_000)
    await run(budgets, exchange(tokens_in=100, tokens_out=20))
    await budgets.reserve(exchange())
    refused = exchange()
    with pytest.raises(BudgetExceeded) as caught:
        await budgets.reserve(refused)
    refusal = caught.value
    assert refusal.message == (
        "Budget tokens_per_day of client search: 120 of 250 tokens are used and 100 tokens are "
        "reserved by other requests; this request may cost 100 tokens. The budget starts "
        "again at 2026-11-29T00:00:00Z, in 10 s."
    )
    assert refusal.error() == {
        "message": refusal.message,
        "type": "insufficient_quota",
        "param": None,
        "code": "budget_exceeded",
    }
    headers = refusal.headers()
    assert (headers["Retry-After"], headers["x-should-retry"]) == ("10", "false")
    assert (refused.reserved, refused.budget_left) == (
        None,
        "tokens_per_day=30, tokens_per_month=9780",
    )


async def test_refusal_in_dollars_shows_dollars() -> None:
    budgets = spending(usd_per_month=0.0002)
    with pytest.raises(
        BudgetExceeded, match=r"\$0\.0000 of \$0\.0002 are used; .* cost \$0\.0003"
    ):
        await budgets.reserve(exchange())


@pytest.mark.parametrize("model", ["gpt-unknown", None])
async def test_dollars_need_a_price(model: str | None) -> None:
    budgets = spending(usd_per_day=5)
    with pytest.raises(ModelNotAllowed, match="no known price") as caught:
        await budgets.reserve(exchange(model=model))
    assert "PRICES_FILE" in caught.value.message
    assert "gpt-unknown" in caught.value.message or model is None
    tokens = spending(tokens_per_day=500)
    await tokens.reserve(exchange(model=model))


async def test_warnings_come_once_at_80_and_at_100_percent(log: Log) -> None:
    budgets = spending(tokens_per_day=1000)
    for _ in range(4):
        await run(budgets, exchange(tokens_in=100, tokens_out=99))
    assert log.text == ""
    for _ in range(3):
        await run(budgets, exchange(tokens_in=1, tokens_out=4))
    assert log.text.count("client search has used 80% of its budget tokens_per_day") == 1
    await run(budgets, exchange(tokens_in=90, tokens_out=10))
    with pytest.raises(BudgetExceeded):
        await budgets.reserve(exchange())
    with pytest.raises(BudgetExceeded):
        await budgets.reserve(exchange())
    expected = (
        "client search has used up its budget tokens_per_day: 911 of 1000 tokens; it starts again "
        "at 2026-11-29T00:00:00Z"
    )
    assert log.text.count("has used") == 2
    assert expected in log.text


async def test_used_ratios_are_without_reservations() -> None:
    budgets = spending(tokens_per_day=1000, usd_per_month=0.01)
    await run(budgets, exchange(tokens_in=200, tokens_out=50, cost_nano=1_000_000))
    await budgets.reserve(exchange())
    assert list(budgets.used_ratios()) == [
        ("search", "tokens_per_day", 0.25),
        ("search", "usd_per_month", 0.1),
    ]


async def test_midnight_renews_the_day_but_not_the_month() -> None:
    budgets = spending(tokens_per_day=100, tokens_per_month=1000)
    await run(budgets, exchange(tokens_in=50, tokens_out=50))
    with pytest.raises(BudgetExceeded):
        await budgets.reserve(exchange())
    clock = budgets._clock
    assert isinstance(clock, Clock)
    clock.now += 10 * SECOND
    assert budgets.left("search") == {"tokens_per_day": 100, "tokens_per_month": 900}
    await run(budgets, exchange(tokens_in=50, tokens_out=50))


async def test_spending_before_a_client_has_budgets_counts() -> None:
    budgets = spending()
    for _ in range(2):
        await run(budgets, exchange(tokens_in=10, tokens_out=5, cost_nano=10**9))
    budgets.set_limits({"search": SpendingLimits(tokens_per_day=100, usd_per_day=5.0)})
    assert budgets.left("search") == {"tokens_per_day": 70, "usd_per_day": 3.0}


async def test_output_alone_counts_for_a_client_that_gets_a_budget_later() -> None:
    budgets = spending()
    await run(budgets, exchange(tokens_out=20))
    budgets.set_limits({"search": SpendingLimits(tokens_per_day=100)})
    assert budgets.left("search") == {"tokens_per_day": 80}


async def test_rows_tell_what_is_spent_reserved_and_left() -> None:
    budgets = spending(tokens_per_day=1000, usd_per_month=1)
    await run(budgets, exchange(tokens_in=30, tokens_out=20, cost_nano=99_000))
    await budgets.reserve(exchange())
    assert budgets.rows() == [
        {
            "client": "search",
            "budget": "tokens_per_day",
            "spent": 50,
            "reserved": 100,
            "limit": 1000,
            "left": 850,
            "ends": "2026-11-29T00:00:00Z",
        },
        {
            "client": "search",
            "budget": "usd_per_month",
            "spent": pytest.approx(0.000099),
            "reserved": pytest.approx(0.00028),
            "limit": 1,
            "left": pytest.approx(0.999621),
            "ends": "2026-12-01T00:00:00Z",
        },
    ]
    assert budgets.reads_usage
