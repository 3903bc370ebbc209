"""The levels of limits as they are saved over a restart.

A restart must not grant a second burst, nor forget the limits that upstream has reported. For a
bucket, the time until it is full is saved; the time that the gate was down counts towards it. That
is measured by the wall clock, the only one that continues; if it was set back, no time has passed.

The estimate of what others take from a learned quota and the search for a pace start again, from
the saved levels and the last pace.

What clients have spent of their budgets is in the usage record, except for what they were charged
without a reported usage. That part is saved here.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from rustygate.core.bucket import LONGEST_PERIOD, TokenBucket

FILE_NAME = "levels.json"

# Of the format. Files of another version are not read.
VERSION = 1

_Nanoseconds = Annotated[int, Meta(ge=0)]
_Positive = Annotated[int, Meta(ge=1)]


class SavedBucket(Struct, frozen=True):
    """A bucket: nanoseconds per unit, capacity, and nanoseconds until it is full."""

    period: _Positive
    burst: _Positive
    full_in: _Nanoseconds


class SavedLane(Struct, frozen=True):
    """A lane.

    Args:
        paused_for: nanoseconds for which no request is admitted.
        throttle: nanoseconds between two requests at its full rate, and the fraction of that rate
            that is allowed; None without one.
        pace: nanoseconds between two requests; 0 without a pace.
    """

    name: str
    known: bool
    requests: SavedBucket | None = None
    tokens: SavedBucket | None = None
    paused_for: _Nanoseconds = 0
    throttle: tuple[_Positive, Annotated[float, Meta(gt=0, le=1)]] | None = None
    pace: _Nanoseconds = 0


class SavedClient(Struct, frozen=True):
    """The buckets of a client's own limits."""

    name: str
    requests: SavedBucket | None = None
    tokens: SavedBucket | None = None


class SavedSpending(Struct, frozen=True):
    """What a client was charged in a period, such as `2026-11-28` or `2026-11`, beyond what the
    usage record shows; below 0 if it was charged less."""

    client: str
    period: str
    tokens: int
    nano_usd: int


class SavedLevels(Struct, frozen=True):
    """All levels of a gate.

    Args:
        saved_at: wall-clock nanoseconds.
        requests: the gate's own bucket, as `tokens`.
    """

    version: int
    saved_at: int
    requests: SavedBucket | None = None
    tokens: SavedBucket | None = None
    lanes: tuple[SavedLane, ...] = ()
    clients: tuple[SavedClient, ...] = ()
    unrecorded: tuple[SavedSpending, ...] = ()


class _Version(Struct):
    version: int


def decode_levels(content: bytes) -> SavedLevels | int:
    """The levels in a file, or its version if that is not VERSION. Raises ValueError."""
    version = msgspec.json.decode(content, type=_Version).version
    if version != VERSION:
        return version
    return msgspec.json.decode(content, type=SavedLevels)


def saved_bucket(bucket: TokenBucket | None, now: int) -> SavedBucket | None:
    """A bucket as it is saved."""
    if bucket is None:
        return None
    return SavedBucket(bucket.period, bucket.burst, max(0, bucket.full_at - now))


def restore_bucket(
    bucket: TokenBucket | None, saved: SavedBucket | None, now: int, elapsed: int
) -> None:
    """Set the level of a new bucket to a saved one, `elapsed` nanoseconds later.

    If the limits have changed meanwhile, the same number of units is missing.
    """
    if bucket is None or saved is None:
        return
    full_in = max(0, saved.full_in - elapsed)
    if saved.period != bucket.period:
        full_in = -(-full_in // saved.period) * bucket.period
    bucket.full_at = now + min(full_in, LONGEST_PERIOD)
    bucket.limit_debt(now)
