"""The cost of a settled exchange by the price list. An unknown cost is None, never 0."""

import re

from rustygate.core.price_list import PriceList
from rustygate.core.request_facts import is_work, writes_text
from rustygate.exchange import Exchange

# Endpoints whose output is priced by the image or the second.
_MEDIA = re.compile(r"/(?:images|audio|videos)(?:/|$)")


def exchange_cost(prices: PriceList, exchange: Exchange, day: str) -> int | None:
    """The cost of an exchange in nanodollars, on a day such as `2026-11-28`.

    None if it is not known: the model has no price, or is not billed by the tokens that the gate
    knows of.
    """
    model = exchange.model
    price = None if model is None else prices.find(model)
    if price is not None and price.is_free:
        return 0
    tokens_in, tokens_out = exchange.tokens_in, exchange.tokens_out
    if tokens_in is None and tokens_out is None:
        return None if exchange.outcome == "ok" and _is_unmetered(exchange) else 0
    if exchange.tokens_estimated and not writes_text(exchange.path):
        return None if _is_unmetered(exchange) else 0
    if price is None or (exchange.tokens_media and price.media_apart):
        return None
    return price.cost_nano(
        tokens_in or 0, exchange.tokens_cached or 0, tokens_out or 0, day, exchange.tokens_written
    )


def _is_unmetered(exchange: Exchange) -> bool:
    """Whether a model did work. A request without a model, such as an upload, is free."""
    if exchange.model is None and not _MEDIA.search(exchange.path):
        return False
    return is_work(exchange.method, exchange.path)
