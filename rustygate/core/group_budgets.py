"""The budgets of a group: buckets of which members hold a part in advance, and learned lanes."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.budgets import Budgets, periods_differ
from rustygate.core.fair_order import CLASSES
from rustygate.core.group_demand import GroupFlow
from rustygate.core.lane import RateMeter, Throttle, halved
from rustygate.core.learned_quota import MAX_FRESH_AGE, REORDERED_WITHIN
from rustygate.core.scopes import ClientScope, LaneScope

# A pace ends after this time, unless a member reports it again.
PACE_LEASE = MINUTE

# The flows of a lane are made equal at most once in this time.
RESET_INTERVAL = SECOND


class HeldBucket(TokenBucket):
    """A bucket some of whose units are held as float: its level is at most its capacity less
    these. No more than the capacity is held, even if a larger float was lent before the limit was
    known or fell."""

    __slots__ = ("held",)

    def __init__(self, period: int, burst: int, full_at: int = 0) -> None:
        super().__init__(period, burst, full_at)
        self.held = 0

    def take(self, now: int, cost: int = 1) -> None:
        self.cap(now)
        TokenBucket.take(self, now, cost)

    def level(self, now: int) -> int:
        return min(TokenBucket.level(self, now), self.burst - self.held)

    def has_held(self, cost: int) -> bool:
        """Whether the capacity that is not held is less than a cost."""
        return self.held + cost > self.burst

    def hold(self, now: int, units: int) -> int:
        """Hold this many units from now on. Returns how many of those held before it frees."""
        self.cap(now)
        before, self.held = self.held, min(units, self.burst)
        return before - self.held

    def limit_debt(self, now: int) -> None:
        """As `TokenBucket.limit_debt`. The float is not owed."""
        self.full_at = min(self.full_at, now + (2 * self.burst + self.held) * self.period)

    def cap(self, now: int) -> None:
        """Lower the level to the capacity less what is held."""
        if self.held > 0:
            self.full_at = max(self.full_at, now + self.held * self.period)


@dataclass(slots=True)
class GroupBudgets(Budgets):
    """Budgets with the float that members hold: `held` admissions, and their tokens.

    A float is charged when it is lent. An admission that is used is then charged as of that
    instant, and one that is returned as if it had never been lent.
    """

    requests: HeldBucket | None = None
    tokens: HeldBucket | None = None
    held: int = 0
    held_tokens: int = 0

    def wait(self, now: int, tokens: int = 0) -> int | None:
        """As `Budgets.wait`; None, too, while the capacity that is not held is too small."""
        if self.held > 0 and self._has_held(tokens):
            return None
        return Budgets.wait(self, now, tokens)

    def _has_held(self, tokens: int) -> bool:
        """Whether an admission must wait until some of the float is used or returned."""
        if self.requests is not None and self.requests.has_held(1):
            return True
        return self.tokens is not None and self.tokens.has_held(self.token_charge(tokens))

    def set_limit(self, now: int, kind: int, period: int, burst: int) -> HeldBucket | None:
        """Set the limit of requests (kind 0) or tokens (1); a period below 0 means none."""
        bucket = self.requests if kind == 0 else self.tokens
        held = self.held if kind == 0 else self.held_tokens
        if period < 0:
            bucket = None
        elif bucket is None:
            bucket = HeldBucket(period, burst)
            bucket.hold(now, held)
        elif bucket.burst != burst:
            # This creates neither debt nor units. A debt to a larger limit is reduced.
            level = min(bucket.level(now) + bucket.held, burst)
            bucket.period, bucket.burst = period, burst
            bucket.hold(now, held)
            bucket.fill_to(now, level - bucket.held)
            bucket.limit_debt(now)
        elif bucket.period != period:
            bucket.resize(now, period, burst)
        if kind == 0:
            self.requests = bucket
        else:
            self.tokens = bucket
        return bucket

    def lend(self, now: int, tokens: int) -> None:
        """Charge an admission in advance."""
        Budgets.take(self, now, tokens)
        self._hold(now, 1, tokens)

    def return_held(self, now: int, count: int, tokens: int) -> None:
        """Give back admissions that were not used."""
        self.in_flight -= count
        self._free(now, count, tokens, charges=(0, 0))

    def use_held(self, now: int, held: int, tokens: int) -> None:
        """An admission that was charged `held` tokens is used, for this many tokens."""
        self._free(now, 1, held, charges=(1, self.token_charge(tokens)))

    def _free(self, now: int, count: int, tokens: int, charges: tuple[int, int]) -> None:
        """Hold fewer admissions, and charge what was used of them. That may be more than they
        held, or the bucket has, if the limit became known or fell since."""
        buckets, freed = (self.requests, self.tokens), self._hold(now, -count, tokens)
        for bucket, units, charge in zip(buckets, freed, charges, strict=True):
            if bucket is not None:
                bucket.give_back(units - charge)
                if charge > 0:
                    bucket.limit_debt(now)

    def _hold(self, now: int, count: int, tokens: int) -> tuple[int, int]:
        """Hold more admissions. Returns how many requests and tokens that frees."""
        self.held += count
        self.held_tokens += count * tokens
        requests = 0 if self.requests is None else self.requests.hold(now, self.held)
        return requests, 0 if self.tokens is None else self.tokens.hold(now, self.held_tokens)


@dataclass(slots=True)
class GroupLane(GroupBudgets):
    """A lane's budgets in a group, as the members have learned them.

    Attributes:
        known: a member had a successful response.
        pace: limits the rate after a refusal, for `PACE_LEASE` since it was reported.
        throttle: limits the rate while the lane recovers from `slow_down`.
        total_requests, total_tokens: what was admitted so far. A grant carries the totals at its
            own admission, its mark: what a response says is as of that.
        marks: the newest mark of a response, by kind of quota.
        marked_at: when the requests of these marks were admitted, or later ones whose responses
            came out of order.
    """

    known: bool = False
    paused_until: int = 0
    pace: TokenBucket | None = None
    paced_until: int = 0
    throttle: Throttle | None = None
    total_requests: int = 0
    total_tokens: int = 0
    marks: list[int] = field(default_factory=lambda: [0, 0])
    marked_at: list[int] = field(default_factory=lambda: [0, 0])
    rate: RateMeter = field(default_factory=lambda: RateMeter(10 * SECOND))

    def wait(self, now: int, tokens: int = 0) -> int | None:
        wait = GroupBudgets.wait(self, now, tokens)
        if wait is None:
            return None
        paced = 0 if self.pace is None else self.pace.wait(now)
        paced = min(paced, max(0, self.paced_until - now))
        throttled = 0 if self.throttle is None else self.throttle.wait(now)
        return max(wait, paced, throttled, self.paused_until - now)

    def take(self, now: int, tokens: int = 0) -> None:
        Budgets.take(self, now, tokens)
        self.count(now, tokens)
        if self.pace is not None:
            self.pace.take(now)
        if self.throttle is not None:
            self.throttle.take(now)

    def count(self, now: int, tokens: int) -> None:
        """Count an admission in the totals."""
        self.total_requests += 1
        self.total_tokens += tokens
        self.rate.count(now)

    def spacing(self, now: int) -> int:
        """The least ns between two requests, by the pace or after `slow_down`; 0 for none."""
        paced = self.pace.period if self.pace is not None and now < self.paced_until else 0
        return max(paced, 0 if self.throttle is None else self.throttle.period(now))

    @property
    def has_knowledge(self) -> bool:
        """Whether upstream has confirmed the model, or reported its limits."""
        return self.known or self.requests is not None or self.tokens is not None

    def is_idle(self, now: int) -> bool:
        """Whether forgetting the lane loses nothing but what was learned about it."""
        return not self.in_flight and self.paused_until <= now

    def slow_down(self, now: int, admitted_at: int) -> None:
        """Upstream wants fewer requests: halve the rate."""
        self.throttle = halved(self.throttle, self.rate, now, admitted_at)

    def teach(self, now: int, kind: int, limit: int, level: int, period: int) -> None:
        """Adopt a quota that is not known yet; of one that is, the level only falls."""
        bucket = self.requests if kind == 0 else self.tokens
        if bucket is None:
            total = self.total_requests if kind == 0 else self.total_tokens
            self.learn(now, kind, limit, level, total, period, 0)
        elif level < bucket.level(now):
            bucket.fill_to(now, level)
            bucket.limit_debt(now)

    def learn(
        self, now: int, kind: int, limit: int, level: int, mark: int, period: int, age: int
    ) -> None:
        """Adopt what a response says of a quota, as `LearnedQuota` does. Limits that are known
        replace the pace.

        Args:
            kind: 0 for requests, 1 for tokens.
            level: what is left of it after the request of the response.
            mark: the mark of that request. If it is not the newest, the level only falls, and
                only if upstream may have seen that request later. A mark from an earlier life of
                this group does not raise the level either.
            period: nanoseconds in which a unit refills for the group.
            age: nanoseconds since that request was admitted.
        """
        is_new = (self.requests if kind == 0 else self.tokens) is None
        is_newest = self._note_mark(kind, mark, now - age, is_new)
        if not is_newest and self.marked_at[kind] - (now - age) > REORDERED_WITHIN:
            return
        bucket = self.set_limit(now, kind, period, limit)
        assert bucket is not None
        self.pace = None
        refilled = age // period
        # Upstream refuses what exceeds its level, so that is not owed. But what was granted ahead,
        # for later instants, is owed already.
        owed = min(level, -refilled, bucket.level(now) + bucket.held)
        left = max(level - self._later(kind, limit, level, mark), owed) - bucket.held
        is_fresh = age <= MAX_FRESH_AGE
        if not is_fresh:
            left += refilled
        if (is_newest and is_fresh) or left < bucket.level(now):
            bucket.fill_to(now, left)
            bucket.limit_debt(now)

    def _note_mark(self, kind: int, mark: int, at: int, is_new: bool) -> bool:
        """Keep a mark, and when its request was admitted, if it is the newest. Returns whether it
        is, and no response to a request that was admitted shortly after it came first."""
        total = self.total_requests if kind == 0 else self.total_tokens
        latest = self.marked_at[kind]
        is_newest = is_new or self.marks[kind] <= mark <= total
        if is_newest:
            self.marks[kind], self.marked_at[kind] = min(mark, total), at
        if is_new or (is_newest and not at < latest <= at + REORDERED_WITHIN):
            return True
        self.marked_at[kind] = max(latest, at)
        return False

    def _later(self, kind: int, limit: int, level: int, mark: int) -> int:
        """What was admitted after the request with a mark, or may reach upstream after it."""
        total = self.total_requests if kind == 0 else self.total_tokens
        later = max(0, total - mark)
        if 2 * (level - later) > limit:
            return later
        # Some unanswered requests may reach upstream after the one with this mark, although their
        # own marks are lower. That matters only where little is left.
        unanswered = self.in_flight - self.held
        if kind == 1:
            unanswered *= self.total_tokens // max(1, self.total_requests)
        return max(later, unanswered)


class GroupLaneScope(LaneScope[str]):
    """A lane of a group, and what waits in it.

    Attributes:
        used: when it was used last.
        depths: by class, the flows that wait in groups of about the same number of items and
            tokens: how many flows, items, tokens, and the sum of their weights.
    """

    __slots__ = ("_refill_periods", "_reset_at", "depths", "name", "used")

    budgets: GroupLane

    def __init__(self, name: str, lane: GroupLane) -> None:
        super().__init__(lane)
        self.name = name
        self.used = 0
        self.depths: tuple[dict[int, list[float]], ...] = tuple({} for _ in CLASSES)
        self._refill_periods = lane.refill_periods
        self._reset_at = -RESET_INTERVAL

    def renew_order(self, now: int) -> None:
        """Make all flows equal again if the limits, and so the costs, have changed much; at most
        once per interval."""
        periods = self.budgets.refill_periods
        in_time = now - self._reset_at >= RESET_INTERVAL
        if not in_time or not periods_differ(self._refill_periods, periods):
            return
        self._refill_periods, self._reset_at = periods, now
        for flows in self.busy:
            flows.sort(key=lambda flow: (flow.tag, flow.turn))
            for position, flow in enumerate(flows):
                flow.position = position
        self.forget_order()

    def count_depth(self, flow: GroupFlow) -> None:
        """Count a flow, which has changed, in its group of flows."""
        depths = self.depths[flow.share.index]
        if flow.counted is not None:
            depth, items, tokens, weight = flow.counted
            if depths[depth][0] == 1:
                del depths[depth]
            else:
                _add(depths[depth], -1, -items, -tokens, -weight)
        flow.counted = None
        if flow.count:
            depth = 64 * flow.count.bit_length() + flow.tokens.bit_length()
            flow.counted = depth, flow.count, flow.tokens, flow.share.weight
            _add(depths.setdefault(depth, [0, 0, 0, 0.0]), 1, *flow.counted[1:])


def _add(sums: list[float], *values: float) -> None:
    for index, value in enumerate(values):
        sums[index] += value


class GroupClientScope(ClientScope[str]):
    """A client with limits of its own.

    Attributes:
        limits: ns per request, burst, tokens per minute, slots; -1 for none.
        version: since which version of the clients' file it has these.
    """

    __slots__ = ("limits", "version")

    def __init__(self) -> None:
        super().__init__(Budgets())
        self.limits = [-1, -1, -1, -1]
        self.version = 0

    def set_limits(self, limits: list[int], version: int) -> None:
        """New limits begin with full budgets."""
        self.limits, self.version = limits, version
        period, burst, tokens, slots = limits
        self.budgets.requests = None if period < 0 else TokenBucket(period, burst)
        self.budgets.tokens = None if tokens < 0 else TokenBucket.per_minute(tokens)
        self.budgets.slots = None if slots < 0 else slots

    def empty(self, now: int) -> None:
        for bucket in (self.budgets.requests, self.budgets.tokens):
            if bucket is not None:
                bucket.fill_to(now, 0)

    def charged(self, version: int) -> bool:
        """Whether the present budgets were charged for an admission of this version; -1 is the
        present one."""
        return version < 0 or version >= self.version


def least(limits: Iterable[int]) -> int:
    """The strictest limit; -1 means none."""
    return min((limit for limit in limits if limit >= 0), default=-1)
