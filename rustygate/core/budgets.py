"""Budgets: what an admission spends, and when they suffice for it.

A set has up to three: a token bucket that counts requests, one that counts model tokens, and
in-flight slots. The gate has a set of its own, and so do each lane and each client with limits.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from math import inf

from rustygate.core.bucket import TokenBucket
from rustygate.core.rate_limit_headers import QuotaKind


@dataclass(frozen=True, slots=True)
class Level:
    """The level of a budget (`requests`, `tokens` or `slots`) at an instant, negative after an
    overdraft, and its limit when full."""

    budget: str
    units: int
    limit: int


@dataclass(slots=True)
class Budgets:
    """A set of budgets; None means no limit.

    An exchange takes one request, its tokens and a slot. A cost in tokens above the bucket's
    capacity counts as the capacity: the exchange waits for a full bucket and empties it. Usage
    beyond the estimate is owed, up to one more capacity.
    """

    requests: TokenBucket | None = None
    tokens: TokenBucket | None = None
    slots: int | None = None
    in_flight: int = 0

    def wait(self, now: int, tokens: int = 0) -> int | None:
        """Nanoseconds until the budgets suffice, 0 if they do now. None: no slot is free."""
        if self.slots is not None and self.in_flight >= self.slots:
            return None
        wait = 0 if self.requests is None else self.requests.wait(now)
        if self.tokens is None:
            return wait
        return max(wait, self.tokens.wait(now, self.token_charge(tokens)))

    def wait_behind(self, now: int, tokens: int, items: float, tokens_ahead: float) -> int:
        """Nanoseconds until the buckets suffice for an exchange behind `items` others, with
        `tokens_ahead` tokens in all.

        The buckets refill side by side. Slots are not considered.
        """
        wait = 0
        if self.requests is not None:
            wait = self.requests.wait(now, 1 + round(items))
        if self.tokens is not None:
            cost = self.token_charge(tokens) + round(tokens_ahead)
            wait = max(wait, self.tokens.wait(now, cost))
        return wait

    def scarcest(self, now: int, tokens: int = 0) -> QuotaKind:
        """The bucket that an exchange waits for longest."""
        if self.tokens is None:
            return "requests"
        requests = 0 if self.requests is None else self.requests.wait(now)
        return "tokens" if self.tokens.wait(now, tokens) > requests else "requests"

    def take(self, now: int, tokens: int = 0) -> None:
        """Take the cost of one exchange, available or not."""
        self.in_flight += 1
        if self.requests is not None:
            self.requests.take(now)
        if self.tokens is not None:
            self.tokens.take(now, self.token_charge(tokens))

    def copy(self) -> "Budgets":
        """The same budgets at the same levels."""
        requests, tokens = copy(self.requests), copy(self.tokens)
        return Budgets(requests, tokens, self.slots, self.in_flight)

    def shortage(self, now: int, tokens: int = 0) -> tuple[float, str]:
        """How long the scarcest budget keeps an exchange waiting, and which one that is."""
        if self.slots is not None and self.in_flight >= self.slots:
            return inf, "slots"
        wait = Budgets.wait(self, now, tokens) or 0
        return wait, self.scarcest(now, self.token_charge(tokens))

    def replace_limits(self, other: "Budgets") -> None:
        """Use the limits and levels of another set. The count of slots in use stays."""
        self.requests, self.tokens, self.slots = other.requests, other.tokens, other.slots

    def release(self) -> None:
        """Free the slot of an exchange."""
        self.in_flight -= 1

    def give_back(self, tokens: int = 0) -> None:
        """Return to the buckets the cost of an exchange that upstream never saw."""
        if self.requests is not None:
            self.requests.give_back()
        if self.tokens is not None:
            self.tokens.give_back(self.token_charge(tokens))

    def on_refusal(self, now: int) -> None:
        """Call when upstream refuses a request. If the request limit has no room, upstream may
        have the same limit and run slightly behind: its refill starts when the first request of a
        burst arrives, which may take longer than later ones."""
        if self.requests is not None and self.requests.wait(now):
            self.requests.increase_lag()

    def settle(self, now: int, estimated: int, actual: int) -> None:
        """Replace the estimated cost in tokens by the actual one."""
        if self.tokens is not None:
            self.tokens.give_back(self.token_charge(estimated) - actual)
            self.tokens.limit_debt(now)

    def levels(self, now: int) -> Iterator[Level]:
        """The level of each budget that has a limit."""
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                yield Level(name, bucket.level(now), bucket.burst)
        if self.slots is not None:
            yield Level("slots", self.slots - self.in_flight, self.slots)

    @property
    def refill_periods(self) -> tuple[int, int]:
        """Nanoseconds to refill one request and one token: the unit of `cost`; 0 if unlimited."""
        requests = 0 if self.requests is None else self.requests.period
        return requests, 0 if self.tokens is None else self.tokens.period

    def token_charge(self, tokens: int) -> int:
        """What an exchange takes from the token bucket; 0 without one."""
        return 0 if self.tokens is None else min(tokens, self.tokens.burst)

    def cost(self, tokens: int = 0) -> int:
        """The cost of an exchange as one number, for the fair order.

        It is the refill time, in nanoseconds, in the bucket that the exchange strains most; 1 if
        no bucket has a limit.
        """
        requests = 1 if self.requests is None else self.requests.period
        if self.tokens is None:
            return requests
        return max(requests, self.tokens.period * self.token_charge(tokens))


def periods_differ(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether costs in two units, as in `refill_periods`, differ by more than a factor of two."""
    pairs = (sorted(pair) for pair in zip(one, other, strict=True))
    return any(greater > 2 * lesser for lesser, greater in pairs)
