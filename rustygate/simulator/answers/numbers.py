"""Numbers for a JSON schema: those of the prompt, as far as they validate."""

import math
from collections.abc import Iterator
from typing import Any

from rustygate.simulator.answers.facts import Facts
from rustygate.simulator.answers.json_schema import lower_limit, number, upper_limit

# Multiples tried, since not each is exact in binary.
_MAX_TRIES = 100


def numbers(
    facts: Facts, schema: dict[str, Any], integer: bool, path: str
) -> Iterator[int | float]:
    """Candidates that the prompt does not give, the best first; each is within the limits."""
    low, high = _range(schema)
    step = number(schema, "multipleOf") or (1 if integer else 0)
    if not step:
        yield _between(facts, path, low, high)
        yield (low + high) / 2
        return
    first = math.ceil(low / step)
    last = min(math.floor(high / step), first + _MAX_TRIES)
    if last < first:
        return
    start = facts.choose(path, range(first, last + 1))
    for factor in (*range(start, last + 1), *range(first, start)):
        yield simple(factor * step)


def labelled_number(facts: Facts, key: str) -> float | None:
    """The number that the text gives for a field, as in "age: 30"."""
    text = facts.labelled(key)
    try:
        value = float(text.split()[0].lstrip("$€£").replace("%", "")) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def simple(value: float) -> int | float:
    """A number without a fraction, if it has none."""
    return int(value) if float(value).is_integer() else value


def _range(schema: dict[str, Any]) -> tuple[float, float]:
    """The range to choose from: small positive numbers, as far as the limits allow them."""
    lower, upper = lower_limit(schema), upper_limit(schema)
    if lower is None and upper is None:
        return 1, 100
    if upper is None:
        assert lower is not None
        low = max(lower[0], 1) if lower[0] >= -99 else lower[0]
        return low, low + 100
    if lower is None:
        return min(upper[0], 1) if upper[0] >= 1 else upper[0] - 100, upper[0]
    return lower[0], upper[0]


def _between(facts: Facts, path: str, low: float, high: float) -> int | float:
    """A number in the middle of a range, so that the limits are not hit.

    It is rounded to a whole one if that is within the range: some clients read a `number` as an
    integer, as Codex does with times in milliseconds. Otherwise it has one decimal if possible.
    """
    share = facts.choose(path, range(1, 10)) / 10
    value = low + (high - low) * share
    candidates = (round(value, digits) for digits in (0, 1))
    return simple(next((number for number in candidates if low < number < high), value))
