"""Exchanges, batches and reports for the tests of the usage record."""

from typing import Any

from rustygate.core.price_list import ModelPrice, PriceList, rate_of
from rustygate.core.usage_rows import COLUMNS, UsageKey, UsageQuery, UsageTotals
from rustygate.exchange import Exchange

DAY = "2026-11-28"
# DAY, at 23:59:59 UTC.
EVENING_NS = 1_795_910_399 * 10**9

# 2, 1, 5 and 10 dollars per million tokens of input, cached and written input, and output.
RATES = [rate_of(input=2, cached=1, written=5, output=10)]
PRICES = PriceList(
    own={
        "m": ModelPrice(RATES),
        "speaks": ModelPrice(RATES, media_apart=True),
        "free": ModelPrice([rate_of(input=0, cached=0, written=0, output=0)]),
    }
)

EVER = UsageQuery("0001-01-01", "9999-12-31", COLUMNS)


def exchange(client: str = "a", **stamps: Any) -> Exchange:
    """A settled exchange."""
    given: dict[str, Any] = {"status": 200, "outcome": "ok", "model": "m"}
    return Exchange(client, "POST", "/v1/chat/completions", **(given | stamps))


def batch(
    client: str = "a", model: str = "m", day: str = DAY, **amounts: int
) -> dict[UsageKey, UsageTotals]:
    """One row of usage, with one exchange."""
    return {UsageKey(day, client, model): UsageTotals(**({"exchanges": 1} | amounts))}


def by(*columns: str, since: str = DAY, until: str = DAY, client: str | None = None) -> UsageQuery:
    return UsageQuery(since, until, columns, client)
