"""What upstream says of its quotas: the `x-ratelimit-*` headers, and what a 429 or 503 means.

OpenAI tells with each answer how much of a minute's requests and tokens is left (its guide "Rate
limits", "Rate limits in headers"). `reset` is the time until a quota is full again, not until the
next request fits, and is written as Go writes durations (time.Duration.String): `6ms`, `6m0s`.

Headers and bodies come from beyond the gate: whatever is in them, these functions answer and do
not raise. Numbers that make no sense are taken as not said.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from rustygate.core.durations import parse_go_duration

# More than upstream lets anybody have in a minute; what claims more is a mistake.
MAX_QUOTA = 10**12

QuotaKind = Literal["requests", "tokens"]

# The values below are made for each answer: a Struct is a tenth of a frozen dataclass's cost.


class Quota(msgspec.Struct, frozen=True):
    """Where one quota stands; None is what upstream did not say.

    Args:
        limit: units in a minute, at least one.
        remaining: units left, at most `limit`.
        reset: the time until it is full, as upstream writes it; read only where it is needed.
    """

    limit: int
    remaining: int | None
    reset: str | None = None

    @property
    def reset_ns(self) -> int | None:
        """Nanoseconds until it is full."""
        return None if self.reset is None else parse_go_duration(self.reset)


class RateLimitUpdate(msgspec.Struct, frozen=True):
    """What an answer's headers tell of the quotas of its model."""

    requests: Quota | None = None
    tokens: Quota | None = None


NO_UPDATE = RateLimitUpdate()


def read_rate_limits(headers: Mapping[str, str]) -> RateLimitUpdate:
    """Read the `x-ratelimit-*` headers; a quota whose limit is not told is none.

    Args:
        headers: whatever finds them by their lower-case names.
    """
    requests = headers.get("x-ratelimit-limit-requests")
    tokens = headers.get("x-ratelimit-limit-tokens")
    if requests is None and tokens is None:
        return NO_UPDATE
    return RateLimitUpdate(
        _quota("requests", requests, headers), _quota("tokens", tokens, headers)
    )


def _quota(kind: QuotaKind, limit_said: str | None, headers: Mapping[str, str]) -> Quota | None:
    limit = _count(limit_said)
    if not limit:
        return None
    remaining = _count(headers.get("x-ratelimit-remaining-" + kind))
    if remaining is not None and remaining > limit:
        remaining = limit
    return Quota(limit, remaining, headers.get("x-ratelimit-reset-" + kind))


def _count(text: str | None) -> int | None:
    """A whole number within reason. `int` alone would read `1_0` and other scripts' digits."""
    if text is None or len(text) > 13 or not text.isascii() or not text.isdecimal():
        return None
    number = int(text)
    return number if number <= MAX_QUOTA else None
