"""Prices of models, and the cost of an exchange.

A price list names models exactly or by a regular expression; the first match applies. A gate's own
prices, the tables in PRICES_FILE, take precedence over the list:

```toml
[model."gpt-4o*"]
input_usd_per_mtok = 2.5
cached_input_usd_per_mtok = 1.25
output_usd_per_mtok = 10
```

Prices are integers, in picodollars per token: a dollar per million tokens is a million of them.
Costs are integers too, in nanodollars, rounded once for each exchange.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf
from typing import Any, NamedTuple

from rustygate.core.toml_tables import TomlError, parse_toml, shown

# Picodollars per token in a dollar per million tokens.
PER_MTOK = 1_000_000
_PICO_PER_NANO = 1000
_HALF_NANO = _PICO_PER_NANO // 2

# How many names are remembered with their price, and how many without one. Clients choose names,
# so the numbers are bounded, and so is the length.
REMEMBERED_NAMES, REMEMBERED_UNPRICED = 1000, 50
_NAME_LENGTH = 256

_WILDCARDS = frozenset("*?[")

# The highest price that PRICES_FILE may state, in dollars per million tokens.
MAX_USD_PER_MTOK = 1_000_000


class Rate(NamedTuple):
    """The prices of a model's tokens, in picodollars per token.

    Args:
        since: the first day on which it applies; empty if it always has.
        input_from: the smallest input, in tokens, to which it applies; it is then the price of
            all tokens.
        cached: for input tokens that upstream had cached; `written` for those it cached now.
    """

    since: str
    input_from: int
    input: int
    cached: int
    written: int
    output: int


class ModelPrice:
    """What a model's tokens cost.

    Args:
        rates: by day and by input, in ascending order; the last one that applies counts, or the
            first if none does.
        media_apart: audio or image tokens have prices of their own, which are not known here.

    Attributes:
        is_free: all prices are 0.
    """

    __slots__ = ("_first", "_latest_first", "_only", "is_free", "media_apart")

    def __init__(self, rates: Sequence[Rate], *, media_apart: bool = False) -> None:
        self._first = rates[0]
        self._only = rates[0] if len(rates) == 1 else None
        self._latest_first = tuple(reversed(rates))
        self.media_apart = media_apart
        self.is_free = not any(any(rate[2:]) for rate in rates)

    def __repr__(self) -> str:
        return f"<ModelPrice {', '.join(map(repr, reversed(self._latest_first)))}>"

    def cost_nano(
        self,
        tokens_in: int,
        tokens_cached: int,
        tokens_out: int,
        day: str,
        tokens_written: int = 0,
    ) -> int:
        """The cost of tokens in nanodollars, on a day such as `2026-11-28`.

        Args:
            tokens_cached: the part of `tokens_in` that upstream had cached; `tokens_written` is
                the part that it cached now.
        """
        # Runs for each exchange: most models have one rate, and unpacking it takes as long as all
        # the rest.
        rate = self._only
        if rate is None:
            rate = self.rate(tokens_in, day)
        cost = tokens_in * rate.input + tokens_out * rate.output
        if tokens_cached or tokens_written:
            cached = tokens_cached if tokens_cached < tokens_in else tokens_in
            cost += cached * (rate.cached - rate.input)
            if tokens_written:
                cost += min(tokens_written, tokens_in - cached) * (rate.written - rate.input)
        return (cost + _HALF_NANO) // _PICO_PER_NANO

    def rate(self, tokens_in: int, day: str) -> Rate:
        """The rate for an input of this length, on a day."""
        for rate in self._latest_first:
            if rate.since <= day and rate.input_from <= tokens_in:
                return rate
        return self._first


class ListedModel(NamedTuple):
    """A model of a price list: its names, a regular expression for others, and its price.

    Names are in lower case. The expression, if there is one, is searched in the whole name.
    Without a price the model's cost is not known; no later entry may match its name.
    """

    names: Sequence[str]
    pattern: str | None
    price: ModelPrice | None


class PriceList:
    """The prices of models by name."""

    def __init__(
        self, models: Iterable[ListedModel] = (), own: Mapping[str, ModelPrice] | None = None
    ) -> None:
        """Own prices are by name or shell pattern; they take precedence over `models`."""
        self._own = dict(sorted((own or {}).items(), key=_precedence))
        self._names: dict[str, tuple[float, ModelPrice | None]] = {}
        self._patterns: list[tuple[int, re.Pattern[str], ModelPrice | None]] = []
        # Names that were looked up.
        self._priced: dict[str, ModelPrice] = {}
        self._unpriced: set[str] = set()
        for rank, model in enumerate(models):
            for name in model.names:
                self._names.setdefault(name, (rank, model.price))
            if model.pattern is not None:
                self._patterns.append((rank, re.compile(model.pattern), model.price))

    def __repr__(self) -> str:
        return f"<PriceList {len(self._own)} own, {len(self._names)} names>"

    def find(self, model: str) -> ModelPrice | None:
        """The price of a model; None if it is not known."""
        price = self._priced.get(model)
        if price is not None or model in self._unpriced:
            return price
        price = self._find(model)
        if len(model) <= _NAME_LENGTH:
            self._remember(model, price)
        return price

    def _remember(self, model: str, price: ModelPrice | None) -> None:
        if price is None:
            if len(self._unpriced) >= REMEMBERED_UNPRICED:
                self._unpriced.clear()
            self._unpriced.add(model)
        else:
            if len(self._priced) >= REMEMBERED_NAMES:
                self._priced.clear()
            self._priced[model] = price

    def _find(self, model: str) -> ModelPrice | None:
        for pattern, price in self._own.items():
            if model == pattern or fnmatchcase(model, pattern):
                return price
        return self._listed(model.lower()) if len(model) <= _NAME_LENGTH else None

    def _listed(self, name: str) -> ModelPrice | None:
        rank, listed = self._names.get(name, (inf, None))
        for pattern_rank, pattern, price in self._patterns:
            if pattern_rank >= rank:
                break
            if pattern.search(name):
                return price
        return listed


def _precedence(item: tuple[str, ModelPrice]) -> tuple[bool, int, str]:
    """Exact names first, then long patterns before short ones."""
    pattern = item[0]
    return is_pattern(pattern), -len(pattern), pattern


def is_pattern(name: str) -> bool:
    """Whether a name is a shell pattern, which may match several models."""
    return not _WILDCARDS.isdisjoint(name)


# The table in PRICES_FILE.


class PricesError(ValueError):
    """The table is invalid. `problems` has a line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


_TABLE = "model"
_INPUT, _CACHED, _OUTPUT = _KEYS = (
    "input_usd_per_mtok",
    "cached_input_usd_per_mtok",
    "output_usd_per_mtok",
)
_REQUIRED = (_INPUT, _OUTPUT)
_EXPECTED = f"expected dollars per million tokens, from 0 to {MAX_USD_PER_MTOK}"


def parse_prices(text: str) -> dict[str, ModelPrice]:
    """Parse a table of prices, by name or shell pattern. Raises PricesError with all problems."""
    try:
        table = parse_toml(text)
    except TomlError as error:
        raise PricesError([str(error)]) from None
    problems = [
        f'unknown table {shown(name)}: expected [model."NAME"]' for name in table if name != _TABLE
    ]
    entries = table.get(_TABLE, {})
    if not isinstance(entries, dict):
        raise PricesError([*problems, 'model: expected tables [model."NAME"]'])
    for name, entry in entries.items():
        problems += [f"model.{shown(name)}{problem}" for problem in _entry_problems(entry)]
    if problems:
        raise PricesError(problems)
    return {name: _own_price(entry) for name, entry in entries.items()}


def _entry_problems(entry: object) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield f": expected a table with {' and '.join(_REQUIRED)}"
        return
    for key, value in entry.items():
        if key not in _KEYS:
            yield f".{shown(key)}: unknown key; expected one of {', '.join(_KEYS)}"
        elif not _is_price(value):
            yield f".{key}={shown(value)}: {_EXPECTED}"
    for key in _REQUIRED:
        if key not in entry:
            yield f".{key}: not set; {_EXPECTED}"


def _is_price(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= MAX_USD_PER_MTOK


def _own_price(entry: Mapping[str, Any]) -> ModelPrice:
    price, cached = entry[_INPUT], entry.get(_CACHED, entry[_INPUT])
    return ModelPrice([rate_of(input=price, cached=cached, written=price, output=entry[_OUTPUT])])


def rate_of(
    *,
    input: float,
    cached: float,
    written: float,
    output: float,
    since: str = "",
    input_from: int = 0,
) -> Rate:
    """A rate from prices in dollars per million tokens."""
    prices = (round(price * PER_MTOK) for price in (input, cached, written, output))
    return Rate(since, input_from, *prices)
