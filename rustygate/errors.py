"""What the gate itself answers when it cannot pass on upstream's answer.

Refusal
  +-- BadRequest              400  bad_request
  |     +-- MalformedBody
  |     +-- MalformedOpening
  |     +-- NotHttp
  +-- InvalidAdminKey         401  invalid_admin_key
  +-- AdminOnly               403  admin_only
  +-- OriginNotAllowed        403  origin_not_allowed
  +-- InvalidApiKey           401  invalid_api_key
  +-- ModelNotAllowed         403  model_not_allowed
  +-- NotFound                404  not_found
  +-- MethodNotAllowed        405  method_not_allowed
  +-- RequestTimeout          408  request_timeout
  +-- BodyTooLarge            413  body_too_large
  +-- QueueTimeout            429  queue_timeout
  +-- QueueFull               429  queue_full
  +-- RequestTooLarge         429  request_too_large
  +-- InternalError           500  internal_error
  +-- Draining                503  draining
  +-- TooManyConnections      503  too_many_connections
  +-- UpstreamFailure
        +-- UpstreamUnreachable   502  upstream_unreachable
        +-- UpstreamDisconnected  502  upstream_disconnected
        +-- UpstreamTimeout       504  upstream_timeout

A refusal knows its status, type, code and reason; its message carries the values at hand and
never an exception's text, which may hold raw bytes of somebody's request. It becomes a
response in one place, `Refusal.response`, in OpenAI's shape, so that SDKs raise the
exceptions their users know.
"""

import json
from collections.abc import Iterable, Sequence
from math import ceil
from typing import ClassVar

from aiohttp import web

SECOND_MS = 1000

# When to come back if that cannot be known: what lacks is a slot, not a unit.
UNKNOWN_MS = 1000

# How much of an origin an error repeats.
ORIGIN_SHOWN = 200


class Refusal(Exception):
    """Why the gate answers by itself. `outcome` is the exchange's, for the log."""

    status: ClassVar[int]
    reason: ClassVar[str]
    type: str = "invalid_request_error"
    code: ClassVar[str | None] = None
    retry: ClassVar[bool | None] = None
    closes: ClassVar[bool] = False
    outcome: ClassVar[str] = "refused"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def error(self) -> dict[str, str | None]:
        """The error object, in OpenAI's shape."""
        return {
            "message": self.message,
            "type": self.type,
            "param": None,
            "code": self.code or self.reason,
        }

    def headers(self) -> dict[str, str]:
        """Headers that tell a client what was refused and whether to try again."""
        headers = {"Content-Type": "application/json", "X-RustyGate-Error": self.reason}
        if self.retry is not None:
            headers["x-should-retry"] = "true" if self.retry else "false"
        return headers

    def response(self, extra: Iterable[tuple[str, str]]) -> web.Response:
        """The answer to send downstream, with `extra` headers."""
        headers = self.headers() | dict(extra)
        body = json.dumps({"error": self.error()}).encode()
        response = web.Response(status=self.status, headers=headers, body=body)
        if self.closes:
            response.force_close()
        return response


class BadRequest(Refusal):
    """The request cannot be forwarded as it is."""

    status, reason = 400, "bad_request"


class MalformedBody(BadRequest):
    """The body's framing broke while it was read; nothing after it can be trusted."""

    closes = True


class MalformedHandshake(BadRequest):
    """A WebSocket's opening is not as RFC 6455, 4.1 asks; the answer tells the version to use."""

    def headers(self) -> dict[str, str]:
        return super().headers() | {"Sec-WebSocket-Version": "13"}


class NotHttp(BadRequest):
    """The head is not HTTP. What came is not repeated: it may hold a key."""

    closes = True

    def __init__(self) -> None:
        super().__init__("The request is not HTTP/1.1, or its head is too large.")


class InvalidAdminKey(Refusal):
    """A page about the gate itself, without ADMIN_KEY."""

    status, reason = 401, "invalid_admin_key"

    def __init__(self) -> None:
        super().__init__("This page wants ADMIN_KEY, as bearer or as the password of basic.")

    def headers(self) -> dict[str, str]:
        challenges = 'Basic realm="RustyGate", Bearer realm="RustyGate"'
        return super().headers() | {"WWW-Authenticate": challenges}


class AdminOnly(Refusal):
    """A page about the gate itself, asked for from elsewhere."""

    status, reason = 403, "admin_only"

    def __init__(self) -> None:
        super().__init__(
            "Without ADMIN_KEY this page is shown on the gate's own machine alone: by the host "
            "localhost, 127.0.0.1 or [::1], with no proxy between, or by a unix socket."
        )


class OriginNotAllowed(Refusal):
    """A web page asked, and not one that may.

    Args:
        origins: the `Origin` headers, as sent.
    """

    status, reason = 403, "origin_not_allowed"

    def __init__(self, origins: Sequence[str]) -> None:
        shown = ", ".join(origins)[:ORIGIN_SHOWN]
        super().__init__(
            f"Pages at {shown} may not use this gate: CORS_ALLOW_ORIGINS does not list it."
        )


class InvalidApiKey(Refusal):
    """No client has that key, or none was sent. What came is not repeated."""

    status, reason = 401, "invalid_api_key"

    def __init__(self, sent: bool) -> None:
        what = "The key that was sent is no client's" if sent else "No key was sent"
        super().__init__(f"{what}; send this gate's, as Authorization: Bearer rg-...")

    def headers(self) -> dict[str, str]:
        return super().headers() | {"WWW-Authenticate": "Bearer"}


class ModelNotAllowed(Refusal):
    """The client may not ask this model, or the request does not show which it asks."""

    status, reason = 403, "model_not_allowed"


class NotFound(Refusal):
    """Nothing is served at that path."""

    status, reason = 404, "not_found"


class MethodNotAllowed(Refusal):
    """CONNECT and TRACE are not forwarded (RFC 9110, 9.3.6 and 9.3.8)."""

    status, reason = 405, "method_not_allowed"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"Allow": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"}


class RequestTimeout(Refusal):
    """The client did not go on with its request (RFC 9110, 15.5.9)."""

    status, reason = 408, "request_timeout"
    retry, closes = True, True


class BodyTooLarge(Refusal):
    """The request's body is, or grew, above MAX_BODY_SIZE."""

    status, reason = 413, "body_too_large"
    closes = True


class _Busy(Refusal):
    """No admission in time.

    Args:
        retry_after_ms: when a new try would be admitted; 0 if nobody can tell.
        kind: what lacks, `requests` or `tokens`.
    """

    status, code, retry = 429, "rate_limit_exceeded", True

    def __init__(self, message: str, retry_after_ms: int, kind: str = "requests") -> None:
        super().__init__(message)
        self.type = kind
        self.retry_after_ms = retry_after_ms or UNKNOWN_MS

    def headers(self) -> dict[str, str]:
        return super().headers() | {
            "Retry-After": str(ceil(self.retry_after_ms / SECOND_MS)),
            "retry-after-ms": str(self.retry_after_ms),
        }


class QueueTimeout(_Busy):
    """The deadline passed, or would pass, before admission."""

    reason = "queue_timeout"


class QueueFull(_Busy):
    """QUEUE_LIMIT waiters are there already."""

    reason = "queue_full"


class RequestTooLarge(Refusal):
    """The cost in tokens is above a budget's capacity: no waiting would help."""

    status, reason, type, code = 429, "request_too_large", "tokens", "rate_limit_exceeded"
    retry = False

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"Request too large: it costs {tokens} tokens, and the limit is {limit} a minute."
        )


class _Unavailable(Refusal):
    """Not by this gate, or not just now."""

    status, type = 503, "service_unavailable_error"
    retry, closes = True, True

    def headers(self) -> dict[str, str]:
        return super().headers() | {"Retry-After": "1"}


class Draining(_Unavailable):
    """The gate is stopping; another one, or this one restarted, will answer."""

    reason = "draining"

    def __init__(self) -> None:
        super().__init__("The gate is shutting down; try again.")


class TooManyConnections(_Unavailable):
    """CONNECTION_LIMIT connections are there already."""

    reason = "too_many_connections"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The gate serves {limit} connections, as many as it may; try again.")


class InternalError(Refusal):
    """A defect of the gate. The traceback is in the log, under the exchange's id."""

    status, reason, type = 500, "internal_error", "server_error"
    outcome = "aborted"

    def __init__(self, exchange_id: str) -> None:
        super().__init__(f"The gate failed on exchange {exchange_id}; its log says why.")


class UpstreamFailure(Refusal):
    """Upstream gave no answer to pass on.

    `sent`: upstream may have seen the request. `retryable`: the same request may be sent again
    in place, for no byte of an answer had come.
    """

    type, outcome = "upstream_error", "upstream_error"
    sent = True
    retryable = False


class UpstreamUnreachable(UpstreamFailure):
    """No connection: refused, timed out, not resolved, or TLS failed. Nothing was sent.

    Args:
        lasting: another attempt would fail in the same way.
    """

    status, reason, retry = 502, "upstream_unreachable", True
    sent = False

    def __init__(self, message: str, lasting: bool = False) -> None:
        super().__init__(message)
        self.retryable = not lasting


class UpstreamDisconnected(UpstreamFailure):
    """The connection ended, or what came was not HTTP, before an answer could be passed.

    Args:
        begun: bytes of an answer had come by then.
        stale: none had, and the connection had been kept for reuse.
    """

    status, reason, retry = 502, "upstream_disconnected", True

    def __init__(self, message: str, *, begun: bool = False, stale: bool = False) -> None:
        super().__init__(message)
        self.retryable = not begun
        self.stale = stale


class UpstreamTimeout(UpstreamFailure):
    """Upstream was silent for UPSTREAM_READ_TIMEOUT."""

    status, reason, retry = 504, "upstream_timeout", False


def reasons(kind: type[Refusal] = Refusal) -> set[str]:
    """The reasons of all refusals there are."""
    own = {kind.reason} if hasattr(kind, "reason") else set()
    return own.union(*map(reasons, kind.__subclasses__()))
