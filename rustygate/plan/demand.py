"""The demand of a client, and its notation: `web:2/s:800`, `batch:1000@once:3000:batch`."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from rustygate.config import in_units
from rustygate.core.clients import MAX_WEIGHT, MIN_WEIGHT
from rustygate.core.fair_order import CLASS_WEIGHTS

# Ten years, the longest a plan can last. A later arrival is taken for a typing error.
MAX_DURATION_S = 86_400 * 3600

# One request in the longest time that a plan can last.
MIN_REQUESTS_PER_SECOND = 1 / MAX_DURATION_S

_NOTATION = re.compile(
    r"(?P<name>[^:]+):(?P<count>\d+(\.\d+)?)(/(?P<unit>[smh])|@(?P<at>once|\d+)):(?P<tokens>[^:]+)"
    r"(:(?P<priority>[a-z]+))?(:(?P<weight>\d+(\.\d+)?))?"
)
_UNIT_S = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Demand:
    """The requests of one client.

    Args:
        count: requests per second, or in all if they arrive together, `at_s` seconds after the
            start.
        tokens: the cost of each request, input and output together.
    """

    client: str
    count: float
    at_s: float | None
    tokens: int
    priority: str = "default"
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Demand":
        """Read `NAME:2/s:800` or `NAME:1000@once:3000`, with an optional `:CLASS` and `:WEIGHT`.

        Raises argparse.ArgumentTypeError.
        """
        match = _NOTATION.fullmatch(text)
        demand = match and in_units(match["tokens"]).isdecimal() and cls._from_match(match)
        if not demand or not demand._is_valid():
            raise argparse.ArgumentTypeError(
                f"expected NAME:N/s:TOKENS (or /m, /h) or NAME:N@once:TOKENS (or @SECONDS), "
                f"optionally followed by :CLASS ({', '.join(CLASS_WEIGHTS)}) and :WEIGHT "
                f"({MIN_WEIGHT} to {MAX_WEIGHT}); got {text!r}"
            )
        return demand

    @classmethod
    def _from_match(cls, match: re.Match[str]) -> "Demand":
        at = match["at"]
        count = float(match["count"]) / _UNIT_S[match["unit"] or "s"]
        at_s = None if at is None else 0.0 if at == "once" else float(at)
        priority, weight = match["priority"] or "default", float(match["weight"] or 1)
        return cls(match["name"], count, at_s, int(in_units(match["tokens"])), priority, weight)

    def _is_valid(self) -> bool:
        """Whether class, weight, count and arrival are within the gate's and the plan's limits."""
        if self.priority not in CLASS_WEIGHTS or not MIN_WEIGHT <= self.weight <= MAX_WEIGHT:
            return False
        if self.at_s is None:
            return self.count >= MIN_REQUESTS_PER_SECOND
        return self.count >= 1 and self.at_s <= MAX_DURATION_S

    def requests(self, duration_s: float) -> float:
        """How many requests arrive in all, on average."""
        return self.count if self.at_s is not None else self.count * duration_s

    def arrivals(self, duration_s: float, random: Random) -> Iterator[float]:
        """The arrival times of the requests, in seconds."""
        if self.at_s is not None:
            yield from (self.at_s for _ in range(int(self.count)))
            return
        now_s = random.expovariate(self.count)
        while now_s < duration_s:
            yield now_s
            now_s += random.expovariate(self.count)
