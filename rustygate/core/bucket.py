"""The token bucket, a budget that refills with time.

It is held as one instant rather than as a level and a timestamp (the generic cell rate
algorithm of ITU-T I.371): no drift, no rounding that accumulates, and the time at which a
cost will be affordable is arithmetic rather than a simulation. What it counts are units;
whether those are requests or a model's tokens is its owner's business.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Self

SECOND = 1_000_000_000
MINUTE = 60 * SECOND

# Three hundred thousand years. What is slower comes no sooner, and sums of it remain numbers that
# fit a float.
LONGEST_PERIOD = 10**22


@dataclass(slots=True)
class TokenBucket:
    """A token bucket held as one instant: when it will be full again.

    Over any window of `w` nanoseconds at most `burst + w / period` units are taken, provided
    that `take` is called only when `wait` is 0.

    Args:
        period: nanoseconds per unit, rounded up so that the rate is never exceeded.
        burst: capacity in units.
        full_at: the instant of fullness; any past instant means full.
    """

    period: int
    burst: int
    full_at: int = 0

    @classmethod
    def from_rate(cls, units_per_second: float, burst: int) -> Self:
        """A full bucket. Rates above one unit per nanosecond count as that, and those below one
        per `LONGEST_PERIOD` as that."""
        return cls(min(ceil(SECOND / Fraction(units_per_second)), LONGEST_PERIOD), burst)

    @classmethod
    def per_minute(cls, units: int) -> Self:
        """A full bucket of a minute's units."""
        return cls(ceil(MINUTE / units), units)

    def wait(self, now: int, cost: int = 1) -> int:
        """Nanoseconds until `cost` units are there; 0 if they are. Takes nothing.

        For a cost above `burst` the answer is finite but never comes true: ask first.
        """
        return max(0, max(self.full_at, now) + (cost - self.burst) * self.period - now)

    def take(self, now: int, cost: int = 1) -> None:
        """Take `cost` units, whether they are there or not."""
        self.full_at = max(self.full_at, now) + cost * self.period

    def give_back(self, cost: int = 1) -> None:
        """Undo a `take` whose units were not used."""
        self.full_at -= cost * self.period

    def fill_to(self, now: int, level: int) -> None:
        """Set the level, which may be below 0."""
        self.full_at = now + (self.burst - level) * self.period

    def limit_debt(self, now: int) -> None:
        """Let the level be at most one capacity below 0, so that a wait is bounded whatever was
        taken."""
        self.full_at = min(self.full_at, now + 2 * self.burst * self.period)

    def resize(self, now: int, period: int, burst: int) -> None:
        """Change rate and capacity; what was missing stays missing."""
        missing = max(0, -((now - self.full_at) // self.period))
        self.period, self.burst = period, burst
        self.full_at = now + missing * period

    def level(self, now: int) -> int:
        """Whole units there now; negative while more was taken than there was."""
        return self.burst - max(0, -((now - self.full_at) // self.period))
