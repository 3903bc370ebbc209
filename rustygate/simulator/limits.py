"""The quota of each model: requests and tokens per minute, in token buckets.

A bucket's capacity is the limit of one minute, as OpenAI's headers show: `reset` is the time
until the bucket is full, not until the next request fits. This module is pure: the time is passed
in, in nanoseconds.

A request costs one request plus the tokens it may use at most (input tokens and output limit),
taken when it starts. Nothing is given back when the response is shorter or fails. A request
rejected by the token limit has still cost one request. A request rejected by the request limit
costs nothing: otherwise a client that keeps retrying would never be served again.

A limit can change at any time. 0 means no limit: no bucket and no headers.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

# Nanoseconds. Units are stored multiplied by this, so that a refill of `limit` per minute is
# exact in integers.
MINUTE = 60_000_000_000

# Any name is a model, so clients could create them without end. The least recently used one is
# dropped; its buckets are full when it is used again.
MAX_MODELS = 1000

Kind = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Limits:
    """A model's requests and tokens per minute; 0 means no limit."""

    rpm: int
    tpm: int

    def items(self) -> tuple[tuple[Kind, int], ...]:
        return ("requests", self.rpm), ("tokens", self.tpm)


@dataclass(slots=True)
class Bucket:
    """A bucket of `limit` units that refills by `limit` per minute; it starts full."""

    limit: int
    _debt: int = 0
    _updated: int = 0

    def take(self, now: int, units: int) -> None:
        """Take units; `wait` must have returned 0 for them."""
        self._debt = self._debt_at(now) + units * MINUTE
        self._updated = max(self._updated, now)

    def remaining(self, now: int) -> int:
        """Whole units available now."""
        return self.limit - -(-self._debt_at(now) // MINUTE)

    def wait(self, now: int, units: int) -> int:
        """Nanoseconds until `units` are available; meaningless for more than `limit`."""
        return self._refill_time(self._debt_at(now) + (units - self.limit) * MINUTE)

    def time_until_full(self, now: int) -> int:
        """Nanoseconds until the bucket is full."""
        return self._refill_time(self._debt_at(now))

    def resize(self, now: int, limit: int) -> None:
        """Change the limit from now on; units taken stay taken, up to the new limit."""
        self._debt = min(self._debt_at(now), limit * MINUTE)
        self._updated = max(self._updated, now)
        self.limit = limit

    def _debt_at(self, now: int) -> int:
        return max(0, self._debt - max(0, now - self._updated) * self.limit)

    def _refill_time(self, debt: int) -> int:
        return max(0, -(-debt // self.limit))


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """The limit that a request exceeds.

    Args:
        wait: nanoseconds until the request would fit; None if it never will.
    """

    kind: Kind
    limit: int
    used: int
    requested: int
    wait: int | None


class Quota:
    """The buckets of one model, one per limit."""

    __slots__ = ("_buckets",)

    def __init__(self, limits: Limits) -> None:
        self._buckets: dict[Kind, Bucket] = {
            kind: Bucket(limit) for kind, limit in limits.items() if limit
        }

    def charge(self, now: int, tokens: int) -> LimitExceeded | None:
        """Take the cost of a request, or return the limit that it exceeds."""
        return self._take("requests", now, 1) or self._take("tokens", now, tokens)

    def _take(self, kind: Kind, now: int, units: int) -> LimitExceeded | None:
        bucket = self._buckets.get(kind)
        if bucket is None:
            return None
        wait = None if units > bucket.limit else bucket.wait(now, units)
        if wait == 0:
            bucket.take(now, units)
            return None
        used = bucket.limit - bucket.remaining(now)
        return LimitExceeded(kind, bucket.limit, used, units, wait)

    def change_limits(self, now: int, limits: Limits) -> None:
        """Change the limits from now on; a new limit starts with a full bucket."""
        for kind, limit in limits.items():
            bucket = self._buckets.get(kind)
            if not limit:
                self._buckets.pop(kind, None)
            elif bucket is None:
                self._buckets[kind] = Bucket(limit)
            else:
                bucket.resize(now, limit)

    def limit(self, kind: Kind) -> int:
        """The limit of one kind; 0 means no limit."""
        return self._buckets[kind].limit if kind in self._buckets else 0

    def headers(self, now: int) -> dict[str, str]:
        """OpenAI's six rate limit headers; three per limit."""
        headers = {}
        for kind, bucket in self._buckets.items():
            headers[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(bucket.remaining(now))
            reset_ms = milliseconds(bucket.time_until_full(now))
            headers[f"x-ratelimit-reset-{kind}"] = go_duration(reset_ms)
        return headers

    def rate_limits(self, now: int) -> list[dict[str, Any]]:
        """The rate limits as the Realtime API reports them."""
        return [
            {
                "name": kind,
                "limit": bucket.limit,
                "remaining": bucket.remaining(now),
                "reset_seconds": milliseconds(bucket.time_until_full(now)) / 1000,
            }
            for kind, bucket in self._buckets.items()
        ]


class Quotas:
    """The quotas of all models; a quota is created when its model is first used.

    Args:
        default_limits: the limits of models without limits of their own.
        model_limits: the limits of single models, by name.
    """

    __slots__ = ("_default_limits", "_model_limits", "_quotas")

    def __init__(self, default_limits: Limits, model_limits: dict[str, Limits]) -> None:
        self._default_limits = default_limits
        self._model_limits = dict(model_limits)
        self._quotas: OrderedDict[str, Quota] = OrderedDict()

    def get(self, model: str) -> Quota:
        """The quota of a model."""
        if model not in self._quotas:
            self._quotas[model] = Quota(self._limits_of(model))
        self._quotas.move_to_end(model)
        if len(self._quotas) > MAX_MODELS:
            self._quotas.popitem(last=False)
        return self._quotas[model]

    def change(self, now: int, model: str | None, **limits: int) -> None:
        """Change the limits `rpm` or `tpm`, of one model or of all (None), from now on.

        Raises:
            OverflowError: too many models would have limits of their own.
        """
        if model is not None:
            self._set_model_limits(model, replace(self._limits_of(model), **limits))
        else:
            self._default_limits = replace(self._default_limits, **limits)
            self._model_limits = {
                name: replace(previous, **limits) for name, previous in self._model_limits.items()
            }
        for name, quota in self._affected(model):
            quota.change_limits(now, self._limits_of(name))

    def _set_model_limits(self, model: str, limits: Limits) -> None:
        if model not in self._model_limits and len(self._model_limits) >= MAX_MODELS:
            raise OverflowError(f"{MAX_MODELS} models already have limits of their own")
        self._model_limits[model] = limits

    def _affected(self, model: str | None) -> Iterator[tuple[str, Quota]]:
        return ((name, quota) for name, quota in self._quotas.items() if model in (None, name))

    def _limits_of(self, model: str) -> Limits:
        return self._model_limits.get(model, self._default_limits)

    def reset(self) -> None:
        """Fill all buckets; the limits stay as they are."""
        self._quotas.clear()

    def snapshot(self) -> dict[str, Any]:
        """The limits in force as JSON-serializable objects."""
        models = {name: asdict(limits) for name, limits in self._model_limits.items()}
        return {**asdict(self._default_limits), "models": models}

    def __len__(self) -> int:
        return len(self._quotas)


def milliseconds(ns: int) -> int:
    """Whole milliseconds, rounded up, so that a client waits long enough."""
    return -(-ns // 1_000_000)


def go_duration(ms: int) -> str:
    """A duration as Go prints it and OpenAI's headers have it: `6ms`, `1.5s`, `6m0s`, `1h0m0s`."""
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
