"""Error responses in OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`.

An `ErrorResponse` is a value; raising an `ApiError` ends a request with it. Exceptions become
responses in one place, `middleware`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from rustygate.simulator.limits import Kind, LimitExceeded, Quota, go_duration, milliseconds


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """The status, headers and error object of a response that is an error."""

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

    def to_response(self) -> web.Response:
        """The HTTP response; its JSON is ASCII, since a message may quote any input."""
        return web.Response(
            status=self.status,
            text=json.dumps({"error": self.error}, indent=2),
            content_type="application/json",
            headers=self.headers,
        )


class ApiError(Exception):
    """Ends a request with an error response."""

    def __init__(self, response: ErrorResponse) -> None:
        super().__init__(response.message)
        self.response = response


class ConnectionCut(Exception):
    """A fault closed the connection; no response can be sent."""


def retry_headers(wait_ms: int) -> dict[str, str]:
    """When to retry: RFC 9110's header in whole seconds, and OpenAI's own in milliseconds."""
    return {"Retry-After": str(-(-wait_ms // 1000)), "retry-after-ms": str(wait_ms)}


ORGANIZATION = "org-simulator"

_LIMIT_NAMES = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}

# The limits of a small account, for endpoints without a model and models without a limit.
_DEFAULT_LIMITS: dict[Kind, int] = {"requests": 500, "tokens": 30_000}


def rate_limit_exceeded(model: str, exceeded: LimitExceeded) -> ErrorResponse:
    """The response to a request that exceeds a limit, for now or, without a wait, for good."""
    kind, code = exceeded.kind, "rate_limit_exceeded"
    scope = f"for {model} in organization {ORGANIZATION} on {_LIMIT_NAMES[kind]}"
    if exceeded.wait is None:
        message = (
            f"Request too large {scope}: Limit {exceeded.limit}, Requested {exceeded.requested}. "
            "The input or output tokens must be reduced in order to run successfully."
        )
        return ErrorResponse(429, message, kind, code)
    wait_ms = milliseconds(exceeded.wait)
    message = (
        f"Rate limit reached {scope}: Limit {exceeded.limit}, Used {exceeded.used}, "
        f"Requested {exceeded.requested}. Please try again in {go_duration(wait_ms)}."
    )
    return ErrorResponse(429, message, kind, code, headers=retry_headers(wait_ms))


@dataclass(frozen=True, slots=True)
class SimulatedLimitExceeded:
    """Simulates an exceeded limit, for `wait_ms` milliseconds or, with None, for good."""

    kind: Kind
    wait_ms: int | None = None

    def response(self, model: str, quota: Quota | None) -> ErrorResponse:
        """The error response, with the numbers of the quota that is said to be exceeded."""
        limit = (quota and quota.limit(self.kind)) or _DEFAULT_LIMITS[self.kind]
        if self.wait_ms is None:
            exceeded = LimitExceeded(self.kind, limit, 0, limit + max(1, limit // 3), None)
        else:
            exceeded = LimitExceeded(self.kind, limit, limit, 1, self.wait_ms * 1_000_000)
        return rate_limit_exceeded(model, exceeded)


def slow_down(wait_ms: int | None) -> ErrorResponse:
    message = "Your request rate is rising too fast. Slow down, then speed up gradually."
    headers = _optional_retry_headers(wait_ms)
    return ErrorResponse(429, message, "requests", "slow_down", headers=headers)


def overloaded(wait_ms: int | None) -> ErrorResponse:
    message = "The servers are overloaded. Please try again later."
    kind, headers = "service_unavailable_error", _optional_retry_headers(wait_ms)
    return ErrorResponse(503, message, kind, "server_is_overloaded", headers=headers)


def quota_exhausted(code: str) -> ErrorResponse:
    """An error that waiting does not end; these errors share a type and differ in their code."""
    message = f"You exceeded your quota or spend limit ({code}). Check your plan and billing."
    return ErrorResponse(429, message, "insufficient_quota", code)


def error_with_status(status: int) -> ErrorResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return ErrorResponse(status, f"Simulated error with status {status}.", kind)


def _optional_retry_headers(wait_ms: int | None) -> dict[str, str]:
    return {} if wait_ms is None else retry_headers(wait_ms)
