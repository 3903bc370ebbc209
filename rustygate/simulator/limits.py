"""The quota of each model: requests and tokens per minute, in buckets that refill continuously.

A bucket's capacity is a minute's limit, as OpenAI's headers show: `reset` is the time until it
is full, not until the next request fits. Pure: the time is passed in, in nanoseconds.

What counts: a request costs one request, and the tokens it may take at most (input and output
cap) from the start; nothing is given back when the answer is shorter or fails. One refused for
want of tokens has cost its request; one refused for want of requests costs nothing, or a client
that keeps trying would never get in again.

A limit can change at any time, and can be 0, which is none: no bucket and no headers.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

# Units are kept multiplied by this, so that a refill of `limit` per minute is exact in integers.
MINUTE = 60_000_000_000

# Any name is a model, so clients could invent them for ever; the least recently used one goes.
# It comes back with full buckets.
MODELS = 1000

Kind = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Limits:
    """A model's requests and tokens per minute; 0 is no limit."""

    rpm: int
    tpm: int

    def items(self) -> tuple[tuple[Kind, int], ...]:
        return ("requests", self.rpm), ("tokens", self.tpm)


@dataclass(slots=True)
class Bucket:
    """A bucket of `limit` units that refills by `limit` per minute; full at first."""

    limit: int
    _debt: int = 0
    _at: int = 0

    def take(self, now: int, units: int) -> None:
        """Take units that `wait` said are there."""
        self._debt = self._owed(now) + units * MINUTE
        self._at = max(self._at, now)

    def remaining(self, now: int) -> int:
        """Whole units there now."""
        return self.limit - -(-self._owed(now) // MINUTE)

    def wait(self, now: int, units: int) -> int:
        """Nanoseconds until so many units are there; never true for more than `limit`."""
        return self._time(self._owed(now) + (units - self.limit) * MINUTE)

    def reset(self, now: int) -> int:
        """Nanoseconds until it is full."""
        return self._time(self._owed(now))

    def resize(self, now: int, limit: int) -> None:
        """Change the limit from now on; what was taken stays taken, as far as the new one goes."""
        self._debt = min(self._owed(now), limit * MINUTE)
        self._at = max(self._at, now)
        self.limit = limit

    def _owed(self, now: int) -> int:
        return max(0, self._debt - max(0, now - self._at) * self.limit)

    def _time(self, debt: int) -> int:
        return max(0, -(-debt // self.limit))


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a request is beyond the quota.

    Args:
        wait: nanoseconds until it would fit; None if it never will.
    """

    kind: Kind
    limit: int
    used: int
    requested: int
    wait: int | None


class Quota:
    """The buckets of one model, one for each limit it has."""

    __slots__ = ("_buckets",)

    def __init__(self, limits: Limits) -> None:
        self._buckets: dict[Kind, Bucket] = {k: Bucket(n) for k, n in limits.items() if n}

    def charge(self, now: int, tokens: int) -> Shortage | None:
        """Take what a request costs, or say what is missing."""
        return self._take("requests", now, 1) or self._take("tokens", now, tokens)

    def _take(self, kind: Kind, now: int, units: int) -> Shortage | None:
        bucket = self._buckets.get(kind)
        if bucket is None:
            return None
        wait = None if units > bucket.limit else bucket.wait(now, units)
        if wait == 0:
            bucket.take(now, units)
            return None
        used = bucket.limit - bucket.remaining(now)
        return Shortage(kind, bucket.limit, used, units, wait)

    def apply(self, now: int, limits: Limits) -> None:
        """Change the limits from now on; one that is new begins with a full bucket."""
        for kind, limit in limits.items():
            bucket = self._buckets.get(kind)
            if not limit:
                self._buckets.pop(kind, None)
            elif bucket is None:
                self._buckets[kind] = Bucket(limit)
            else:
                bucket.resize(now, limit)

    def limit(self, kind: Kind) -> int:
        """That limit; 0 is none."""
        return self._buckets[kind].limit if kind in self._buckets else 0

    def headers(self, now: int) -> dict[str, str]:
        """The six headers by which OpenAI tells where one stands; three for each limit."""
        headers = {}
        for kind, bucket in self._buckets.items():
            headers[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(bucket.remaining(now))
            headers[f"x-ratelimit-reset-{kind}"] = go_duration(milliseconds(bucket.reset(now)))
        return headers

    def levels(self, now: int) -> list[dict[str, Any]]:
        """The same as the Realtime API tells it."""
        return [
            {
                "name": kind,
                "limit": bucket.limit,
                "remaining": bucket.remaining(now),
                "reset_seconds": milliseconds(bucket.reset(now)) / 1000,
            }
            for kind, bucket in self._buckets.items()
        ]


class Quotas:
    """The quota of each model, made when the model is first named.

    Args:
        limits: those of every model that has none of its own.
        own: those of the models that have.
    """

    __slots__ = ("_limits", "_models", "_own")

    def __init__(self, limits: Limits, own: dict[str, Limits]) -> None:
        self._limits = limits
        self._own = dict(own)
        self._models: OrderedDict[str, Quota] = OrderedDict()

    def of(self, model: str) -> Quota:
        """That model's quota."""
        if model not in self._models:
            self._models[model] = Quota(self._limits_of(model))
        self._models.move_to_end(model)
        if len(self._models) > MODELS:
            self._models.popitem(last=False)
        return self._models[model]

    def change(self, now: int, model: str | None, **limits: int) -> None:
        """Change limits, `rpm` or `tpm`, of a model or of all, from now on.

        Raises:
            OverflowError: too many models would have limits of their own.
        """
        if model is not None:
            self._keep_own(model, replace(self._limits_of(model), **limits))
        else:
            self._limits = replace(self._limits, **limits)
            self._own = {name: replace(own, **limits) for name, own in self._own.items()}
        for name, quota in self._changed(model):
            quota.apply(now, self._limits_of(name))

    def _keep_own(self, model: str, limits: Limits) -> None:
        if model not in self._own and len(self._own) >= MODELS:
            raise OverflowError(f"{MODELS} models have limits of their own already")
        self._own[model] = limits

    def _changed(self, model: str | None) -> Iterator[tuple[str, Quota]]:
        return ((name, q) for name, q in self._models.items() if model in (None, name))

    def _limits_of(self, model: str) -> Limits:
        return self._own.get(model, self._limits)

    def reset(self) -> None:
        """Fill all buckets; the limits stay."""
        self._models.clear()

    def snapshot(self) -> dict[str, Any]:
        """The limits in force as plain objects."""
        models = {name: asdict(own) for name, own in self._own.items()}
        return {**asdict(self._limits), "models": models}

    def __len__(self) -> int:
        return len(self._models)


def milliseconds(ns: int) -> int:
    """Whole milliseconds, upwards: who waits that long has waited long enough."""
    return -(-ns // 1_000_000)


def go_duration(ms: int) -> str:
    """A time as Go writes it and OpenAI's headers carry it: `6ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    if 0 < ms < 1000:
        return f"{ms}ms"
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{ms:03}".rstrip("0") if ms else ""
    text = f"{seconds}{fraction}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
