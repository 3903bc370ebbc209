"""A lane's budgets: what upstream's answers taught about the quota of one model.

Upstream tells its limits and what is left of them with each answer. A lane's buckets have that
capacity and refill it in a minute, and each answer sets their level anew: to what was left, less
what was admitted since the exchange that it answers, for upstream had not seen that. Between
answers the buckets run on by themselves. Errors of estimates, other consumers of the same quota
and changed limits are all corrected in this one way.

The level upstream tells is as old as the answer took to come; what refilled meanwhile is left
out, which costs a little of the capacity once, and nothing of the rate. An answer that took long
tells so old a level that it may only lower the lane's own, after it was credited the refill.

A lane knows nothing of waiters. Whatever upstream says, it has a next attempt within a minute.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

from rustygate.core.backlog import Work
from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate

# News of an answer that took no longer are set as they are.
_FRESH = 10 * SECOND

# After `slow_down` the rate is halved, and recovers over this time.
_RECOVERY = 5 * MINUTE

# The rate that was too much counts as this one at least: a model that was quiet of late was not
# too much by itself, and must not be held up for long.
_LEAST_RATE_PERIOD = SECOND // 2

# However often it is halved, a lane keeps this share of its rate.
_LEAST_SHARE = 1 / 64


class AdmissionTotals(NamedTuple):
    """A lane's instant: what had been admitted by then, in all."""

    at: int
    requests: int
    tokens: int


_NOTHING = AdmissionTotals(0, 0, 0)


@dataclass(slots=True)
class Lane(Budgets):
    """The budgets of one model; slots count what upstream has not answered yet.

    Args:
        slots: how many may be unanswered before the first answer; None: any number.
        known: upstream has answered well, so the model exists.
        pace: a bucket beside the learned ones while the lane recovers from `slow_down`.
    """

    known: bool = False
    paused_until: int = 0
    throttle: "Throttle | None" = None
    totals: AdmissionTotals = _NOTHING
    _last_update: AdmissionTotals = _NOTHING
    _rate: "_Observed" = field(default_factory=lambda: _Observed())

    def wait(self, now: int, tokens: int = 0) -> int | None:
        wait = Budgets.wait(self, now, tokens)
        if wait is None or (self.throttle is None and self.paused_until <= now):
            return wait
        pace = 0 if self.throttle is None else self.throttle.wait(now)
        return max(wait, pace, self.paused_until - now)

    def wait_behind(self, now: int, tokens: int, ahead: Work) -> int:
        wait = max(Budgets.wait_behind(self, now, tokens, ahead), self.paused_until - now)
        if self.throttle is None:
            return wait
        return max(wait, self.throttle.wait(now) + self.throttle.period(now) * round(ahead.items))

    def take(self, now: int, tokens: int = 0) -> None:
        """As of all budgets; `mark` is then what the exchange is to keep for `learn`."""
        Budgets.take(self, now, tokens)
        self.totals = AdmissionTotals(now, self.totals.requests + 1, self.totals.tokens + tokens)
        self._rate.count(now)
        if self.throttle is not None:
            self.throttle.take(now)

    def confirm_model(self, mark: AdmissionTotals) -> None:
        """A good answer came: the model exists, and nothing bounds what is unanswered, unless
        its exchange was admitted before the lane was paused."""
        self.known = True
        if mark.at >= self.paused_until:
            self.slots = None

    def recently_updated(self, now: int) -> bool:
        """Whether upstream told its limits within a minute; older ones may have been raised, and
        only asking tells."""
        return now - self._last_update.at <= MINUTE

    def learn(self, now: int, mark: AdmissionTotals, news: RateLimitUpdate) -> bool:
        """Take over what an answer told; `mark` is its exchange's. Whether a limit is another
        than before."""
        if mark.requests < self._last_update.requests:
            return False
        limits = _limit(self.requests), _limit(self.tokens)
        self._last_update = mark
        age = now - mark.at
        since = self.totals.requests - mark.requests
        self.requests = _updated(self.requests, news.requests, now, age, since)
        since = self.totals.tokens - mark.tokens
        self.tokens = _updated(self.tokens, news.tokens, now, age, since)
        return limits != (_limit(self.requests), _limit(self.tokens))

    def pause(self, now: int, wait: int) -> None:
        """Admit nobody for `wait` nanoseconds; then, if no limit is known, one at first."""
        self.paused_until = max(self.paused_until, now + wait)
        if self.requests is None and self.tokens is None:
            self.slots = 1

    def slow_down(self, now: int, mark: AdmissionTotals) -> None:
        """Halve the rate, which recovers linearly over five minutes.

        What was admitted before the last halving, by its mark, is no reason for another.
        """
        if self.throttle is None or self.throttle.recovered(now):
            self.throttle = Throttle(min(self._rate.period(now), _LEAST_RATE_PERIOD), now)
        elif mark.at > self.throttle.slowed_at:
            self.throttle.halve(now)

    def is_evictable(self, now: int) -> bool:
        """Whether nothing is lost if it is forgotten."""
        return not (self.known or self.in_flight or self.paused_until > now)


class Throttle:
    """A bucket without burst, at half the rate that was too much, and recovering."""

    def __init__(self, period: int, now: int) -> None:
        self._period = period
        self._share = 0.5
        self._bucket = TokenBucket(2 * period, 1)
        self._bucket.take(now)
        self.slowed_at = now

    def share(self, now: int) -> float:
        """The share of the full rate that is had by now; above 1 when there is no limit more."""
        return self._share + (now - self.slowed_at) / _RECOVERY * (1 - self._share)

    def period(self, now: int) -> int:
        """Nanoseconds between two by now; 0 when there is no limit more."""
        return 0 if self.recovered(now) else ceil(self._period / self.share(now))

    def recovered(self, now: int) -> bool:
        return self.share(now) >= 1

    def halve(self, now: int) -> None:
        self._share, self.slowed_at = max(_LEAST_SHARE, self.share(now) / 2), now

    def wait(self, now: int) -> int:
        return 0 if self.recovered(now) else self._bucket.wait(now)

    def take(self, now: int) -> None:
        self._bucket.period = ceil(self._period / min(1, self.share(now)))
        self._bucket.take(now)


class _Observed:
    """The rate at which a lane admits, counted in windows."""

    __slots__ = ("_before", "_count", "_since", "_span")

    WINDOW = 10 * SECOND

    # One admission says nothing of a rate; it counts as so many nanoseconds' worth.
    LEAST = SECOND

    def __init__(self) -> None:
        self._since = self._span = self._count = self._before = 0

    def count(self, now: int) -> None:
        if now - self._since >= self.WINDOW:
            self._turn(now)
        self._count += 1

    def period(self, now: int) -> int:
        """Nanoseconds between two, of late."""
        span = max(self.LEAST, self._span + now - self._since)
        return span // max(1, self._before + self._count)

    def _turn(self, now: int) -> None:
        """Begin a window; the last one still counts, unless it is long over."""
        recent = now - self._since < 2 * self.WINDOW
        self._before, self._span = (self._count, now - self._since) if recent else (0, 0)
        self._since, self._count = now, 0


def _limit(bucket: TokenBucket | None) -> int | None:
    return None if bucket is None else bucket.burst


def _updated(
    bucket: TokenBucket | None, quota: Quota | None, now: int, age: int, since: int
) -> TokenBucket | None:
    """A bucket as an answer of that age tells it; `since` were admitted after its exchange."""
    if quota is None:
        return bucket
    if bucket is None:
        bucket = TokenBucket.per_minute(quota.limit)
        bucket.fill_to(now, bucket.burst - since)
    elif quota.limit != bucket.burst:
        bucket.resize(now, ceil(MINUTE / quota.limit), quota.limit)
    if quota.remaining is not None:
        told = quota.remaining - since
        if age > _FRESH:
            told = min(bucket.level(now), told + age // bucket.period)
        bucket.fill_to(now, told)
    bucket.limit_debt(now)
    return bucket
