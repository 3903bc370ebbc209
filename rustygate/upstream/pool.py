"""The connection pool, and sending requests over its connections.

aiohttp's `ClientSession.request` follows redirects, keeps cookies, guesses headers and merges
them with defaults. A gate must do none of that, and it cost a fifth of all CPU time. So the
session here only manages connections: names, TLS, proxies, the pool. The head of a request is
written by `ConnectionPool`, and a response is read from aiohttp's parser.

Nothing is added to a request, no redirect is followed, no cookie is kept, and nothing is
decompressed.
"""

import asyncio
from select import POLLIN
from typing import Any

from aiohttp import (
    ClientConnectionError,
    ClientConnectionResetError,
    ClientError,
    ClientPayloadError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
    hdrs,
)
from aiohttp.connector import Connection
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from rustygate.aiohttp_internals.client import (
    FIRST_FINAL_STATUS,
    Destination,
    UpstreamConnection,
    UpstreamConnector,
    connection_of,
)
from rustygate.config import Settings
from rustygate.core.headers import HeaderLines, header_lines
from rustygate.core.location import LocationMap
from rustygate.core.own_connections import OwnConnections
from rustygate.core.paths import PREFIX
from rustygate.core.websocket_handshake import SWITCHING_PROTOCOLS
from rustygate.downstream.request_body import RequestBody
from rustygate.exchange import Exchange
from rustygate.system.lockstep import Lockstep
from rustygate.system.tcp import poll
from rustygate.system.tls import client_context
from rustygate.upstream.response import UpstreamResponse

# aiohttp accepts 8190 bytes a header and 128 headers; upstreams behind a CDN send more.
FIELD_LIMIT = 64 * 1024
HEADERS_LIMIT = 512


class ConnectionPool:
    """Sends requests upstream, over pooled connections or over fresh ones.

    `sends_absolute_form`: requests go to a proxy in absolute form, and it may respond itself
    (RFC 9112, 3.2.2).
    """

    def __init__(self, settings: Settings, lockstep: Lockstep) -> None:
        base = URL(settings.openai_base_url)
        proxy = URL(settings.proxy) if settings.proxy else None
        options: dict[str, Any] = {}
        has_tls = "https" in (base.scheme, proxy and proxy.scheme)
        if has_tls and (settings.ssl_cert_file or settings.ssl_cert_dir):
            options["ssl"] = client_context(
                settings.ssl_cert_file, settings.ssl_cert_dir, "http/1.1"
            )
        self._loop = asyncio.get_running_loop()
        self.own_connections = OwnConnections()
        options |= {"own": self.own_connections, "lockstep": lockstep}
        self._pooled = _session(settings, UpstreamConnector(**options))
        self._fresh = _session(settings, UpstreamConnector(force_close=True, **options))
        self._destination = Destination(
            "GET", base, loop=self._loop, proxy=proxy, session=self._pooled
        )
        self._locations = LocationMap(settings.openai_base_url)
        self._host = header_lines([("Host", str(base.host_port_subcomponent))])
        # What precedes a target once its `/v1` is removed.
        self._prefix = URL(settings.openai_base_url, encoded=True).raw_path.rstrip("/")
        self.sends_absolute_form = proxy is not None and base.scheme == "http"
        if self.sends_absolute_form:
            self._prefix = str(base.origin()) + self._prefix
        self._parser_options = {
            "read_until_eof": True,
            "auto_decompress": False,
            # aiohttp buffers up to twice this much; the pipe holds the other half of a stream.
            "read_bufsize": max(1, settings.stream_capacity // 4),
            "max_line_size": FIELD_LIMIT,
            "max_field_size": FIELD_LIMIT,
            "max_headers": HEADERS_LIMIT,
        }

    async def close(self) -> None:
        """Close all connections."""
        await self._pooled.close()
        await self._fresh.close()

    async def connect(self, *, fresh: bool = False, deadline: float | None = None) -> Connection:
        """A connection for one request, with `fresh` a new one. Raises ClientError.

        The caller owns it until it sends a request.

        Args:
            deadline: the end of UPSTREAM_CONNECT_TIMEOUT, on the loop's clock, if this is not the
                first try within it. The address may have changed since that one.
        """
        session = self._fresh if fresh else self._pooled
        if deadline is None:
            return await self._connect(session)
        assert isinstance(session.connector, UpstreamConnector)
        session.connector.clear_dns_cache()
        try:
            async with asyncio.timeout_at(deadline):
                return await self._connect(session)
        except TimeoutError as error:
            raise ConnectionTimeoutError from error

    async def _connect(self, session: ClientSession) -> Connection:
        assert session.connector is not None
        while True:
            try:
                pooled = await session.connector.connect(self._destination, [], session.timeout)
            except TimeoutError as error:
                raise ConnectionTimeoutError from error
            # Upstream may have sent data without a request.
            if connection_of(pooled).is_reusable():
                return pooled
            pooled.close()

    async def send(
        self,
        pooled: Connection,
        exchange: Exchange,
        target: str,
        headers: HeaderLines,
        body: RequestBody,
    ) -> UpstreamResponse:
        """Send a request; returns the response once its head has arrived.

        The connection then belongs to the response; without a response it is closed. Raises
        ClientError, or ValueError for characters that a head cannot hold.
        """
        connection, method = connection_of(pooled), exchange.method
        upload: asyncio.Task[None] | None = None
        try:
            head = self._head(connection, method, target, headers + body.framing)
            connection.start_request(
                self._parser_options, exchange.read_timeout_s, skip_body=method == hdrs.METH_HEAD
            )
            upload = self._start_upload(pooled, connection, head, body)
            while True:
                message, content = await connection.read()
                if message.code >= FIRST_FINAL_STATUS or message.code == SWITCHING_PROTOCOLS:
                    return UpstreamResponse(
                        pooled,
                        message,
                        content,
                        headers,
                        upload,
                        self._locations,
                        exchange.read_timeout_s,
                    )
        except BaseException as error:
            if upload is not None:
                upload.cancel()
            pooled.close()
            if isinstance(error, HttpProcessingError):
                raise ClientPayloadError from error
            raise

    def _head(
        self, connection: UpstreamConnection, method: str, target: str, headers: HeaderLines
    ) -> bytes:
        """A request's head. Raises ValueError for a target that would be read as more than one."""
        start = f"{method} {self._prefix}{target[len(PREFIX) - 1 :]} HTTP/1.1\r\n"
        if not start[:-2].isprintable():
            raise ValueError("the request line contains control characters")
        head = start.encode() + self._host + headers
        if self._destination.proxy is not None:
            # The connector sets it there if the proxy expects credentials in each request.
            credentials = self._destination.headers.get(hdrs.PROXY_AUTHORIZATION)
            if credentials is not None:
                head += header_lines([(hdrs.PROXY_AUTHORIZATION, credentials)])
        if connection.single_use:
            head += b"Connection: close\r\n"
        return head + b"\r\n"

    def _start_upload(
        self,
        pooled: Connection,
        connection: UpstreamConnection,
        head: bytes,
        body: RequestBody,
    ) -> "asyncio.Task[None] | None":
        """Write the head, and a small body with it; returns the task that sends the rest."""
        transport = connection.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError
        piece = body.piece
        if piece is None:
            connection.first_write = len(head)
            transport.write(head)
            return self._loop.create_task(self._upload(pooled, body))
        request = head + piece
        connection.first_write = len(request)
        transport.write(request)
        if connection.writing_paused:
            return self._loop.create_task(self._upload(pooled))
        connection.start_timeout()
        return None

    async def _upload(self, pooled: Connection, body: RequestBody | None = None) -> None:
        """Send a body, if it has not been written yet, and wait until upstream has taken it."""
        connection = connection_of(pooled)
        writer = StreamWriter(connection, self._loop)
        try:
            if body is not None:
                # If upstream has closed the connection, that is seen before more is written.
                await asyncio.sleep(0)
                writer.chunked = body.chunked
                async for piece in body:
                    connection.wrote_more = True
                    if connection.transport is not None and poll(connection.transport, POLLIN):
                        # It may be the response, and a reset behind it. A write would meet the
                        # reset first. In the second turn the data has been read.
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                    await writer.write(piece)
                await writer.write_eof()
            await writer.drain()
        except asyncio.CancelledError:
            pooled.close()
            raise
        except ClientConnectionResetError:
            # The connection reports its end itself, after what had arrived before.
            return
        except Exception as error:
            if not isinstance(error, ClientError):
                error = ClientConnectionError()
            connection.set_exception(error)
        else:
            connection.start_timeout()


def _session(settings: Settings, connector: TCPConnector) -> ClientSession:
    connect = settings.upstream_connect_timeout
    return ClientSession(
        connector=connector,
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(connect=connect, sock_connect=connect),
    )
