"""The way to upstream: one pooled `ClientSession`, sending, and what a failure means.

Nothing is added to a request, no redirect followed, no cookie kept, nothing decompressed. A
failure becomes one of `errors.UpstreamFailure`; its message names what happened, never the
exception's text, which may hold raw bytes.

A request may meet a pooled connection that upstream has just closed. aiohttp would try
idempotent methods again by itself; that is off, so that attempts are counted in one place. A
reset on a reused connection, before any byte of an answer, is tried once more at once, on a
fresh one.
"""

import os
from collections.abc import Iterable
from contextvars import ContextVar
from errno import errorcode
from functools import partial
from time import monotonic_ns
from typing import Any, cast

from aiohttp import (
    ClientConnectionError,
    ClientConnectorError,
    ClientError,
    ClientPayloadError,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    ServerDisconnectedError,
    ServerTimeoutError,
    TCPConnector,
)
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict
from yarl import URL

from rustygate.body import Body
from rustygate.config import Settings
from rustygate.core.headers import Headers
from rustygate.core.paths import PREFIX
from rustygate.errors import (
    BadRequest,
    UpstreamDisconnected,
    UpstreamFailure,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from rustygate.exchange import Exchange

# aiohttp takes 8190 bytes of a header and 128 headers; upstreams behind a CDN send more.
FIELD_LIMIT = 64 * 1024
HEADERS_LIMIT = 512

# What aiohttp would add to a request that lacks it.
_NOT_ADDED = CIMultiDict(
    dict.fromkeys(("Accept", "Accept-Encoding", "Content-Type", "User-Agent"), None)
)

# Set by the connector, in the task that asked, when a connection had to be made.
_made_connection: ContextVar[bool] = ContextVar("made_connection")


class _PlainRequest(ClientRequest):
    """A request with the headers it was given, and a held body's length; no others."""

    def update_headers(self, headers: Any) -> None:
        # The session made this copy for this request; aiohttp would copy it again.
        self.headers = headers

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        self._skip_auto_headers = _NOT_ADDED

    def update_body_from_data(self, body: Any, _stacklevel: int = 3) -> None:
        # Without a body aiohttp would add `Content-Length: 0`.
        if body is not None:
            super().update_body_from_data(body, _stacklevel)


class _Connection(ResponseHandler):
    """A connection that tells the reader of a body when the body's framing breaks.

    aiohttp 3.14 tells only who waits for a head; the reader would wait for ever.
    """

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(exc if isinstance(exc, ClientError) else ClientPayloadError())


class _Connector(TCPConnector):
    """A connector of such connections, which tells whether one was made or reused."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._factory = cast("partial[ResponseHandler]", partial(_Connection, loop=self._loop))

    async def _create_connection(self, *args: Any, **kwargs: Any) -> ResponseHandler:
        _made_connection.set(True)
        return await super()._create_connection(*args, **kwargs)


class Upstream:
    """Sends requests upstream over pooled connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._base = settings.openai_base_url
        self._host = URL(self._base).host_port_subcomponent or ""
        self._pooled = _session(settings, _Connector())
        self._fresh = _session(settings, _Connector(force_close=True))

    async def close(self) -> None:
        """Close all connections."""
        await self._pooled.close()
        await self._fresh.close()

    async def send(
        self, exchange: Exchange, target: str, headers: Headers, body: Body
    ) -> ClientResponse:
        """One attempt. Returns upstream's answer once its head is there.

        The caller closes or releases the answer. Raises `UpstreamFailure`, or what refused the
        body while it was streamed.
        """
        exchange.attempts += 1
        exchange.sent = monotonic_ns()
        _made_connection.set(False)
        try:
            answer = await self._request(self._pooled, exchange.method, target, headers, body)
        except UpstreamDisconnected as failure:
            if _made_connection.get() or body.held is None or not failure.retryable:
                raise
            answer = await self._request(self._fresh, exchange.method, target, headers, body)
        exchange.answered = monotonic_ns()
        return answer

    async def _request(
        self, session: ClientSession, method: str, target: str, headers: Headers, body: Body
    ) -> ClientResponse:
        try:
            return await session.request(
                method,
                URL(self._base + target[len(PREFIX) - 1 :], encoded=True),
                headers=[("Host", self._host), *headers],
                data=body.data(),
                allow_redirects=False,
            )
        except ValueError as error:
            raise BadRequest("The request's target is not one that HTTP can carry.") from error
        except ClientError as error:
            raise body.refusal or self._failure(error) from error

    def _failure(self, error: ClientError) -> UpstreamFailure:
        """What an exception of the client session means."""
        match error:
            case ConnectionTimeoutError():
                limit = self._settings.upstream_connect_timeout
                return UpstreamUnreachable(f"Upstream took no connection within {limit:g} s.")
            case ServerTimeoutError():
                limit = self._settings.upstream_read_timeout
                return UpstreamTimeout(f"Upstream was silent for {limit:g} s.")
            case ClientConnectorError():
                return UpstreamUnreachable(f"No connection to upstream: {_cause(error)}.")
            case ClientConnectionError() if not _has_begun(error):
                return UpstreamDisconnected("Upstream closed the connection without an answer.")
            case _:
                return UpstreamDisconnected("Upstream's answer was not whole.", begun=True)


def _session(settings: Settings, connector: TCPConnector) -> ClientSession:
    connect = settings.upstream_connect_timeout
    session = ClientSession(
        connector=connector,
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        request_class=_PlainRequest,
        # aiohttp reads ahead twice this much; the pipe holds the other half of a stream.
        read_bufsize=max(1, settings.stream_capacity // 4),
        max_line_size=FIELD_LIMIT,
        max_field_size=FIELD_LIMIT,
        max_headers=HEADERS_LIMIT,
        timeout=ClientTimeout(
            connect=connect, sock_connect=connect, sock_read=settings.upstream_read_timeout
        ),
    )
    # No public switch turns off the retries of idempotent methods.
    session._retry_connection = False
    return session


def _has_begun(error: ClientError) -> bool:
    """Whether bytes of an answer had come when the connection ended."""
    return isinstance(error, ServerDisconnectedError) and not isinstance(error.message, str)


def _cause(error: ClientConnectorError) -> str:
    """A connector error's cause, in words that hold nothing of the request."""
    number = error.os_error.errno
    if number is None or number not in errorcode:
        return type(error.os_error).__name__
    return os.strerror(number).lower()
