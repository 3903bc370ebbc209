"""Budgets: what an admission spends, and when there is room for it.

Up to three go together: a token bucket that counts requests, one that counts the model's tokens,
and slots in flight. The gate has such a set of its own, and each lane has one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rustygate.core.backlog import Size, Work
from rustygate.core.bucket import TokenBucket
from rustygate.core.rate_limit_headers import QuotaKind


@dataclass(frozen=True, slots=True)
class Level:
    """What a budget (`requests`, `tokens` or `slots`) has left at an instant, below 0 when it is
    overdrawn, and what it holds when it is full."""

    budget: str
    units: int
    limit: int


@dataclass(slots=True)
class Budgets:
    """A set of budgets; None is no limit.

    An exchange takes one request, its tokens and a slot. A cost in tokens above the bucket's
    capacity counts as that: it waits for a full bucket and empties it. What turns out to have
    been used beyond the estimate is owed, but no more than another capacity.
    """

    requests: TokenBucket | None = None
    tokens: TokenBucket | None = None
    slots: int | None = None
    in_flight: int = 0

    def wait(self, now: int, tokens: int = 0) -> int | None:
        """Nanoseconds until there is room, 0 if there is; None if that takes a release."""
        if self.slots is not None and self.in_flight >= self.slots:
            return None
        wait = 0 if self.requests is None else self.requests.wait(now)
        if self.tokens is None:
            return wait
        return max(wait, self.tokens.wait(now, self.token_charge(tokens)))

    def wait_behind(self, now: int, tokens: int, ahead: Work) -> int:
        """Nanoseconds until there would be room for an exchange if others went first, as far as
        that is a matter of time. The buckets refill side by side."""
        wait = 0
        if self.requests is not None:
            wait = self.requests.wait(now, 1 + round(ahead.items))
        if self.tokens is not None:
            wait = max(
                wait, self.tokens.wait(now, self.token_charge(tokens) + round(ahead.tokens))
            )
        return wait

    def scarcest(self, now: int, tokens: int = 0) -> QuotaKind:
        """Which of the two buckets is waited for longest."""
        if self.tokens is None:
            return "requests"
        requests = 0 if self.requests is None else self.requests.wait(now)
        return "tokens" if self.tokens.wait(now, tokens) > requests else "requests"

    def take(self, now: int, tokens: int = 0) -> None:
        """Take what one exchange costs, whether it is there or not."""
        self.in_flight += 1
        if self.requests is not None:
            self.requests.take(now)
        if self.tokens is not None:
            self.tokens.take(now, self.token_charge(tokens))

    def replace_limits(self, other: "Budgets") -> None:
        """Take over another set's limits and what is left of them; what is in flight stays."""
        self.requests, self.tokens, self.slots = other.requests, other.tokens, other.slots

    def release(self) -> None:
        """Free the slot of an exchange."""
        self.in_flight -= 1

    def give_back(self, tokens: int = 0) -> None:
        """Undo what was taken of the buckets for an exchange that upstream never saw."""
        if self.requests is not None:
            self.requests.give_back()
        if self.tokens is not None:
            self.tokens.give_back(self.token_charge(tokens))

    def settle(self, now: int, estimated: int, actual: int) -> None:
        """Replace an estimated cost in tokens by the actual one."""
        if self.tokens is not None:
            self.tokens.give_back(self.token_charge(estimated) - actual)
            self.tokens.limit_debt(now)

    def levels(self, now: int) -> Iterator[Level]:
        """What there is of each budget."""
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                yield Level(name, bucket.level(now), bucket.burst)
        if self.slots is not None:
            yield Level("slots", self.slots - self.in_flight, self.slots)

    @property
    def refill_periods(self) -> tuple[int, int]:
        """What `cost` counts in: nanoseconds that a request and a token take to refill."""
        requests = 0 if self.requests is None else self.requests.period
        return requests, 0 if self.tokens is None else self.tokens.period

    def token_charge(self, tokens: int) -> int:
        """What an exchange takes of the bucket of tokens; 0 where there is none."""
        return 0 if self.tokens is None else min(tokens, self.tokens.burst)

    def cost(self, tokens: int = 0) -> int:
        """What an exchange costs as one number: the nanoseconds that the budget which it strains
        most needs to refill; 1 where nothing refills."""
        requests = 1 if self.requests is None else self.requests.period
        if self.tokens is None:
            return requests
        return max(requests, self.tokens.period * self.token_charge(tokens))

    def size(self, tokens: int = 0) -> Size:
        """What an exchange counts for among those that wait for these budgets."""
        return Size(self.cost(tokens), self.token_charge(tokens))
