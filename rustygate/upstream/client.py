"""The way to upstream: sending, and what a failure means.

A failure becomes one of `errors.UpstreamFailure`; its message names what happened, never the
exception's text, which may hold raw bytes.

A request may meet a pooled connection that upstream has just closed. A reset on a reused
connection, before any byte of an answer, is tried once more at once, on a fresh one.

Which proxy is on the way the settings say; aiohttp's own look at the environment stays off, for
it would take credentials out of `.netrc` too.
"""

import os
import ssl
from errno import errorcode
from http import HTTPStatus
from socket import gaierror
from time import monotonic_ns

from aiohttp import (
    ClientConnectionError,
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientError,
    ClientHttpProxyError,
    ConnectionTimeoutError,
    ServerTimeoutError,
)
from yarl import URL

from rustygate.config import Settings
from rustygate.core.headers import Headers
from rustygate.core.websocket_handshake import SWITCHING_PROTOCOLS
from rustygate.downstream.request_body import RequestBody
from rustygate.errors import (
    BadRequest,
    UpstreamDisconnected,
    UpstreamFailure,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from rustygate.exchange import Exchange
from rustygate.system.tls import describe_ssl_error
from rustygate.upstream.pool import (
    ConnectionPool,
    NoTunnel,
    UpstreamConnection,
    UpstreamResponse,
    connection_of,
)


class Upstream:
    """Sends requests upstream."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = ConnectionPool(settings)
        self._proxy = settings.proxy and URL(settings.proxy).host_port_subcomponent
        self._through = f", through the proxy at {self._proxy}" if self._proxy else ""

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def send(
        self, exchange: Exchange, target: str, headers: Headers, body: RequestBody
    ) -> UpstreamResponse:
        """One attempt. Returns upstream's answer once its head is there.

        The caller closes the answer. Raises `UpstreamFailure`, or what refused the body while it
        was streamed.
        """
        exchange.attempts += 1
        exchange.sent = monotonic_ns()
        try:
            answer = await self._ask(exchange, target, headers, body)
        except UpstreamDisconnected as failure:
            if not failure.stale or body.held is None:
                raise
            answer = await self._ask(exchange, target, headers, body, fresh=True)
        exchange.responded = monotonic_ns()
        exchange.upstream_status = answer.status
        return answer

    async def _ask(
        self,
        exchange: Exchange,
        target: str,
        headers: Headers,
        body: RequestBody,
        *,
        fresh: bool = False,
    ) -> UpstreamResponse:
        wire: UpstreamConnection | None = None
        try:
            connection = await self._pool.connect(fresh=fresh)
            exchange.connected = True
            wire = connection_of(connection)
            answer = await self._pool.ask(connection, exchange.method, target, headers, body)
        # First, for a certificate that is not trusted is a ValueError too.
        except ClientError as error:
            raise body.refusal or self._failure(error, wire) from error
        except ValueError as error:
            raise BadRequest("The request's target is not one that HTTP can carry.") from error
        if answer.status == SWITCHING_PROTOCOLS and not _asked_to_switch(answer):
            answer.close()
            raise UpstreamDisconnected("Upstream switched protocols unasked.", begun=True)
        if self._pool.relayed and answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            answer.close()
            raise self._turned_away(answer.status)
        return answer

    def _failure(self, error: ClientError, wire: UpstreamConnection | None) -> UpstreamFailure:
        """What an exception of the pool means; `wire` is the connection, if there was one."""
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
            case NoTunnel():
                return UpstreamUnreachable(f"The proxy at {self._proxy} broke off.")
            case ClientConnectionError() if wire is None or not wire.answering:
                return UpstreamDisconnected(
                    "Upstream closed the connection without an answer.",
                    stale=wire is not None and wire.requests > 1,
                )
            case _:
                return UpstreamDisconnected("Upstream's answer was not whole.", begun=True)

    def _turned_away(self, status: int) -> UpstreamUnreachable:
        """The proxy answered in upstream's place."""
        return UpstreamUnreachable(
            f"The proxy at {self._proxy} answered with {status} instead of connecting.",
            lasting=status < HTTPStatus.INTERNAL_SERVER_ERROR,
        )


def _asked_to_switch(answer: UpstreamResponse) -> bool:
    """Whether it answers the opening of a WebSocket; other upgrades do not go upstream."""
    return any(name.lower() == "upgrade" for name, _ in answer.asked)


def _cause(error: ClientConnectorError) -> str:
    """A connector error's cause, in words that hold nothing of the request."""
    cause = error.os_error
    match cause:
        case ssl.SSLError(reason=str()):
            return f"TLS failed: {describe_ssl_error(cause)}"
        case gaierror():
            return "its host name does not resolve"
        case OSError(errno=int(number)) if number in errorcode:
            return os.strerror(number).lower()
    return type(cause).__name__
