"""The errors of the gate itself, for requests that get no response from upstream.

Refusal
  +-- BadRequest              400  bad_request
  |     +-- MalformedBody
  |     +-- InvalidUrl
  |     +-- MalformedHandshake
  |     +-- NotHttp
  |     +-- PlainHttp
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
  +-- BudgetExceeded          429  budget_exceeded
  +-- InternalError           500  internal_error
  |     +-- UsageUnreadable
  +-- Draining                503  draining
  +-- TooManyConnections      503  too_many_connections
  |     +-- TooManyViewers
  +-- LoopDetected            508  loop_detected
  +-- UpstreamFailure
        +-- UpstreamUnreachable   502  upstream_unreachable
        +-- UpstreamDisconnected  502  upstream_disconnected
        +-- UpstreamTimeout       504  upstream_timeout

A refusal knows its status, type, code and reason. Its message says what is wrong and what to do,
with the values at hand. It never contains a key or an exception's text, which may contain raw
bytes of a request. It becomes a response in one place, `Refusal.response`, in OpenAI's shape, so
that SDKs raise the exceptions their users know.
"""

import json
from collections.abc import Iterable, Sequence
from math import ceil
from typing import ClassVar

from aiohttp import web

from rustygate.aiohttp_internals.response import OwnResponse
from rustygate.core.plural import counted

SECOND_MS = 1000

# When to try again if the wait cannot be predicted, because it is for a slot.
DEFAULT_RETRY_AFTER_MS = 1000

# All methods but CONNECT and TRACE.
FORWARDED_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

# How much of an origin an error message repeats.
SHOWN_ORIGIN_LENGTH = 200


class Refusal(Exception):
    """A request that the gate does not forward, or that failed upstream.

    `retry` is the value of `x-should-retry`, if it is sent. `closes`: the client's connection is
    closed. `outcome` is that of the exchange.
    """

    status: ClassVar[int]
    reason: ClassVar[str]
    type: str = "invalid_request_error"
    code: ClassVar[str | None] = None
    retry: bool | None = None
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
        """The headers that name the reason and say whether to try again."""
        headers = {"Content-Type": "application/json", "X-RustyGate-Error": self.reason}
        if self.retry is not None:
            headers["x-should-retry"] = "true" if self.retry else "false"
        return headers

    def response(self, extra: Iterable[tuple[str, str]]) -> web.Response:
        """The response to send, with `extra` headers."""
        headers = self.headers() | dict(extra)
        body = json.dumps({"error": self.error()}).encode()
        response = OwnResponse(status=self.status, headers=headers, body=body)
        if self.closes:
            response.force_close()
        return response


class BadRequest(Refusal):
    """The request cannot be forwarded as it is."""

    status, reason = 400, "bad_request"


class MalformedBody(BadRequest):
    """The body's framing is invalid, so nothing after it on the connection can be read."""

    closes = True


class InvalidUrl(BadRequest):
    """The URL contains characters that HTTP does not allow in it (RFC 3986, 2). They are not
    repeated."""

    def __init__(self) -> None:
        super().__init__(
            "The URL contains characters that a URL must not contain. Spaces, control characters, "
            "#, \\ and anything beyond ASCII must be percent-encoded: \u00e9 as %C3%A9."
        )


class MalformedHandshake(BadRequest):
    """The WebSocket handshake is not as RFC 6455, 4.1 requires. The response names the version
    that the gate supports (4.4)."""

    def headers(self) -> dict[str, str]:
        return super().headers() | {"Sec-WebSocket-Version": "13"}


class NotHttp(BadRequest):
    """The head is not valid HTTP. It is not repeated, since it may contain a key."""

    closes = True

    def __init__(self) -> None:
        super().__init__("The request is not valid HTTP/1.1, or its head is too large.")


class PlainHttp(BadRequest):
    """A client speaks plain HTTP to a TLS port."""

    closes = True

    def __init__(self) -> None:
        super().__init__("This port speaks HTTPS; use https:// instead of http:// in the URL.")


class InvalidAdminKey(Refusal):
    """A page about the gate was requested without ADMIN_KEY."""

    status, reason = 401, "invalid_admin_key"

    def __init__(self) -> None:
        super().__init__("Send ADMIN_KEY as a Bearer token or Basic password.")

    def headers(self) -> dict[str, str]:
        challenges = 'Basic realm="RustyGate", Bearer realm="RustyGate"'
        return super().headers() | {"WWW-Authenticate": challenges}


class AdminOnly(Refusal):
    """A page about the gate was requested from another machine, and ADMIN_KEY is not set."""

    status, reason = 403, "admin_only"

    def __init__(self) -> None:
        super().__init__(
            "Without ADMIN_KEY this page is only served on the gate's own machine: at localhost, "
            "127.0.0.1 or [::1], not through a proxy, or over a unix socket. Set ADMIN_KEY to "
            "read it from elsewhere."
        )


class OriginNotAllowed(Refusal):
    """The request comes from a web page whose origin is not allowed.

    Args:
        origins: the `Origin` headers, as sent.
    """

    status, reason = 403, "origin_not_allowed"

    def __init__(self, origins: Sequence[str]) -> None:
        shown = ", ".join(origins)[:SHOWN_ORIGIN_LENGTH]
        super().__init__(
            f"Web pages at {shown} may not use this gate; add the origin to CORS_ALLOW_ORIGINS."
        )


class InvalidApiKey(Refusal):
    """The key is not a client's, or there is not exactly one. Keys are not repeated.

    Args:
        count: the number of different keys in the request.
    """

    status, reason = 401, "invalid_api_key"

    def __init__(self, count: int) -> None:
        problem = "The request has no API key"
        if count:
            problem = "Unknown API key" if count == 1 else f"The request has {count} API keys"
        super().__init__(
            f"{problem}. Send one key from CLIENTS_FILE as Authorization: Bearer rg-..., "
            "api-key, x-api-key or x-goog-api-key."
        )

    def headers(self) -> dict[str, str]:
        return super().headers() | {"WWW-Authenticate": "Bearer"}


class ModelNotAllowed(Refusal):
    """The client may not use this model, or the gate cannot tell which model the request uses."""

    status, reason = 403, "model_not_allowed"


class NotFound(Refusal):
    """Nothing is served at that path."""

    status, reason = 404, "not_found"


class MethodNotAllowed(Refusal):
    """CONNECT and TRACE are not forwarded (RFC 9110, 9.3.6 and 9.3.8), and the gate's own pages
    are only read.

    Args:
        allowed: the methods that the path takes.
    """

    status, reason = 405, "method_not_allowed"

    def __init__(self, message: str, allowed: Sequence[str] = FORWARDED_METHODS) -> None:
        super().__init__(message)
        self._allowed = allowed

    def headers(self) -> dict[str, str]:
        return super().headers() | {"Allow": ", ".join(self._allowed)}


class RequestTimeout(Refusal):
    """The client stalled in the middle of its request (RFC 9110, 15.5.9)."""

    status, reason = 408, "request_timeout"
    retry, closes = True, True


class BodyTooLarge(Refusal):
    """The request's body is larger than MAX_BODY_SIZE."""

    status, reason = 413, "body_too_large"
    closes = True


class _Busy(Refusal):
    """The request cannot be admitted in time.

    Args:
        retry_after_ms: when a new request would be admitted; 0 if that cannot be predicted.
        kind: the exhausted quota, `requests` or `tokens`.
    """

    status, code, retry = 429, "rate_limit_exceeded", True

    def __init__(self, message: str, retry_after_ms: int, kind: str = "requests") -> None:
        super().__init__(message)
        self.type = kind
        self.retry_after_ms = retry_after_ms or DEFAULT_RETRY_AFTER_MS

    def headers(self) -> dict[str, str]:
        return super().headers() | {
            "Retry-After": str(ceil(self.retry_after_ms / SECOND_MS)),
            "retry-after-ms": str(self.retry_after_ms),
        }


class QueueTimeout(_Busy):
    """The request was not, or would not be, admitted before its deadline."""

    reason = "queue_timeout"


class QueueFull(_Busy):
    """QUEUE_LIMIT requests are waiting already."""

    reason = "queue_full"


class RequestTooLarge(Refusal):
    """The cost in tokens exceeds a budget's capacity, so waiting would not help."""

    status, reason, type, code = 429, "request_too_large", "tokens", "rate_limit_exceeded"
    retry = False

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"The request costs {counted(tokens, 'token')}, and the limit is "
            f"{counted(limit, 'token')}/min; send a smaller request or lower its output limit."
        )


class BudgetExceeded(Refusal):
    """The client has no budget left for the request until its day or month ends.

    Args:
        retry_after_s: whole seconds until then, rounded up.
    """

    status, reason, type = 429, "budget_exceeded", "insufficient_quota"
    retry = False

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        return super().headers() | {"Retry-After": str(self.retry_after_s)}


class _Unavailable(Refusal):
    """The gate does not accept requests at the moment."""

    status, type = 503, "service_unavailable_error"
    retry, closes = True, True

    def headers(self) -> dict[str, str]:
        return super().headers() | {"Retry-After": "1"}


class Draining(_Unavailable):
    """The gate is stopping. Another gate, or this one after its restart, serves the request."""

    reason = "draining"

    def __init__(self) -> None:
        super().__init__("The gate is shutting down; try again in 1 s.")


class TooManyConnections(_Unavailable):
    """CONNECTION_LIMIT connections are open already."""

    reason = "too_many_connections"

    def __init__(self, limit: int) -> None:
        super().__init__(f"Connection limit of {limit} reached; try again in 1 s.")


class TooManyViewers(TooManyConnections):
    """The live page has as many viewers as allowed."""

    def __init__(self, limit: int) -> None:
        Refusal.__init__(
            self, f"The viewer limit of the live page is reached: {limit}. Close another page."
        )


class InternalError(Refusal):
    """A defect of the gate. The traceback is in the log, under the exchange's id."""

    status, reason, type = 500, "internal_error", "server_error"
    outcome = "aborted"

    def __init__(self, exchange_id: str) -> None:
        super().__init__(
            f"The gate failed to handle exchange {exchange_id}; see this id in the gate's log."
        )


class UsageUnreadable(InternalError):
    """The usage record cannot be read now."""

    def __init__(self, reason: str) -> None:
        Refusal.__init__(self, f"The usage record cannot be read ({reason}); try again later.")


class LoopDetected(Refusal):
    """The request came back to the gate that sent it."""

    status, reason, type, retry = 508, "loop_detected", "upstream_error", False

    def __init__(self) -> None:
        super().__init__(
            "The request came back to the gate that sent it: OPENAI_BASE_URL, or the proxy to it, "
            "leads to this gate. Set it to the API's address."
        )


class UpstreamFailure(Refusal):
    """Upstream sent no response that could be passed on.

    `sent`: upstream may have seen the request. `retryable`: the gate may send the same request
    again, since that cannot make upstream do the work twice.
    """

    type, outcome = "upstream_error", "upstream_error"
    sent = True
    retryable = False


class UpstreamUnreachable(UpstreamFailure):
    """No connection: refused, timed out, name not resolved, or TLS failed. Nothing was sent.

    It is not retried: `UpstreamClient` has tried to connect for UPSTREAM_CONNECT_TIMEOUT.

    Args:
        permanent: another attempt to connect would fail in the same way.
    """

    status, reason, retry = 502, "upstream_unreachable", True
    sent = False

    def __init__(self, message: str, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class UpstreamDisconnected(UpstreamFailure):
    """The connection was closed, or upstream sent invalid HTTP, before a response was passed on.

    If upstream may have acted on the request, `x-should-retry` is not sent, so the client decides
    as it would without the gate. `true` could make it pay twice, and `false` would switch off
    the retries that its user has chosen.

    Args:
        started: bytes of a response had arrived.
        stale: upstream had closed the connection before the request reached it.
        idempotent: the request may run twice without harm (RFC 9110, 9.2.2).
    """

    status, reason = 502, "upstream_disconnected"

    def __init__(
        self,
        message: str,
        *,
        started: bool = False,
        stale: bool = False,
        idempotent: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry = True if stale or idempotent else None
        self.retryable = idempotent and not started
        self.stale = stale


class UpstreamTimeout(UpstreamFailure):
    """Upstream sent nothing for UPSTREAM_READ_TIMEOUT, or for the client's own longer timeout."""

    status, reason, retry = 504, "upstream_timeout", False

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"Upstream sent nothing for {timeout_s:g} s; "
            "raise UPSTREAM_READ_TIMEOUT if it needs longer."
        )


def reasons(kind: type[Refusal] = Refusal) -> set[str]:
    """The reasons of all refusals."""
    own = {kind.reason} if hasattr(kind, "reason") else set()
    return own.union(*map(reasons, kind.__subclasses__()))
