"""Upstream's responses about its rate limits."""

import json
from typing import Any

from tests.support.http import response

RETRY_AFTER_30_MS = "retry-after-ms: 30"


def error(code: str | None = None, message: str = "x", kind: str = "requests") -> bytes:
    """The body of an error, in OpenAI's shape."""
    fields = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": fields}).encode()


def rate_limited(
    body: bytes, *lines: str, status: str = "429 Too Many Requests", wait: str = RETRY_AFTER_30_MS
) -> bytes:
    """A response that refuses a request for now."""
    return response(body, "Content-Type: application/json", wait, *lines, status=status)


def rate_limit_headers(limit: int, remaining: int, *, kind: str = "requests") -> list[str]:
    return [
        f"x-ratelimit-limit-{kind}: {limit}",
        f"x-ratelimit-remaining-{kind}: {remaining}",
        f"x-ratelimit-reset-{kind}: 1s",
    ]


def respond_once(reply: bytes, then: bytes | None = None) -> Any:
    """One response to the first request, and another to all later ones."""
    replies = [reply]
    return lambda call: replies.pop() if replies else then or response(b'{"ok": 1}')
