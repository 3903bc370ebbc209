"""The lowest limits under which no client waits longer than wanted.

Whether limits suffice is monotonic in each of them, but for chance, so they are found by
bisection: first each limit on its own, with the other one unlimited, then both together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, sqrt

from rustygate.plan.forecast import Forecast, Observer, Plan, forecast, requests_of

# Requests and tokens per minute, lowest first: the order of magnitude of OpenAI's usage tiers.
TIERS = (
    (500, 30_000),
    (5_000, 450_000),
    (5_000, 800_000),
    (10_000, 2_000_000),
    (10_000, 30_000_000),
)

# The share of a client's requests that must not wait longer.
SHARE = 0.95

# Limits are found to 2%. A forecast is no more accurate, since arrivals are random.
_PRECISION = 1.02

# If both limits together do not suffice, both are raised by this factor.
_STEP = 1.05

Limits = tuple[int | None, int | None]


class NoTierSufficesError(Exception):
    """Even without limits a client waits longer than wanted; `client` is its name."""

    def __init__(self, client: str) -> None:
        super().__init__(client)
        self.client = client


@dataclass(frozen=True, slots=True)
class LowestLimits:
    """The lowest of the tiers that suffices, if one does, and the plan with the lowest limits."""

    tier: tuple[int, int] | None
    plan: Plan
    forecast: Forecast


class _Exceeded(Exception):
    """Too many of a client's requests waited too long; the rest of the run does not matter."""

    def __init__(self, client: str) -> None:
        super().__init__(client)
        self.client = client


class TierSearch:
    """Finds the lowest limits for a plan.

    Args:
        limit_s: the longest p95 wait of a client.
        start_run: is called before each run with its limits, and returns the run's observer.
    """

    def __init__(self, plan: Plan, limit_s: float, start_run: Callable[[Plan], Observer]) -> None:
        # Requests that wait as long as allowed must not be refused.
        self._plan = replace(plan, timeout_s=max(plan.timeout_s, limit_s))
        self._limit_s = limit_s
        self._start_run = start_run
        self._allowed = {
            client: count - ceil(SHARE * count) for client, count in requests_of(plan).items()
        }
        # With less than the clients with a rate need, the queue grows for as long as they send.
        rates = [demand for demand in plan.demands if demand.at_s is None]
        self._steady = (
            sum(60 * demand.count for demand in rates),
            sum(60 * demand.count * demand.tokens for demand in rates),
        )

    def run(self) -> LowestLimits:
        """Raises NoTierSufficesError."""
        result = self._try((None, None))
        if isinstance(result, str):
            raise NoTierSufficesError(result)
        tier = next((tier for tier in TIERS if self._suffices(tier)), None)
        rpm_bound, tpm_bound = tier or (self._double(0), self._double(1))
        rpm = self._bisect(lambda rpm: (rpm, None), rpm_bound)
        tpm = self._bisect(lambda tpm: (None, tpm), tpm_bound)
        while isinstance(result := self._try((rpm, tpm)), str):
            rpm, tpm = ceil(rpm * _STEP), ceil(tpm * _STEP)
        return LowestLimits(tier, replace(self._plan, rpm=rpm, tpm=tpm), result)

    def _double(self, index: int) -> int:
        """A limit that suffices, for a demand above the highest tier."""
        limit = TIERS[-1][index]
        while not self._suffices((limit, None) if index == 0 else (None, limit)):
            limit *= 2
        return limit

    def _bisect(self, limits: Callable[[int], Limits], enough: int) -> int:
        """The lowest limit that suffices, given one that does."""
        too_low = 0
        while enough - too_low > 1 and enough > too_low * _PRECISION:
            middle = max(too_low + 1, int(sqrt(max(1, too_low) * enough)))
            if middle >= enough:
                break
            if self._suffices(limits(middle)):
                enough = middle
            else:
                too_low = middle
        return enough

    def _suffices(self, limits: Limits) -> bool:
        pairs = zip(limits, self._steady, strict=True)
        if any(limit is not None and limit < steady for limit, steady in pairs):
            return False
        return not isinstance(self._try(limits), str)

    def _try(self, limits: Limits) -> Forecast | str:
        """The forecast under some limits, or the name of a client that waits too long."""
        plan = replace(self._plan, rpm=limits[0], tpm=limits[1])
        observe, allowed = self._start_run(plan), dict(self._allowed)

        def count(client: str, wait_s: float | None) -> None:
            observe(client, wait_s)
            if wait_s is None or wait_s > self._limit_s:
                allowed[client] -= 1
                if allowed[client] < 0:
                    raise _Exceeded(client)

        try:
            return forecast(plan, count)
        except* _Exceeded as group:
            [error, *_] = group.exceptions
            assert isinstance(error, _Exceeded)
            exceeded = error.client
        return exceeded
