"""Errors in OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`.

A `Failure` says what the answer is, an `ApiError` ends a request with it; the exception becomes
a response in one place, `app`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from rustygate.simulator.limits import Kind, Quota, Shortage, go_duration, milliseconds


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that is an error."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def error(self) -> dict[str, Any]:
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }

    def response(self) -> web.Response:
        """The error as it goes out; in ASCII, since a message may quote anything."""
        return web.Response(
            status=self.status,
            text=json.dumps({"error": self.error}, indent=2),
            content_type="application/json",
            headers=self.headers,
        )


class ApiError(Exception):
    """A request ends with that failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Severed(Exception):
    """The connection was broken on purpose; there is nobody left to answer."""


def retry_headers(wait_ms: int) -> dict[str, str]:
    """When to come back: OpenAI's own header in milliseconds, and RFC 9110's in whole seconds."""
    return {"Retry-After": str(-(-wait_ms // 1000)), "retry-after-ms": str(wait_ms)}


ORGANIZATION = "org-simulator"

_UNITS = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}

# For endpoints without a model, and models without a limit: those of a small account.
_USUAL: dict[Kind, int] = {"requests": 500, "tokens": 30_000}


def beyond_quota(model: str, shortage: Shortage) -> Failure:
    """A request has no room, now or, without a wait, ever."""
    kind, code = shortage.kind, "rate_limit_exceeded"
    where = f"for {model} in organization {ORGANIZATION} on {_UNITS[kind]}"
    if shortage.wait is None:
        message = (
            f"Request too large {where}: Limit {shortage.limit}, Requested {shortage.requested}. "
            "The input or output tokens must be reduced in order to run successfully."
        )
        return Failure(429, message, kind, code)
    wait_ms = milliseconds(shortage.wait)
    message = (
        f"Rate limit reached {where}: Limit {shortage.limit}, Used {shortage.used}, "
        f"Requested {shortage.requested}. Please try again in {go_duration(wait_ms)}."
    )
    return Failure(429, message, kind, code, headers=retry_headers(wait_ms))


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Refused as if beyond the quota, for so many milliseconds or, with none, for ever."""

    kind: Kind
    wait_ms: int | None = None

    def failure(self, model: str, quota: Quota | None) -> Failure:
        """The refusal, with the numbers of the quota it claims to come from."""
        limit = (quota and quota.limit(self.kind)) or _USUAL[self.kind]
        if self.wait_ms is None:
            shortage = Shortage(self.kind, limit, 0, limit + max(1, limit // 3), None)
        else:
            shortage = Shortage(self.kind, limit, limit, 1, self.wait_ms * 1_000_000)
        return beyond_quota(model, shortage)


def slow_down(wait_ms: int | None) -> Failure:
    message = "Your requests rise too fast. Slow down, and speed up again gradually."
    return Failure(429, message, "requests", "slow_down", headers=_retry(wait_ms))


def overloaded(wait_ms: int | None) -> Failure:
    message = "The servers have more to do than they can. Please come back in a while."
    kind = "service_unavailable_error"
    return Failure(503, message, kind, "server_is_overloaded", headers=_retry(wait_ms))


def spent(code: str) -> Failure:
    """One of the refusals that waiting does not end; all are of one type, told by their code."""
    message = f"You have used up what you paid for or may spend ({code}); see plan and billing."
    return Failure(429, message, "insufficient_quota", code)


def bare(status: int) -> Failure:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return Failure(status, f"A failure with status {status}, as was asked for.", kind)


def _retry(wait_ms: int | None) -> dict[str, str]:
    return {} if wait_ms is None else retry_headers(wait_ms)
