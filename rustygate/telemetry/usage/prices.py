"""The prices that apply to a gate: its own, then those of its upstream's provider.

`scripts/prices` generates `prices.json` from the data of the genai-prices package.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rustygate.config import Settings, read_prices_file
from rustygate.core.price_list import ListedModel, ModelPrice, PriceList, rate_of

# Whose prices apply if the upstream's provider is not known: another server with OpenAI's model
# names is most likely a proxy in front of OpenAI.
DEFAULT_PROVIDER = "openai"

# First day, smallest input, and dollars per million tokens of input, cached input, input written
# to the cache, and output.
_RateRow = tuple[str, int, float, float, float, float]


class _Model(msgspec.Struct):
    names: list[str]
    pattern: str | None = None
    rates: list[_RateRow] = []
    media_apart: bool = False


class _Provider(msgspec.Struct):
    id: str
    name: str
    url: str
    fallback: list[str]
    # Decoded only for the providers that apply.
    models: msgspec.Raw


class _Prices(msgspec.Struct):
    source: str
    providers: list[_Provider]


def load_prices(settings: Settings) -> PriceList:
    """The prices for a gate with these settings. Raises PricesError."""
    path = settings.prices_file
    own = {} if path is None else read_prices_file(path)
    return PriceList(_listed(settings.openai_base_url), own)


def describe_list(base_url: str) -> str:
    """The provider whose prices apply to an upstream, and the source of the prices."""
    prices = _read()
    return f"{_provider_of(prices, base_url).name}, from {prices.source}"


def _listed(base_url: str) -> Iterator[ListedModel]:
    prices = _read()
    provider = _provider_of(prices, base_url)
    by_id = {each.id: each for each in prices.providers}
    for each in (provider, *(by_id[name] for name in provider.fallback)):
        yield from map(_listed_model, msgspec.json.decode(each.models, type=list[_Model]))


def _read() -> _Prices:
    data = Path(__file__).with_name("prices.json").read_bytes()
    return msgspec.json.decode(data, type=_Prices)


def _provider_of(prices: _Prices, base_url: str) -> _Provider:
    providers = prices.providers
    default = next(each for each in providers if each.id == DEFAULT_PROVIDER)
    return next((each for each in providers if re.match(each.url, base_url)), default)


def _listed_model(model: _Model) -> ListedModel:
    rates = [
        rate_of(
            since=since, input_from=start, input=usd_in, cached=cached, written=written, output=out
        )
        for since, start, usd_in, cached, written, out in model.rates
    ]
    price = ModelPrice(rates, media_apart=model.media_apart) if rates else None
    return ListedModel(model.names, model.pattern, price)
