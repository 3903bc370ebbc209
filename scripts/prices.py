"""Generates `rustygate/telemetry/usage/prices.json` from the data of the genai-prices package.

The gate needs the prices of text tokens, a small part of that data; the package itself would bring
pydantic and an HTTP client into the daemon. To take newer prices: `scripts/lock --upgrade-package
genai-prices`, then `scripts/prices`.

Left out: providers without an API like OpenAI's, and what tokens do not show: prices of service
tiers and batches, and fees for tools and searches. If tokens and the day do not decide a model's
price, for example because it depends on the time of day, the model stays in the list without a
price: its cost is not known, and no later entry may match its name.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices import types
from genai_prices.data_snapshot import get_snapshot

TARGET = Path(__file__).parents[1] / "rustygate/telemetry/usage/prices.json"

# Providers without an API like OpenAI's.
LEFT_OUT = {"cursor", "elevenlabs", "github-copilot", "openai-decisions", "typesafe"}

# Prices of the tokens that a response counts, in the order of a rate.
TOKEN_PRICES = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok")

# Responses count media in the input separately; the cost of such an exchange is not known. In the
# output, only audio is always counted separately.
_MEDIA = re.compile(r".*(audio|image|video).*_mtok")
_UNCOUNTED = re.compile(r"output_(image|video)_mtok")

# Left out: these fees do not affect the prices of tokens.
_FEES = {"web_searches_kcount", "storage_searches_kcount", "cache_write_1h_mtok"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=TARGET)
    parser.parse_args().output.write_text(make_list())


def make_list() -> str:
    """The text of prices.json: one line per model, for readable diffs."""
    providers = [each for each in get_snapshot().providers if each.id not in LEFT_OUT]
    blocks = ",\n".join(map(_provider, providers))
    source = f"genai-prices {version('genai-prices')}"
    return f'{{"source": {json.dumps(source)}, "providers": [\n{blocks}\n]}}\n'


def _provider(provider: types.Provider) -> str:
    head = {
        "id": provider.id,
        "name": provider.name,
        "url": provider.api_pattern,
        "fallback": provider.fallback_model_providers or [],
    }
    models = ",\n".join(json.dumps(_model(model)) for model in provider.models)
    return f'{json.dumps(head)[:-1]}, "models": [\n{models}\n]}}'


def _model(model: types.ModelInfo) -> dict[str, Any]:
    names, patterns = _matches(model.match)
    fields: dict[str, Any] = {"names": names}
    if patterns:
        fields["pattern"] = "|".join(patterns)
    prices = _dated_prices(model)
    if prices is None:
        return fields
    if any(map(_MEDIA.fullmatch, _keys(prices))):
        fields["media_apart"] = True
    fields["rates"] = [rate for since, price in prices for rate in _rates(since, price)]
    return fields


# Prices.

_Dated = list[tuple[str, types.ModelPrice]]


def _dated_prices(model: types.ModelInfo) -> _Dated | None:
    """The prices and the days from which they apply; None if they do not decide the cost."""
    if isinstance(model.prices, types.ModelPrice):
        prices = [("", model.prices)]
    else:
        constraints = [each.constraint for each in model.prices]
        if any(isinstance(each, types.TimeOfDateConstraint) for each in constraints):
            return None
        prices = [(_since(each.constraint), each.prices) for each in model.prices]
    return prices if all(map(_is_known, _keys(prices))) else None


def _since(constraint: object) -> str:
    if constraint is None:
        return ""
    assert isinstance(constraint, types.StartDateConstraint), constraint
    return constraint.start_date.isoformat()


def _keys(prices: _Dated) -> set[str]:
    return {key for _, price in prices for key, value in vars(price).items() if value is not None}


def _is_known(key: str) -> bool:
    """Whether a response's tokens show how much this price applies to, or that it applies."""
    if _UNCOUNTED.fullmatch(key):
        return False
    return key in TOKEN_PRICES or key in _FEES or _MEDIA.fullmatch(key) is not None


def _rates(since: str, price: types.ModelPrice) -> Iterator[list[str | int | float]]:
    """A rate for each tier: first day, smallest input, dollars per million tokens by kind."""
    prices = [getattr(price, key) for key in TOKEN_PRICES]
    for smallest in sorted({0}.union(*map(_borders, prices))):
        usd_in, cached, written, out = (_price_at(each, smallest) for each in prices)
        usd_in = usd_in or Decimal(0)
        cached, written = (usd_in if each is None else each for each in (cached, written))
        yield [since, smallest, *map(_number, (usd_in, cached, written, out or Decimal(0)))]


def _borders(price: Decimal | types.TieredPrices | None) -> set[int]:
    """The smallest inputs of the tiers. A tier starts above its border."""
    return {t.start + 1 for t in price.tiers} if isinstance(price, types.TieredPrices) else set()


def _price_at(price: Decimal | types.TieredPrices | None, tokens: int) -> Decimal | None:
    if not isinstance(price, types.TieredPrices):
        return price
    return next((t.price for t in reversed(price.tiers) if tokens > t.start), price.base)


def _number(usd: Decimal) -> int | float:
    """As short as possible, with at most six decimals: the gate counts picodollars per token."""
    number = float(round(usd, 6))
    return int(number) if number.is_integer() else number


# Names.


def _matches(clause: Any) -> tuple[Sequence[str], Sequence[str]]:
    """The names in lower case, and the regular expressions, that a clause matches."""
    match clause:
        case types.ClauseEquals():
            return [clause.equals.lower()], []
        case types.ClauseOr():
            parts = [_matches(part) for part in clause.or_]
            return [n for names, _ in parts for n in names], [p for _, ps in parts for p in ps]
        case _:
            return [], [_pattern(clause)]


def _pattern(clause: Any) -> str:
    match clause:
        case types.ClauseStartsWith():
            return f"^{re.escape(clause.starts_with.lower())}"
        case types.ClauseEndsWith():
            return rf"{re.escape(clause.ends_with.lower())}\Z"
        case types.ClauseContains():
            return re.escape(clause.contains.lower())
        case types.ClauseEquals():
            return rf"^{re.escape(clause.equals.lower())}\Z"
        case types.ClauseRegex():
            return f"(?:{clause.regex})"
        case types.ClauseOr():
            return f"(?:{'|'.join(map(_pattern, clause.or_))})"
        case types.ClauseAnd():
            return "^" + "".join(f"(?=.*(?:{_pattern(part)}))" for part in clause.and_)
    raise TypeError(f"unknown clause: {clause!r}")


if __name__ == "__main__":
    main()
