"""The way to upstream: one pooled `ClientSession`, sending, and what a failure means.

Nothing is added to a request, no redirect followed, no cookie kept, nothing decompressed. A
failure becomes one of `errors.UpstreamFailure`; its message names what happened, never the
exception's text, which may hold raw bytes.

A request may meet a pooled connection that upstream has just closed. aiohttp would try
idempotent methods again by itself; that is off, so that attempts are counted in one place. A
reset on a reused connection, before any byte of an answer, is tried once more at once, on a
fresh one.

Which proxy is on the way the settings say; aiohttp's own look at the environment stays off, for
it would take credentials out of `.netrc` too.
"""

import os
import ssl
from collections.abc import Iterable
from contextvars import ContextVar
from errno import errorcode
from functools import partial
from http import HTTPStatus
from socket import gaierror
from time import monotonic_ns
from typing import Any, cast

from aiohttp import (
    ClientConnectionError,
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientError,
    ClientHttpProxyError,
    ClientPayloadError,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    ServerTimeoutError,
    TCPConnector,
    hdrs,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from multidict import CIMultiDict
from yarl import URL

from rustygate.body import Body
from rustygate.config import Settings
from rustygate.core.headers import Headers
from rustygate.core.opening import SWITCHING_PROTOCOLS
from rustygate.core.paths import PREFIX
from rustygate.errors import (
    BadRequest,
    UpstreamDisconnected,
    UpstreamFailure,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from rustygate.exchange import Exchange
from rustygate.tls import client_context, unsent, words

# aiohttp takes 8190 bytes of a header and 128 headers; upstreams behind a CDN send more.
FIELD_LIMIT = 64 * 1024

# Below are interim answers (RFC 9110, 15.2).
FIRST_FINAL = 200
HEADERS_LIMIT = 512

# What aiohttp would add to a request that lacks it.
_NOT_ADDED = CIMultiDict(
    dict.fromkeys(("Accept", "Accept-Encoding", "Content-Type", "User-Agent"), None)
)


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
    """A connection that tells the reader of a body when the body's framing breaks, that keeps
    nothing once it is closed, and that knows whether an answer has begun.

    aiohttp 3.14 tells only who waits for a head; the reader would wait for ever. It would also
    stay open with what an upstream that does not read has not taken yet. Of an answer that had
    begun it knows only where its head was cut by a close, not by a reset, and where no interim
    answer (RFC 9110, 15.2) came before; after one of those it waits for ever.
    """

    # How many requests it has carried, and whether bytes came since the latest.
    requests = 0
    answering = False
    _sent = False

    def set_response_params(self, **params: Any) -> None:
        # Called when a request begins.
        self.requests += 1
        self.answering = self._sent = False
        super().set_response_params(**params)

    def start_timeout(self) -> None:
        # Called when all of the request has been sent.
        self._sent = True
        super().start_timeout()

    def data_received(self, data: bytes) -> None:
        self.answering = True
        super().data_received(data)

    async def read(self) -> Any:
        head = await super().read()
        code = head[0].code
        if code == SWITCHING_PROTOCOLS:
            # Never to be used again. One that does not say to what it switched aiohttp would
            # take for an empty answer.
            self.force_close()
        # aiohttp stops the clock at any head without a body.
        elif code < FIRST_FINAL and self._sent:
            super().start_timeout()
        return head

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(exc if isinstance(exc, ClientError) else ClientPayloadError())

    def close(self) -> None:
        if self.transport is not None and unsent(self.transport):
            self.abort()
        else:
            super().close()


class _NoTunnel(ClientError):
    """The proxy ended a connection that it was to pass on, or did not speak HTTP."""


class _Connector(TCPConnector):
    """A connector of such connections, which tells the task that asked which one it got."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._factory = cast("partial[ResponseHandler]", partial(_Connection, loop=self._loop))

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        while True:
            connection = await super().connect(*args, **kwargs)
            got = cast(_Connection, connection.protocol)
            _connection.set(got)
            # What upstream said unasked, while the connection was kept, would pass for the answer.
            if not (got.requests and got.should_close):
                return connection
            connection.close()

    async def _create_connection(self, *args: Any, **kwargs: Any) -> ResponseHandler:
        try:
            return await super()._create_connection(*args, **kwargs)
        except (ClientConnectorError, ClientHttpProxyError):
            raise
        except ClientError as error:
            # What else goes wrong before there is a connection is a proxy's answer to CONNECT.
            raise _NoTunnel from error


# The connection that the task's latest request went over; None while it has none.
_connection: ContextVar[_Connection | None] = ContextVar("connection")


class Upstream:
    """Sends requests upstream over pooled connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        base = URL(settings.openai_base_url)
        self._origin = base.origin()
        self._path = URL(settings.openai_base_url, encoded=True).raw_path.rstrip("/")
        self._host = base.host_port_subcomponent or ""
        self._proxy = settings.proxy and URL(settings.proxy).host_port_subcomponent
        self._through = f", through the proxy at {self._proxy}" if self._proxy else ""
        # A proxy sees requests by http whole, and may answer them itself.
        self._relayed = self._proxy is not None and base.scheme == "http"
        options: dict[str, Any] = {}
        if settings.ssl_cert_file or settings.ssl_cert_dir:
            options["ssl"] = client_context(settings.ssl_cert_file, settings.ssl_cert_dir)
        self._pooled = _session(settings, _Connector(**options))
        self._fresh = _session(settings, _Connector(force_close=True, **options))

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
        try:
            answer = await self._request(self._pooled, exchange.method, target, headers, body)
        except UpstreamDisconnected as failure:
            if not _is_reused() or body.held is None or not failure.retryable:
                raise
            answer = await self._request(self._fresh, exchange.method, target, headers, body)
        exchange.answered = monotonic_ns()
        exchange.upstream_status = answer.status
        return answer

    async def _request(
        self, session: ClientSession, method: str, target: str, headers: Headers, body: Body
    ) -> ClientResponse:
        _connection.set(None)
        try:
            answer = await session.request(
                method,
                self._url(target),
                headers=[("Host", self._host), *headers],
                data=body.data(),
                allow_redirects=False,
            )
        # First, for a certificate that is not trusted is a ValueError too.
        except ClientError as error:
            raise body.refusal or self._failure(error) from error
        except ValueError as error:
            raise BadRequest("The request's target is not one that HTTP can carry.") from error
        if answer.status == SWITCHING_PROTOCOLS and not _asked_to_switch(answer):
            answer.close()
            raise UpstreamDisconnected("Upstream switched protocols unasked.", begun=True)
        if self._relayed and answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            answer.close()
            raise self._turned_away(answer.status)
        return answer

    def _url(self, target: str) -> URL:
        """Where a target leads, as one path: yarl would take the `?` from an empty query."""
        return self._origin.with_path(self._path + target[len(PREFIX) - 1 :], encoded=True)

    def _failure(self, error: ClientError) -> UpstreamFailure:
        """What an exception of the client session means."""
        match error:
            case ConnectionTimeoutError():
                limit = self._settings.upstream_connect_timeout
                message = f"Upstream took no connection within {limit:g} s{self._through}."
                return UpstreamUnreachable(message)
            case ServerTimeoutError():
                limit = self._settings.upstream_read_timeout
                return UpstreamTimeout(f"Upstream was silent for {limit:g} s.")
            case ClientConnectorError():
                return UpstreamUnreachable(
                    f"No connection to upstream{self._through}: {_cause(error)}.",
                    lasting=isinstance(error, ClientConnectorCertificateError),
                )
            case ClientHttpProxyError():
                return self._turned_away(error.status)
            case _NoTunnel():
                return UpstreamUnreachable(f"The proxy at {self._proxy} broke off.")
            case ClientConnectionError() if not _has_begun():
                return UpstreamDisconnected("Upstream closed the connection without an answer.")
            case _:
                return UpstreamDisconnected("Upstream's answer was not whole.", begun=True)

    def _turned_away(self, status: int) -> UpstreamUnreachable:
        """The proxy answered in upstream's place."""
        return UpstreamUnreachable(
            f"The proxy at {self._proxy} answered with {status} instead of connecting.",
            lasting=status < HTTPStatus.INTERNAL_SERVER_ERROR,
        )


def _session(settings: Settings, connector: TCPConnector) -> ClientSession:
    connect = settings.upstream_connect_timeout
    session = ClientSession(
        connector=connector,
        proxy=settings.proxy,
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


def _asked_to_switch(answer: ClientResponse) -> bool:
    """Whether it answers the opening of a WebSocket; other upgrades do not go upstream."""
    return hdrs.UPGRADE in answer.request_info.headers


def _is_reused() -> bool:
    """Whether the latest request's connection had carried others before."""
    connection = _connection.get()
    return connection is not None and connection.requests > 1


def _has_begun() -> bool:
    """Whether bytes of an answer to the latest request had come when its connection ended."""
    connection = _connection.get()
    return connection is not None and connection.answering


def _cause(error: ClientConnectorError) -> str:
    """A connector error's cause, in words that hold nothing of the request."""
    cause = error.os_error
    match cause:
        case ssl.SSLError(reason=str()):
            return f"TLS failed: {words(cause)}"
        case gaierror():
            return "its host name does not resolve"
        case OSError(errno=int(number)) if number in errorcode:
            return os.strerror(number).lower()
    return type(cause).__name__
