"""The quota of each model: requests and tokens per minute, in buckets that refill continuously.

A bucket's capacity is a minute's limit, as OpenAI's headers show: `reset` is the time until it
is full, not until the next request fits. Pure: the time is passed in, in nanoseconds.

What counts: a request costs one request, and the tokens it may take at most (input and output
cap) from the start; nothing is given back when the answer is shorter or fails. One refused for
want of tokens has cost its request; one refused for want of requests costs nothing, or a client
that keeps trying would never get in again.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

# Units are kept multiplied by this, so that a refill of `limit` per minute is exact in integers.
MINUTE = 60_000_000_000

# Any name is a model, so clients could invent them for ever; the least recently used one goes.
# It comes back with full buckets.
MODELS = 1000

Kind = Literal["requests", "tokens"]


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
    """The two buckets of one model."""

    __slots__ = ("_requests", "_tokens")

    def __init__(self, rpm: int, tpm: int) -> None:
        self._requests = Bucket(rpm)
        self._tokens = Bucket(tpm)

    def charge(self, now: int, tokens: int) -> Shortage | None:
        """Take what a request costs, or say what is missing."""
        if wait := self._requests.wait(now, 1):
            return _shortage("requests", self._requests, now, 1, wait)
        self._requests.take(now, 1)
        if tokens > self._tokens.limit:
            return _shortage("tokens", self._tokens, now, tokens, None)
        if wait := self._tokens.wait(now, tokens):
            return _shortage("tokens", self._tokens, now, tokens, wait)
        self._tokens.take(now, tokens)
        return None

    def headers(self, now: int) -> dict[str, str]:
        """The six headers by which OpenAI tells where one stands."""
        headers = {}
        for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            headers[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(bucket.remaining(now))
            headers[f"x-ratelimit-reset-{kind}"] = go_duration(milliseconds(bucket.reset(now)))
        return headers


def _shortage(kind: Kind, bucket: Bucket, now: int, requested: int, wait: int | None) -> Shortage:
    used = bucket.limit - bucket.remaining(now)
    return Shortage(kind, bucket.limit, used, requested, wait)


class Quotas:
    """The quota of each model, made when the model is first named."""

    __slots__ = ("_models", "_rpm", "_tpm")

    def __init__(self, rpm: int, tpm: int) -> None:
        self._rpm = rpm
        self._tpm = tpm
        self._models: OrderedDict[str, Quota] = OrderedDict()

    def of(self, model: str) -> Quota:
        """That model's quota."""
        if model not in self._models:
            self._models[model] = Quota(self._rpm, self._tpm)
        self._models.move_to_end(model)
        if len(self._models) > MODELS:
            self._models.popitem(last=False)
        return self._models[model]

    def reset(self) -> None:
        """Fill all buckets."""
        self._models.clear()

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
