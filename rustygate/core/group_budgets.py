"""The budgets of a group: buckets of which members hold a part in advance, and learned lanes."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rustygate.core.bucket import MINUTE, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.scopes import LaneScope

# A pace ends after this time, unless a member reports it again.
PACE_LEASE = MINUTE


class HeldBucket(TokenBucket):
    """A bucket of which some units are held as float: its level is at most its capacity less
    these."""

    __slots__ = ("held",)

    def __init__(self, period: int, burst: int, full_at: int = 0) -> None:
        super().__init__(period, burst, full_at)
        self.held = 0

    def wait(self, now: int, cost: int = 1) -> int:
        self.cap(now)
        return TokenBucket.wait(self, now, cost)

    def take(self, now: int, cost: int = 1) -> None:
        self.cap(now)
        TokenBucket.take(self, now, cost)

    def cap(self, now: int) -> None:
        """Lower the level to the capacity less what is held."""
        self.full_at = max(self.full_at, now + self.held * self.period)


@dataclass(slots=True)
class GroupLane(Budgets):
    """A lane's budgets in a group, as the members have learned them.

    Attributes:
        known: a member had a successful response.
        pace: limits the rate after a refusal, for `PACE_LEASE` since it was reported.
        total_requests, total_tokens: what was admitted so far. A grant carries the totals at its
            own admission, its mark: what a response says is as of that.
        marks: the newest mark of a response, by kind of quota.
    """

    known: bool = False
    paused_until: int = 0
    pace: TokenBucket | None = None
    paced_until: int = 0
    total_requests: int = 0
    total_tokens: int = 0
    marks: list[int] = field(default_factory=lambda: [0, 0])

    def wait(self, now: int, tokens: int = 0) -> int | None:
        wait = Budgets.wait(self, now, tokens)
        if wait is None:
            return None
        paced = 0 if self.pace is None else self.pace.wait(now)
        paced = min(paced, max(0, self.paced_until - now))
        return max(wait, paced, self.paused_until - now)

    def take(self, now: int, tokens: int = 0) -> None:
        self.lend(now, tokens)
        self.count(tokens)

    def lend(self, now: int, tokens: int) -> None:
        """Charge an admission that is counted when it is used."""
        Budgets.take(self, now, tokens)
        if self.pace is not None:
            self.pace.take(now)

    def count(self, tokens: int) -> None:
        """Count an admission in the totals."""
        self.total_requests += 1
        self.total_tokens += tokens

    def teach(self, now: int, kind: int, limit: int, level: int, period: int) -> None:
        """Adopt a quota that is not known yet; of one that is, the level only falls."""
        bucket = self.requests if kind == 0 else self.tokens
        if bucket is None:
            total = self.total_requests if kind == 0 else self.total_tokens
            self.learn(now, kind, limit, level, total, period)
        elif level < bucket.level(now):
            bucket.fill_to(now, level)

    def learn(self, now: int, kind: int, limit: int, level: int, mark: int, period: int) -> None:
        """Adopt what a response says of a quota.

        Args:
            kind: 0 for requests, 1 for tokens.
            level: what is left of it after the request of the response.
            mark: the mark of that request.
            period: nanoseconds in which a unit refills for the group.
        """
        bucket = self.requests if kind == 0 else self.tokens
        total = self.total_requests if kind == 0 else self.total_tokens
        is_new = bucket is None
        if bucket is None:
            bucket = HeldBucket(period, limit)
            if kind == 0:
                self.requests = bucket
            else:
                self.tokens = bucket
        elif (bucket.period, bucket.burst) != (period, limit):
            bucket.resize(now, period, limit)
        left = level - max(0, total - mark)
        if mark >= self.marks[kind] or is_new:
            self.marks[kind] = mark
            bucket.fill_to(now, left)
        elif left < bucket.level(now):
            bucket.fill_to(now, left)


class GroupLaneScope(LaneScope[str]):
    """A lane of a group, and what waits in it."""

    __slots__ = ("name",)

    budgets: GroupLane

    def __init__(self, name: str, lane: GroupLane) -> None:
        super().__init__(lane)
        self.name = name


def least(limits: Iterable[int]) -> int:
    """The strictest limit; -1 means none."""
    return min((limit for limit in limits if limit >= 0), default=-1)


def resized(bucket: TokenBucket | None, now: int, period: int, burst: int) -> TokenBucket | None:
    if period < 0:
        return None
    if bucket is None:
        return HeldBucket(period, burst)
    if (bucket.period, bucket.burst) != (period, burst):
        bucket.resize(now, period, burst)
    return bucket


def cap(budgets: Budgets, now: int) -> None:
    for bucket in (budgets.requests, budgets.tokens):
        if isinstance(bucket, HeldBucket):
            bucket.cap(now)


def change_held(budgets: Budgets, count: int, tokens: int) -> None:
    for bucket, units in ((budgets.requests, count), (budgets.tokens, count * tokens)):
        if isinstance(bucket, HeldBucket):
            bucket.held += units
