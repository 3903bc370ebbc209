"""What upstream reports about its quotas: the `x-ratelimit-*` response headers.

Each OpenAI response says how many requests and tokens of the current minute are left (OpenAI's
guide "Rate limits", "Rate limits in headers"). `reset`, the time until a quota is full again, only
matters after a 429 (`core.verdict`).

The headers come from outside. Whatever is in them, these functions return and do not raise; a
number that makes no sense counts as missing.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

# More than upstream allows anyone in a minute. A greater number is a mistake.
MAX_QUOTA = 10**12

QuotaKind = Literal["requests", "tokens"]

# The values below are made for each response: a Struct costs a tenth of a frozen dataclass.


class Quota(msgspec.Struct, frozen=True):
    """The state of one quota; None is what upstream did not report.

    Args:
        limit: units in a minute, at least one.
        remaining: units left, at most `limit`.
    """

    limit: int
    remaining: int | None


class RateLimitUpdate(msgspec.Struct, frozen=True):
    """What the headers of a response say about its model's quotas."""

    requests: Quota | None = None
    tokens: Quota | None = None


NO_UPDATE = RateLimitUpdate()


def read_rate_limits(headers: Mapping[str, str]) -> RateLimitUpdate:
    """Read the `x-ratelimit-*` headers. A quota without a limit is left out.

    Args:
        headers: any mapping that finds headers by their lower-case names.
    """
    requests = headers.get("x-ratelimit-limit-requests")
    tokens = headers.get("x-ratelimit-limit-tokens")
    if requests is None and tokens is None:
        return NO_UPDATE
    return RateLimitUpdate(
        _quota("requests", requests, headers), _quota("tokens", tokens, headers)
    )


def _quota(kind: QuotaKind, limit_value: str | None, headers: Mapping[str, str]) -> Quota | None:
    limit = _count(limit_value)
    if not limit:
        return None
    remaining = _count(headers.get("x-ratelimit-remaining-" + kind))
    if remaining is not None and remaining > limit:
        remaining = limit
    return Quota(limit, remaining)


def _count(text: str | None) -> int | None:
    """A whole number of plausible size. `int` alone would accept `1_0` and non-ASCII digits."""
    if text is None or len(text) > 13 or not text.isascii() or not text.isdecimal():
        return None
    number = int(text)
    return number if number <= MAX_QUOTA else None
