"""A lane: the budgets of one model or endpoint, learned from upstream's responses.

Each upstream response carries the limits of the model and what is left of them. A lane's buckets
follow these reports (`core.learned_quota`) and refill by themselves in between. This corrects
wrong estimates, other consumers of the same quota and changed limits all in the same way. If
upstream reports no limits, a lane that was refused follows the pace at which upstream accepts
(`core.pace`).

A lane knows nothing of waiters.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from typing import NamedTuple

from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.learned_quota import REORDERED_WITHIN, LearnedQuota, is_scarce
from rustygate.core.pace import MARGIN, QUIET_TIME, Pace
from rustygate.core.pace_group import PaceGroup
from rustygate.core.rate_limit_headers import RateLimitUpdate
from rustygate.core.saved_levels import SavedLane
from rustygate.core.work import Work

# At most this many unanswered requests are examined at each response.
_MAX_EXAMINED = 64

# After `slow_down` the rate is halved. It recovers over this time.
_RECOVERY_TIME = 5 * MINUTE

# The rate that was too high counts as at least this one, two requests a second: a model that was
# quiet lately did not cause the overload by itself, and must not be slowed down for long.
_MIN_RATE_PERIOD = SECOND // 2

# However often it is halved, a lane keeps this fraction of its rate.
_MIN_FRACTION = 1 / 64


class AdmissionTotals(NamedTuple):
    """What a lane had admitted in all by an instant."""

    at: int
    requests: int
    tokens: int


_NO_ADMISSIONS = AdmissionTotals(0, 0, 0)

# A quota as a group knows it: its limit (-1 if it has none), its level, nanoseconds per unit, and
# nanoseconds until it is full.
QuotaState = tuple[int, int, int, int]


@dataclass(slots=True)
class Lane(Budgets):
    """The budgets of one model. Slots count requests without a response yet.

    Args:
        slots: how many requests may be in flight before the first response; None: any number.
        known: upstream has responded successfully for the model, so the model exists.
        throttle: limits the rate while the lane recovers from `slow_down`.
        pace: limits the rate after a 429, as long as no limits are known.
        pace_group: the lanes that may share a pace.
        totals: what was admitted so far. Each exchange keeps the value at its own admission.
        request_quota, token_quota: what is known of the limits in responses.
    """

    known: bool = False
    paused_until: int = 0
    throttle: "Throttle | None" = None
    pace: Pace | None = None
    pace_group: PaceGroup = field(default_factory=PaceGroup)
    totals: AdmissionTotals = _NO_ADMISSIONS
    request_quota: LearnedQuota = field(default_factory=LearnedQuota)
    token_quota: LearnedQuota = field(default_factory=LearnedQuota)
    # How often in a row the lane was refused while upstream accepted others at its pace.
    _refusals: int = 0
    _last_update: AdmissionTotals = _NO_ADMISSIONS
    _unanswered: dict[int, tuple[int, int]] = field(default_factory=dict)
    _rate: "RateMeter" = field(default_factory=lambda: RateMeter(10 * SECOND))
    _recent_rate: "RateMeter" = field(default_factory=lambda: RateMeter(SECOND))

    def wait(self, now: int, tokens: int = 0) -> int | None:
        wait = Budgets.wait(self, now, tokens)
        free = self.throttle is None and self.pace is None and self.paused_until <= now
        if wait is None or free:
            return wait
        self._follow_pace()
        throttled = 0 if self.throttle is None else self.throttle.wait(now)
        paced = 0 if self.pace is None else self.pace.bucket.wait(now)
        return max(wait, throttled, paced, self.paused_until - now)

    def copy_with(self, paces: dict[Pace, Pace]) -> "Lane":
        """A copy that waits and is charged like this lane. It learns nothing.

        Args:
            paces: the copies of paces so far: lanes may share one.
        """
        self._follow_pace()
        pace = None if self.pace is None else paces.setdefault(self.pace, self.pace.copy())
        throttle = None if self.throttle is None else self.throttle.copy()
        own = self.copy()
        return Lane(
            own.requests, own.tokens, own.slots, own.in_flight, self.known, self.paused_until,
            throttle, pace,
        )  # fmt: skip

    def shortage(self, now: int, tokens: int = 0) -> tuple[float, str]:
        wait, budget = Budgets.shortage(self, now, tokens)
        slowed, paused = (self.wait(now, tokens) or 0), self.paused_until - now
        if paused > 0 and wait <= paused >= slowed:
            return paused, "paused"
        return (slowed, "pace") if slowed > wait else (wait, f"lane {budget}")

    def wait_behind(self, now: int, tokens: int, items: float, tokens_ahead: float) -> int:
        wait = Budgets.wait_behind(self, now, tokens, items, tokens_ahead)
        wait = max(wait, self.paused_until - now)
        if self.throttle is not None:
            wait = max(wait, self.throttle.wait(now) + self.throttle.period(now) * round(items))
        if self.pace is not None:
            wait = max(wait, self.pace.wait_behind(now, items))
        return wait

    def take(self, now: int, tokens: int = 0) -> None:
        """Take the cost of one exchange, which keeps `totals` as they are afterwards."""
        Budgets.take(self, now, tokens)
        self.totals = AdmissionTotals(now, self.totals.requests + 1, self.totals.tokens + tokens)
        self._unanswered[self.totals.requests] = now, tokens
        self._rate.count(now)
        # Only the pace after a 429 without limits is derived from it.
        if self.requests is None and self.tokens is None:
            self._recent_rate.count(now)
        if self.throttle is not None:
            self.throttle.take(now)
        if self.pace is not None:
            self._follow_pace()
            if self.pace.is_over(now):
                self.pace = None
            else:
                self.pace.take(now)

    # In a group of gates. The group has the budgets, and this lane what was last heard of them.

    def record_grant(self, totals: AdmissionTotals, tokens: int) -> None:
        """Note an exchange that the group has admitted from its budgets.

        Args:
            totals: those of the group's lane, with this exchange.
        """
        self.in_flight += 1
        # The group's other members have admitted the rest.
        admitted = totals.requests - self.totals.requests if self.totals.requests else 1
        if admitted > 0:
            self.totals = totals
        self._unanswered[totals.requests] = totals.at, tokens
        self._rate.count(totals.at, max(1, admitted))
        if not self.limits_known:
            self._recent_rate.count(totals.at, max(1, admitted))
        if self.throttle is not None:
            self.throttle.take(totals.at)
        if self.pace is not None:
            self._follow_pace()
            self.pace.take(totals.at)

    def restart_totals(self) -> None:
        """Start the totals again, as those of a group. They do not count earlier admissions."""
        self.totals = self._last_update = _NO_ADMISSIONS
        self._unanswered.clear()
        self.request_quota.restart()
        self.token_quota.restart()

    def adopt(self, now: int, requests: "QuotaState", tokens: "QuotaState") -> None:
        """Use the limits, levels and periods that the group knows."""
        self.requests = self.request_quota.adopt(self.requests, now, *requests)
        self.tokens = self.token_quota.adopt(self.tokens, now, *tokens)

    def pace_period(self, now: int) -> int:
        """Nanoseconds between two requests of the pace; 0 without one."""
        self._follow_pace()
        return 0 if self.pace is None or self.pace.is_over(now) else self.pace.bucket.period

    # Over a restart.

    def save(self, name: str, now: int) -> SavedLane:
        """What is kept of the lane over a restart."""
        return SavedLane(
            name,
            self.known,
            self.request_quota.save(self.requests, now),
            self.token_quota.save(self.tokens, now),
            max(0, self.paused_until - now),
            None if self.throttle is None else self.throttle.save(now),
            self.pace_period(now),
        )

    def restore(self, now: int, saved: SavedLane, elapsed: int) -> None:
        """Begin with what was saved `elapsed` nanoseconds ago."""
        if saved.known:
            self.confirm_model()
        self.requests = self.request_quota.restore(now, saved.requests, elapsed)
        self.tokens = self.token_quota.restore(now, saved.tokens, elapsed)
        self.paused_until = now + max(0, saved.paused_for - elapsed)
        if saved.throttle is not None:
            self.throttle = Throttle.restored(now, *saved.throttle, elapsed)
        if saved.pace and elapsed <= QUIET_TIME:
            self.pace = Pace(now, round(saved.pace / MARGIN), 1)
            self.pace_group.add(now, self.pace)

    def confirm_model(self) -> None:
        """A successful response arrived, so the model exists. Requests in flight no longer need a
        limit."""
        self.known = True
        self.slots = None

    def recently_updated(self, now: int) -> bool:
        """Whether upstream reported its limits in the last minute.

        Older limits may have been raised since, which only another request can show.
        """
        return now - self._last_update.at <= MINUTE

    @property
    def learned_at(self) -> int | None:
        """When the request behind the latest report of limits was admitted; None without one."""
        return self._last_update.at if self._last_update.requests else None

    @property
    def others_per_minute(self) -> Iterator[tuple[str, float]]:
        """What others take of each learned quota, in units."""
        quotas = (self.request_quota, self.requests), (self.token_quota, self.tokens)
        for name, (quota, bucket) in zip(("requests", "tokens"), quotas, strict=True):
            if bucket is not None:
                yield name, quota.others_per_minute(bucket)

    def learn(self, now: int, admitted: AdmissionTotals, update: RateLimitUpdate) -> bool:
        """Adopt the limits and levels in a response. Returns whether a limit has changed.

        Args:
            admitted: the totals that the exchange of the response has kept.
        """
        if admitted.requests < self._last_update.requests:
            self._lower(now, admitted, update)
            return False
        limits = self._limits()
        self._last_update = admitted
        later = self.totals.requests - admitted.requests, self.totals.tokens - admitted.tokens
        requests = tokens = 0
        if len(self._unanswered) > 1 and (
            not self.limits_known
            or is_scarce(update.requests, later[0])
            or is_scarce(update.tokens, later[1])
        ):
            requests, tokens = self._overtaken(now, admitted)
        self.requests = self.request_quota.update(
            self.requests,
            update.requests,
            now,
            admitted_at=admitted.at,
            admitted=admitted.requests,
            later=later[0] + requests,
        )
        self.tokens = self.token_quota.update(
            self.tokens,
            update.tokens,
            now,
            admitted_at=admitted.at,
            admitted=admitted.tokens,
            later=later[1] + tokens,
        )
        if self.requests is not None or self.tokens is not None:
            self.pace = None
        return limits != self._limits()

    def _limits(self) -> tuple[int | None, int | None]:
        requests = None if self.requests is None else self.requests.burst
        return requests, None if self.tokens is None else self.tokens.burst

    def _lower(self, now: int, admitted: AdmissionTotals, update: RateLimitUpdate) -> None:
        """Lower the levels by a response to an older exchange, which upstream may have seen after
        the newer ones."""
        if self._last_update.at - admitted.at > REORDERED_WITHIN:
            return
        requests = tokens = 0
        for number, (at, cost) in islice(reversed(self._unanswered.items()), _MAX_EXAMINED):
            if at >= admitted.at and number != admitted.requests:
                requests += 1
                tokens += cost
        at = admitted.at
        self.request_quota.lower(
            self.requests, update.requests, now, admitted_at=at, unanswered=requests
        )
        self.token_quota.lower(self.tokens, update.tokens, now, admitted_at=at, unanswered=tokens)

    def _overtaken(self, now: int, admitted: AdmissionTotals) -> tuple[int, int]:
        """The requests and tokens that were admitted shortly before an exchange and have no
        response yet: upstream may not have seen them before it."""
        requests = tokens = 0
        since = max(admitted.at - REORDERED_WITHIN, 2 * admitted.at - now)
        for number, (at, cost) in islice(reversed(self._unanswered.items()), _MAX_EXAMINED):
            if at < since:
                break
            if number < admitted.requests:
                requests += 1
                tokens += cost
        return requests, tokens

    def count_refusal(self, admitted: AdmissionTotals, tokens: int) -> None:
        """Upstream refused a request of this many tokens, and so has not charged it."""
        self.request_quota.count_refusal(admitted.requests, 1)
        self.token_quota.count_refusal(admitted.tokens, tokens)

    @property
    def unanswered(self) -> Work:
        """The unanswered requests. They are taken from the level that upstream reports,
        although it may have seen them before."""
        costs = [tokens for _, tokens in self._unanswered.values()]
        return Work(0, len(costs), sum(costs))

    def answer(self, admitted: AdmissionTotals) -> None:
        """A request has its response, or will never get one: free its slot."""
        self._unanswered.pop(admitted.requests, None)
        self.release()

    @property
    def limits_known(self) -> bool:
        return self.requests is not None or self.tokens is not None

    def pause(self, now: int, wait: int) -> None:
        """Admit no request for `wait` nanoseconds."""
        self.paused_until = max(self.paused_until, now + wait)

    def accept(self, now: int, admitted: AdmissionTotals) -> bool:
        """Upstream accepted a request. Returns whether the lane's pace became faster."""
        if self.pace is None:
            return False
        self._refusals = 0
        self._follow_pace()
        return self.pace.accept(now, admitted.at)

    def refuse(
        self, now: int, wait: int, admitted: AdmissionTotals, *, guessed: bool = False
    ) -> None:
        """Upstream refused a request, which may come again in `wait` nanoseconds.

        If no limit is known, the lane then resumes at the pace that upstream sustained.

        Args:
            guessed: upstream did not say how long to wait. The pace is a better guess once
                upstream keeps accepting requests at it.
        """
        if self.limits_known:
            self.pause(now, wait)
            return
        self._follow_pace()
        pause = wait
        if self.pace is None or self.pace.is_over(now):
            self.pace, self._refusals = self._first_pace(now, wait), 0
            self.pace_group.add(now, self.pace)
        elif self.pace.refuse(now, admitted.at):
            self._refusals += 1
            if guessed and self._refusals == 1:
                pause = 0
        self.pause(now, pause)
        pace = self.pace_group.choose(now, self.pace, wait, self._refusals)
        if pace is not self.pace:
            self.pace, self._refusals = pace, 1

    @property
    def current_pace(self) -> Pace | None:
        """The lane's pace, or the one that has replaced it."""
        self._follow_pace()
        return self.pace

    def _follow_pace(self) -> None:
        """Use the pace that replaced the lane's."""
        while self.pace is not None and self.pace.successor is not None:
            self.pace = self.pace.successor

    def _first_pace(self, now: int, wait: int) -> Pace:
        # A wait below a second is exact: after it, one more request fits.
        if wait < SECOND:
            return Pace(now, wait, 1)
        meter = self._recent_rate if wait <= 2 * SECOND else self._rate
        return Pace(now, max(wait, meter.span(now)), meter.total - 1)

    def slow_down(self, now: int, admitted: AdmissionTotals) -> None:
        """Upstream wants fewer requests: halve the rate."""
        self.throttle = halved(self.throttle, self._rate, now, admitted.at)

    def is_evictable(self, now: int) -> bool:
        """Whether nothing is lost if the lane is deleted."""
        return not (self.known or self.in_flight or self.paused_until > now)


class Throttle:
    """A bucket without burst, at first at half of a rate that was too high, and recovering."""

    def __init__(self, period: int, now: int) -> None:
        """`period`: nanoseconds between two requests at the rate that was too high."""
        self._period = period
        self._fraction = 0.5
        self._bucket = TokenBucket(2 * period, 1)
        self._bucket.take(now)
        self.slowed_at = now

    def copy(self) -> "Throttle":
        twin = copy(self)
        twin._bucket = copy(self._bucket)
        return twin

    def fraction(self, now: int) -> float:
        """The fraction of the full rate that is allowed now; 1 or more means no limit."""
        return self._fraction + (now - self.slowed_at) / _RECOVERY_TIME * (1 - self._fraction)

    def period(self, now: int) -> int:
        """Nanoseconds between two requests now; 0 means no limit."""
        return 0 if self.has_recovered(now) else ceil(self._period / self.fraction(now))

    def has_recovered(self, now: int) -> bool:
        return self.fraction(now) >= 1

    def save(self, now: int) -> tuple[int, float] | None:
        """The period of the full rate, and the fraction of it that is allowed."""
        return None if self.has_recovered(now) else (self._period, self.fraction(now))

    @classmethod
    def restored(cls, now: int, period: int, fraction: float, elapsed: int) -> "Throttle":
        """One that was saved `elapsed` nanoseconds ago, and recovers from there."""
        throttle = cls(period, now)
        throttle._fraction = min(1.0, fraction + elapsed / _RECOVERY_TIME)
        return throttle

    def halve(self, now: int) -> None:
        self._fraction, self.slowed_at = max(_MIN_FRACTION, self.fraction(now) / 2), now

    def wait(self, now: int) -> int:
        return 0 if self.has_recovered(now) else self._bucket.wait(now)

    def take(self, now: int) -> None:
        self._bucket.period = ceil(self._period / min(1, self.fraction(now)))
        self._bucket.take(now)


def halved(throttle: Throttle | None, rate: "RateMeter", now: int, admitted_at: int) -> Throttle:
    """The throttle at half of the rate, which recovers linearly over five minutes.

    A response to an exchange that was admitted before the last halving changes nothing.

    Args:
        throttle: the one before, if any.
        rate: that at which the lane has admitted lately.
    """
    if throttle is None or throttle.has_recovered(now):
        return Throttle(min(rate.period(now), _MIN_RATE_PERIOD), now)
    if admitted_at > throttle.slowed_at:
        throttle.halve(now)
    return throttle


class RateMeter:
    """Measures the rate at which a lane admits, in two windows of `window` nanoseconds."""

    __slots__ = ("_count", "_last_count", "_last_span", "_started", "_window")

    # One admission is no rate yet: at least this time counts as measured.
    MIN_SPAN = SECOND

    def __init__(self, window: int) -> None:
        self._window = window
        self._started = self._last_span = self._count = self._last_count = 0

    def count(self, now: int, admissions: int = 1) -> None:
        if now - self._started >= self._window:
            self._start_window(now)
        self._count += admissions

    def period(self, now: int) -> int:
        """Average nanoseconds between two admissions lately."""
        return self.span(now) // max(1, self.total)

    @property
    def total(self) -> int:
        """The admissions in both windows."""
        return self._last_count + self._count

    def span(self, now: int) -> int:
        """Nanoseconds that `total` was counted in."""
        return max(self.MIN_SPAN, self._last_span + now - self._started)

    def _start_window(self, now: int) -> None:
        """Start a window. The last one still counts, unless it ended long ago."""
        span = now - self._started
        recent = span < 2 * self._window
        self._last_count, self._last_span = (self._count, span) if recent else (0, 0)
        self._started, self._count = now, 0
