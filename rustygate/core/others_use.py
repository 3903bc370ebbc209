"""How fast others take from a quota that the gate shares with them.

Each report of upstream says what is left of a quota. From one report to the next the level rises
by the refill and falls by what the gate spent in between; whatever is missing was taken by others.
The missing units add up over reports, so that the noise of single reports (requests that overtake
each other, estimated tokens) cancels out. Their rate is an exponential average over seconds.

Others may take units at any moment between two reports, so that some are left to them.
"""

from math import exp

from rustygate.core.bucket import SECOND

# Two thirds of a change are seen in this time, in which upstream refills at least this many units.
_AVERAGED_OVER, _AVERAGED_UNITS = 3 * SECOND, 10

# Requests that are admitted within this time are taken as one: upstream may report any of them
# after it has seen all.
_GROUP = SECOND // 20

# The shortest time over which a rate is taken.
_MIN_SPAN = SECOND // 4

# As much as others take in this time is left to them, up to this part of the limit.
_RESERVED_FOR = 7 * SECOND // 4
_MAX_RESERVE = 10

# A smaller share of the quota is noise.
_DEAD_BAND = 0.05

# However much others seem to take, this share of the quota is left: it may be a quota that
# upstream counts in other units.
_MIN_SHARE = 1 / 8


class OthersUse:
    """The rate of other consumers of one quota, from the reports of upstream."""

    __slots__ = ("_at", "_group_at", "_level", "_missing", "_share", "_span", "_spent")

    def __init__(self, at: int, level: int, spent: int) -> None:
        """A first report, as for `observe`."""
        self._at = self._group_at = at
        self._level, self._spent = level, spent
        self._missing = 0.0
        self._span = 0
        self._share = 0.0

    def __repr__(self) -> str:
        return f"<OthersUse {self._share:.1%}>"

    def observe(self, at: int, level: int, spent: int, period: int, limit: int) -> bool:
        """Use a report. Returns whether the average rate was updated.

        Args:
            at: when upstream had this level, about: later than in the report before.
            level: units left.
            spent: what the gate had spent in all by then.
            period: nanoseconds in which upstream refills one unit, up to `limit`.
        """
        averaged = False
        if at - self._group_at > _GROUP:
            self._group_at = at
            if self._span >= _MIN_SPAN and self._span >= period:
                self._average(period)
                averaged = True
        elapsed = at - self._at
        expected = min(limit, self._level + elapsed / period) - (spent - self._spent)
        self._missing += expected - level
        self._span += elapsed
        self._at, self._level, self._spent = at, level, spent
        return averaged

    def correct(self, spent: int) -> None:
        """Add to what the gate had spent at the first report."""
        self._spent += spent

    def _average(self, period: int) -> None:
        """Add what is missing since the last time to the average."""
        share = self._missing * period / self._span
        averaged_over = max(_AVERAGED_OVER, _AVERAGED_UNITS * period)
        average = self._share + (1 - exp(-self._span / averaged_over)) * (share - self._share)
        self._share = min(max(-1.0, average), 1.0)
        self._missing, self._span = 0.0, 0

    @property
    def share(self) -> float:
        """The share of the quota's rate that others take, from 0 to 1."""
        return self._share if self._share > _DEAD_BAND else 0.0

    def reserve(self, period: int, limit: int) -> int:
        """Units to leave to others, who may take them before the next report."""
        return min(round(self.share * _RESERVED_FOR / period), limit // _MAX_RESERVE)

    def left(self, period: int) -> int:
        """The period at which a quota with this period refills for the gate."""
        return round(period / max(_MIN_SHARE, 1 - self.share))
