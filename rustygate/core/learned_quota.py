"""One quota of a lane, as upstream's responses report it: its limit, its level, and others' use.

A bucket with the reported limit is set to the reported level, minus what was admitted after the
exchange that the response answers, because upstream had not seen that yet. It refills in a minute,
or slower by what others take from the same quota (`core.others_use`).

The level in a response is as old as the response took to arrive. What refilled meanwhile is left
out, which costs a little of the capacity once, and nothing of the rate. The level in a response
that took long is too old for that: it is credited with the refill, and may only lower the bucket's
own level.
"""

from math import ceil

from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.others_use import OthersUse
from rustygate.core.rate_limit_headers import Quota
from rustygate.core.saved_levels import SavedBucket, restore_bucket

# Requests that are admitted within this time may reach upstream in any order.
REORDERED_WITHIN = SECOND // 2

# The level in a response that took no longer than this is used as it is.
MAX_FRESH_AGE = 10 * SECOND


def is_scarce(quota: Quota | None, later: int = 0) -> bool:
    """Whether so little is left, after `later` units, that the order of requests and others' use
    matter: less than half of it, which refills in half a minute."""
    if quota is None or quota.remaining is None:
        return False
    return 2 * (quota.remaining - later) <= quota.limit


class LearnedQuota:
    """What is known of a quota from its reports, except for the bucket, which is the lane's."""

    __slots__ = (
        "_left", "_low_at", "_lowest", "_others", "_period", "_refused", "_reserve", "_since"
    )  # fmt: skip

    def __init__(self) -> None:
        self._others: OthersUse | None = None
        self._period = 0
        # The lowest level reported lately, and when its exchange was admitted.
        self._lowest, self._low_at = 0, -MINUTE
        # What the lane had admitted when others' use was first observed.
        self._since = 0
        # Units of requests that upstream refused, and so did not take from the quota.
        self._refused = 0
        # Units that are left to others.
        self._reserve = 0
        self._left: int | None = None

    def __repr__(self) -> str:
        return f"<LearnedQuota {self._others}>"

    def update(
        self,
        bucket: TokenBucket | None,
        quota: Quota | None,
        now: int,
        *,
        admitted_at: int,
        admitted: int,
        later: int,
    ) -> TokenBucket | None:
        """The bucket with the limit and level that a response reports; None if none is known.

        Args:
            admitted_at: when the exchange of the response was admitted.
            admitted: units that the lane had admitted by then, in all.
            later: units that were admitted after it.
        """
        if quota is None:
            return bucket
        if bucket is None or quota.limit != bucket.burst:
            bucket = self._with_limit(bucket, quota.limit, now, later)
        if quota.remaining is None:
            bucket.limit_debt(now)
            return bucket
        if is_scarce(quota):
            self._observe_others(bucket, quota.remaining, now, admitted_at, admitted)
        elif self._others is not None or bucket.period != self._period:
            self._forget_others(bucket, now)
        age = now - admitted_at
        level = self._level(bucket, quota.remaining, admitted_at) - later
        self._left = level - self._reserve
        if level < 0:
            # Upstream admits no more than it has: what goes beyond that is refused.
            level = max(level, -(age // bucket.period))
        level -= self._reserve
        if age > MAX_FRESH_AGE:
            level = min(bucket.level(now), level + age // bucket.period)
        bucket.fill_to(now, level)
        if level < 0:
            bucket.limit_debt(now)
        return bucket

    def adopt(
        self,
        bucket: TokenBucket | None,
        now: int,
        limit: int,
        level: int,
        period: int,
        full_in: int,
    ) -> TokenBucket | None:
        """Set the bucket to what this gate's group knows.

        Args:
            limit: -1 if the group knows none.
            period: nanoseconds per unit.
            full_in: nanoseconds until it is full.
        """
        if limit < 0:
            return bucket
        if bucket is None or bucket.burst != limit:
            self.restart()
            self._period = ceil(MINUTE / limit)
            bucket = TokenBucket(period, limit)
        bucket.period = period
        bucket.full_at = now + full_in
        return bucket

    def save(self, bucket: TokenBucket | None, now: int) -> SavedBucket | None:
        """The quota as it is kept over a restart: without others' use, its units refill at the
        limit's rate."""
        if bucket is None:
            return None
        missing = bucket.burst - bucket.level(now)
        return SavedBucket(self._period, bucket.burst, missing * self._period)

    def restore(self, now: int, saved: SavedBucket | None, elapsed: int) -> TokenBucket | None:
        """The bucket of a quota that was saved `elapsed` nanoseconds ago."""
        if saved is None:
            return None
        bucket = self._with_limit(None, saved.burst, now, 0)
        restore_bucket(bucket, saved, now, elapsed)
        return bucket

    def others_per_minute(self, bucket: TokenBucket) -> float:
        """Units that others take: what the bucket refills less than the quota does."""
        return max(0.0, MINUTE / self._period - MINUTE / bucket.period) if self._period else 0.0

    def restart(self) -> None:
        """The totals of the lane start again, and with them the observation of others' use."""
        self._others, self._reserve, self._refused, self._since = None, 0, 0, 0
        self._low_at, self._left = -MINUTE, None

    def _level(self, bucket: TokenBucket, remaining: int, admitted_at: int) -> int:
        """The level that is reported for an exchange. If a lower one was reported for another
        that was admitted at about the same time, upstream saw that one later."""
        elapsed = admitted_at - self._low_at
        lowest = self._lowest + (elapsed // bucket.period if elapsed > 0 else 0)
        if remaining <= lowest or elapsed > REORDERED_WITHIN:
            self._lowest, self._low_at = remaining, admitted_at
            return remaining
        return lowest

    def lower(
        self,
        bucket: TokenBucket | None,
        quota: Quota | None,
        now: int,
        *,
        admitted_at: int,
        unanswered: int,
    ) -> None:
        """Lower the level to what the response to an older exchange reports.

        Args:
            unanswered: units that upstream may not have seen by then.
        """
        if bucket is not None and quota is not None and quota.remaining is not None:
            level = self._level(bucket, quota.remaining, admitted_at) - unanswered
            self._left = level - self._reserve
            level = max(0, level) - self._reserve
            if level < bucket.level(now):
                bucket.fill_to(now, level)

    def take_left(self) -> int | None:
        """What the last report left for the gate, even if the bucket's level is another one; None
        if there was none since the last call, or one too old to say anything."""
        left, self._left = self._left, None
        return left

    def count_refusal(self, admitted: int, units: int) -> None:
        """Count a request of this many units that upstream refused.

        Args:
            admitted: as for `update`.
        """
        self._refused += units
        if self._others is not None and admitted <= self._since:
            self._others.correct(-units)

    def _forget_others(self, bucket: TokenBucket, now: int) -> None:
        """Assume no use by others: there is enough for all."""
        self._others, self._reserve = None, 0
        bucket.resize(now, self._period, bucket.burst)

    def _with_limit(
        self, bucket: TokenBucket | None, limit: int, now: int, later: int
    ) -> TokenBucket:
        self._others, self._reserve = None, 0
        self._low_at = -MINUTE
        self._period = ceil(MINUTE / limit)
        if bucket is None:
            bucket = TokenBucket.per_minute(limit)
            bucket.fill_to(now, limit - later)
        else:
            bucket.resize(now, self._period, limit)
        return bucket

    def _observe_others(
        self, bucket: TokenBucket, remaining: int, now: int, admitted_at: int, admitted: int
    ) -> None:
        spent = admitted - self._refused
        if self._others is None:
            self._others, self._since = OthersUse(admitted_at, remaining, spent), admitted
            return
        if self._others.observe(admitted_at, remaining, spent, self._period, bucket.burst):
            bucket.resize(now, self._others.left(self._period), bucket.burst)
            self._reserve = self._others.reserve(self._period, bucket.burst)
