"""The token bucket: a budget that refills over time.

It is kept as one instant instead of a level and a timestamp (GCRA, the generic cell rate algorithm
of ITU-T I.371). Nothing drifts, no rounding error adds up, and the time at which a cost will be
affordable is plain arithmetic. A bucket counts units: requests or model tokens, as its owner
decides.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Self

SECOND = 1_000_000_000
MINUTE = 60 * SECOND

# Three hundred thousand years. A lower rate makes no difference, and sums of such periods still
# fit a float.
LONGEST_PERIOD = 10**22

# The first lag, and the part of the time to refill all but one unit that a lag may reach: 1/50.
_FIRST_LAG, _MAX_LAG_DIVISOR = SECOND // 500, 50


@dataclass(slots=True)
class TokenBucket:
    """A token bucket, kept as the instant at which it will be full again.

    Over any window of `w` nanoseconds at most `burst + w / period` units are taken, provided
    that `take` is called only when `wait` returns 0.

    Args:
        period: nanoseconds per unit, rounded up so that the rate is never exceeded.
        burst: capacity in units.
        full_at: the instant at which it is full; any instant in the past means full.
        lag: nanoseconds by which the refill starts late after the bucket was full or nearly full.
    """

    period: int
    burst: int
    full_at: int = 0
    lag: int = field(default=0, repr=False)
    # When it last started to refill late, and what `full_at` was before.
    _late: tuple[int, int] = field(default=(0, 0), init=False, repr=False, compare=False)

    @classmethod
    def from_rate(cls, units_per_second: float, burst: int) -> Self:
        """A full bucket. The rate is limited to at most one unit per nanosecond and at least one
        per `LONGEST_PERIOD`."""
        return cls(min(ceil(SECOND / Fraction(units_per_second)), LONGEST_PERIOD), burst)

    @classmethod
    def per_minute(cls, units: int) -> Self:
        """A full bucket that holds and refills this many units in a minute."""
        return cls(ceil(MINUTE / units), units)

    def wait(self, now: int, cost: int = 1) -> int:
        """Nanoseconds until `cost` units are available, 0 if they are. Takes nothing.

        For a cost above `burst` the result is finite but never comes true; check that first.
        """
        # Conditions instead of `max`: this runs several times for each request.
        full_in = self.full_at - now if self.full_at > now else 0
        wait = full_in + (cost - self.burst) * self.period
        return wait if wait > 0 else 0

    def take(self, now: int, cost: int = 1) -> None:
        """Take `cost` units, available or not."""
        start = now + self.lag
        if self.full_at > start:
            start = self.full_at
        elif self.lag:
            self._late = start, self.full_at
        self.full_at = start + cost * self.period

    def give_back(self, cost: int = 1) -> None:
        """Undo a `take` whose units were not used."""
        self.full_at -= cost * self.period
        start, full_at = self._late
        if self.full_at == start:
            # All that was taken since then is back.
            self.full_at = full_at

    def increase_lag(self) -> None:
        """Double the lag: the bucket that this one mirrors runs behind. Takes effect when this one
        is next full or nearly full."""
        most = (self.burst - 1) * self.period // _MAX_LAG_DIVISOR
        self.lag = min(max(2 * self.lag, _FIRST_LAG), most)

    def fill_to(self, now: int, level: int) -> None:
        """Set the level, which may be negative."""
        self.full_at = now + (self.burst - level) * self.period

    def limit_debt(self, now: int) -> None:
        """Raise the level to at least minus one capacity, so that waits stay bounded."""
        self.full_at = min(self.full_at, now + 2 * self.burst * self.period)

    def resize(self, now: int, period: int, burst: int) -> None:
        """Change rate and capacity. The same number of units is missing as before."""
        missing = max(0, -((now - self.full_at) // self.period))
        self.period, self.burst = period, burst
        self.full_at = now + missing * period

    def level(self, now: int) -> int:
        """Whole units available now; negative after an overdraft."""
        return self.burst - max(0, -((now - self.full_at) // self.period))
