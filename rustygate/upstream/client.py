"""The upstream client: one attempt at a request, and the meaning of its failure.

A failure becomes an `errors.UpstreamFailure`. Its message describes what happened and never
repeats an exception's text, which may contain raw bytes.

Work is never done twice. A request whose connection ends without a response is sent again only in
two cases:

- A pooled connection turns out to be closed already: upstream's end arrives, and by then upstream
  has acknowledged nothing of the request. The request is then sent once more over a fresh
  connection; this does not count as a retry. Where the system does not show what was
  acknowledged (`rustygate.system.tcp`), and after a reset, nothing is sent again.
- Its method is idempotent (RFC 9110, 9.2.2). `RetryPolicy` retries it.

If there is no connection, nothing was sent. Upstream may be restarting, so the client tries again
to connect until UPSTREAM_CONNECT_TIMEOUT is over, unless that cannot help.

Only the settings decide about a proxy. aiohttp's `trust_env` stays off, since it would also read
credentials from `.netrc`.
"""

import asyncio
import os
import random
import ssl
from errno import EMFILE, errorcode
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
    hdrs,
)
from aiohttp.connector import Connection
from multidict import istr
from yarl import URL

from rustygate.aiohttp_internals.client import TunnelError, UpstreamConnection, connection_of
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.headers import HeaderLines, headers_in
from rustygate.core.own_connections import OwnConnections
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
from rustygate.system.lockstep import Lockstep
from rustygate.system.tls import describe_ssl_error
from rustygate.upstream.pool import ConnectionPool
from rustygate.upstream.response import UpstreamResponse

# RFC 9110, 9.2.2. TRACE is not forwarded.
IDEMPOTENT_METHODS = frozenset(
    {hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_PUT, hdrs.METH_DELETE, hdrs.METH_OPTIONS}
)

# Upstream's id for the request, which its support asks for.
REQUEST_ID = istr("x-request-id")

# The pauses between two tries to connect double from the first to the longest. Each is shortened
# at random by up to CONNECT_JITTER, so that not all waiting requests come back at once.
FIRST_CONNECT_PAUSE_S = 0.05
LONGEST_CONNECT_PAUSE_S = 1.0
CONNECT_JITTER = 0.3


class UpstreamClient:
    """Sends requests upstream.

    Attributes:
        lockstep: lets tasks that continue together write together.
    """

    def __init__(self, settings: Settings, lockstep: Lockstep) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self.lockstep = lockstep
        self._pool = ConnectionPool(settings, lockstep)
        self._proxy = settings.proxy and URL(settings.proxy).host_port_subcomponent
        self._via = f", through the proxy at {self._proxy}" if self._proxy else ""

    @property
    def own_connections(self) -> OwnConnections:
        """The open connections to upstream."""
        return self._pool.own_connections

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def send(
        self, exchange: Exchange, target: str, headers: HeaderLines, body: RequestBody
    ) -> UpstreamResponse:
        """Make one attempt. Returns the response once its head has arrived.

        The caller closes the response. Raises `UpstreamFailure`, or the `Refusal` that was raised
        while the body was read.
        """
        exchange.attempts += 1
        exchange.sent = monotonic_ns()
        try:
            response = await self._send_once(exchange, target, headers, body)
        except UpstreamDisconnected as failure:
            if not failure.stale or not body.is_held:
                raise
            response = await self._send_once(exchange, target, headers, body, fresh=True)
        exchange.responded = monotonic_ns()
        exchange.upstream_status = response.status
        exchange.request_id = response.headers.get(REQUEST_ID)
        return response

    async def _send_once(
        self,
        exchange: Exchange,
        target: str,
        headers: HeaderLines,
        body: RequestBody,
        *,
        fresh: bool = False,
    ) -> UpstreamResponse:
        connection: UpstreamConnection | None = None
        try:
            try:
                pooled = await self._pool.connect(fresh=fresh)
            except ClientError as error:
                pooled = await self._reconnect(error, exchange, fresh=fresh)
            exchange.connected = True
            connection = connection_of(pooled)
            response = await self._pool.send(pooled, exchange, target, headers, body)
        # Before ValueError, since an error about an untrusted certificate is both.
        except ClientError as error:
            raise body.refusal or self._failure(error, connection, exchange) from error
        except ValueError as error:
            raise BadRequest(
                "The request target or a header contains characters that HTTP does not allow."
            ) from error
        if response.status == SWITCHING_PROTOCOLS and not _requested_upgrade(response):
            response.close()
            message = "Upstream switched protocols, but the request did not ask for that."
            raise UpstreamDisconnected(
                message, started=True, idempotent=exchange.method in IDEMPOTENT_METHODS
            )
        if (
            self._pool.sends_absolute_form
            and response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
        ):
            response.close()
            raise self._proxy_failure(response.status)
        return response

    async def _reconnect(
        self, error: ClientError, exchange: Exchange, *, fresh: bool
    ) -> Connection:
        """A connection after a first try that failed. Raises `UpstreamUnreachable`, or ClientError
        if it would not help to try again."""
        assert exchange.sent is not None
        deadline = exchange.sent / SECOND + self._settings.upstream_connect_timeout
        tries, pause_s, first = 1, FIRST_CONNECT_PAUSE_S, error
        while self._is_temporary(failure := self._failure(error, None, exchange)):
            left_s = deadline - FIRST_CONNECT_PAUSE_S - self._loop.time()
            if left_s <= 0:
                raise self._after_tries(failure, first, tries) from error
            jitter = 1 - CONNECT_JITTER * random.random()
            await asyncio.sleep(min(pause_s * jitter, left_s))
            pause_s = min(2 * pause_s, LONGEST_CONNECT_PAUSE_S)
            tries += 1
            try:
                return await self._pool.connect(fresh=fresh, deadline=deadline)
            except ConnectionTimeoutError:
                # It had less time than the earlier ones, whose failure says more.
                raise self._after_tries(failure, first, tries) from error
            except ClientError as again:
                error = again
        raise error

    def _is_temporary(self, failure: UpstreamFailure) -> bool:
        """Whether another try to connect may have more success."""
        return isinstance(failure, UpstreamUnreachable) and not failure.permanent

    def _after_tries(
        self, failure: UpstreamFailure, first: ClientError, tries: int
    ) -> UpstreamFailure:
        """The failure of the last try to connect, with the number of tries in its message.

        The advice fits the first failure: without descriptors, later tries fail while they look up
        the name.
        """
        if tries > 1:
            limit_s = self._settings.upstream_connect_timeout
            failure.message += f" Tried {tries} times within {limit_s:g} s; {_advice(first)}."
        return failure

    def _failure(
        self, error: ClientError, connection: UpstreamConnection | None, exchange: Exchange
    ) -> UpstreamFailure:
        """The failure for an exception of the pool, and the connection, if there was one."""
        match error:
            case ConnectionTimeoutError():
                limit = self._settings.upstream_connect_timeout
                message = f"Upstream did not accept a connection within {limit:g} s{self._via}."
                return UpstreamUnreachable(message)
            case ServerTimeoutError():
                return UpstreamTimeout(exchange.read_timeout_s)
            case ClientConnectorError():
                return UpstreamUnreachable(
                    f"No connection to upstream{self._via}: {_cause(error)}.",
                    permanent=isinstance(error, ClientConnectorCertificateError)
                    or _is_tls_mismatch(error.os_error),
                )
            case ClientHttpProxyError():
                return self._proxy_failure(error.status)
            case TunnelError():
                return UpstreamUnreachable(
                    f"The proxy at {self._proxy} closed the connection or did not speak HTTP."
                )
            case ClientConnectionError() if connection is None or not connection.response_started:
                return self._disconnected(connection, exchange.method)
            case _:
                message = "Upstream's response was incomplete or not HTTP."
                idempotent = exchange.method in IDEMPOTENT_METHODS
                return UpstreamDisconnected(message, started=True, idempotent=idempotent)

    def _disconnected(
        self, connection: UpstreamConnection | None, method: str
    ) -> UpstreamDisconnected:
        """The failure for a connection that ended without a byte of a response."""
        message = "Upstream closed the connection without responding."
        stale = (
            connection is None
            or not connection.first_write
            or (connection.request_count > 1 and connection.closed_unread)
        )
        idempotent = method in IDEMPOTENT_METHODS
        if not stale and not idempotent:
            message += " It may have acted on the request, so the request was not sent again."
        return UpstreamDisconnected(message, stale=stale, idempotent=idempotent)

    def _proxy_failure(self, status: int) -> UpstreamUnreachable:
        """The failure for a proxy that responds in upstream's place."""
        return UpstreamUnreachable(
            f"The proxy at {self._proxy} responded with status {status} instead of connecting.",
            permanent=status < HTTPStatus.INTERNAL_SERVER_ERROR,
        )


def _requested_upgrade(response: UpstreamResponse) -> bool:
    """Whether the request was a WebSocket handshake; other upgrades are not sent upstream."""
    return any(name.lower() == "upgrade" for name, _ in headers_in(response.request_headers))


def _is_tls_mismatch(error: OSError) -> bool:
    """Whether upstream and the gate do not agree on TLS, so that no later handshake succeeds; not
    whether the connection ended within the handshake."""
    return isinstance(error, ssl.SSLError) and not isinstance(
        error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError
    )


def _advice(error: ClientError) -> str:
    """What helps if several tries to connect have failed."""
    if isinstance(error, ClientConnectorError) and error.os_error.errno == EMFILE:
        return "raise the gate's limit of open files, or lower CONNECTION_LIMIT"
    return "raise UPSTREAM_CONNECT_TIMEOUT if upstream takes longer to start"


def _cause(error: ClientConnectorError) -> str:
    """The cause of a connector's error, in words that repeat nothing of the request."""
    cause = error.os_error
    match cause:
        case ssl.SSLError(reason=str()):
            return f"TLS failed: {describe_ssl_error(cause)}"
        case gaierror():
            return "its host name does not resolve"
        case OSError(errno=int(number)) if number in errorcode:
            return os.strerror(number).lower()
        case ConnectionError():
            return "the connection was closed during the TLS handshake"
    return type(cause).__name__
