"""Errors in OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`.

A `Failure` says what the answer is, an `ApiError` ends a request with it; the exception becomes
a response in one place, `app`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


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
