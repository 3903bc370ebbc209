"""Requests to upstream, over the connections of aiohttp's `ClientSession`.

The session's own `request` follows redirects, keeps cookies, guesses headers and merges them with
defaults. A gate may do none of that, and it took a fifth of all its CPU. So the session only keeps
the connections here, with all that belongs to them: names, TLS, proxies, the pool. A head is
written as it crosses the gate, and an answer is read from aiohttp's parser.

Nothing is added to a request, no redirect followed, no cookie kept, nothing decompressed.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, cast

from aiohttp import (
    ClientConnectionError,
    ClientConnectionResetError,
    ClientConnectorError,
    ClientError,
    ClientHttpProxyError,
    ClientPayloadError,
    ClientRequest,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    StreamReader,
    TCPConnector,
    hdrs,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from rustygate.config import Settings
from rustygate.core.headers import Headers, RawHeaders
from rustygate.core.paths import PREFIX
from rustygate.core.websocket_handshake import SWITCHING_PROTOCOLS
from rustygate.downstream.request_body import RequestBody
from rustygate.system.tls import client_context, unsent

# aiohttp takes 8190 bytes of a header and 128 headers; upstreams behind a CDN send more.
FIELD_LIMIT = 64 * 1024
HEADERS_LIMIT = 512

# Below are interim answers (RFC 9110, 15.2).
FIRST_FINAL = 200

# Up to here the answer is good.
FIRST_ERROR = 400


class UpstreamConnection(ResponseHandler):
    """A connection that tells the reader of a body when more of it has come, or its framing
    breaks, that keeps nothing once it is closed, and that knows whether an answer has begun.

    aiohttp 3.14 tells only who waits for a head; the reader would wait for ever. It would also
    stay open with what an upstream that does not read has not taken yet. Of an answer that had
    begun it knows only where its head was cut by a close, not by a reset, and where no interim
    answer (RFC 9110, 15.2) came before; after one of those it waits for ever.

    Its clock for upstream's silence is one timer, which looks at when bytes came last. aiohttp
    would set one anew with each read.
    """

    # How many requests it has carried, and whether bytes came since the latest.
    requests = 0
    answering = False
    _sent = False
    # Of which kind the parser's answers are: to a HEAD they have no bodies.
    _bodiless: bool | None = None
    # On the loop's clock; None while the clock is stopped.
    _silent_since: float | None = None
    # Called when more of a body has come, or its end; never while what came is being read.
    on_arrival: Callable[[], None] | None = None
    # Whether its parser was ever paused, and so may hold something back.
    _was_paused = False

    def begin(self, parsing: Mapping[str, Any], *, bodiless: bool) -> None:
        """A request begins. The parser that read the last answer can read the next."""
        self.requests += 1
        self.answering = self._sent = False
        # What ended the last answer, or came after it, may have started the clock again.
        self._silent_since = None
        if self._bodiless is not bodiless:
            self._bodiless = bodiless
            self.set_response_params(skip_payload=bodiless, **parsing)

    def can_serve(self) -> bool:
        """Whether nothing came that would pass for the next answer, nor the beginning of one."""
        if not self.requests:
            return True
        if self.should_close or self._parser is None:
            return False
        # Empty lines complete a head that has begun. Before a head they do not count.
        try:
            messages, _, _ = self._parser.feed_data(b"\r\n\r\n")
        except HttpProcessingError:
            return False
        return not messages

    def start_timeout(self) -> None:
        # Called when all of the request has been sent.
        self._sent = True
        super().start_timeout()

    def data_received(self, data: bytes) -> None:
        # It comes empty from who reads, and that may be the end of the answer before.
        if not data:
            super().data_received(data)
            return
        self.answering = True
        super().data_received(data)
        self._tell()

    async def read(self) -> tuple[RawResponseMessage, StreamReader]:
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
        # What was held back may prove to be broken while what came before it is being read.
        self._loop.call_soon(self._tell)

    def close(self) -> None:
        if self.transport is not None and unsent(self.transport):
            self.abort()
        else:
            super().close()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._read_timeout_handle is not None:
            self._read_timeout_handle.cancel()
            self._read_timeout_handle = None
        self._tell()

    def _tell(self) -> None:
        if self.on_arrival is not None:
            self.on_arrival()

    # The pauses and the clock. aiohttp calls these.

    def pause_reading(self) -> None:
        self._was_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp says so after each read, and looks each time for what is held back. That may be
        # there long after the pause, for the parser heeds it only with the next bytes.
        if not self._was_paused:
            return
        super().resume_reading(resume_parser)
        # What was held back may be enough to pause again, or the end; aiohttp starts the clock
        # all the same.
        if self._reading_paused or self._payload is None or self._payload.is_eof():
            self._drop_timeout()
        self._loop.call_soon(self._tell)

    def _reschedule_timeout(self) -> None:
        limit_s = self._read_timeout
        if limit_s is None:
            return
        self._silent_since = self._loop.time()
        if self._read_timeout_handle is None:
            self._read_timeout_handle = self._loop.call_later(limit_s, self._on_read_timeout)

    def _drop_timeout(self) -> None:
        self._silent_since = None

    def _on_read_timeout(self) -> None:
        self._read_timeout_handle = None
        if self._silent_since is None or self._read_timeout is None:
            return
        due = self._silent_since + self._read_timeout
        if due > self._loop.time():
            self._read_timeout_handle = self._loop.call_at(due, self._on_read_timeout)
        else:
            super()._on_read_timeout()


class NoTunnel(ClientError):
    """The proxy ended a connection that it was to pass on, or did not speak HTTP."""


class _Connector(TCPConnector):
    """A connector of such connections."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._factory = cast(
            "partial[ResponseHandler]", partial(UpstreamConnection, loop=self._loop)
        )

    async def _create_connection(self, *args: Any, **kwargs: Any) -> ResponseHandler:
        try:
            return await super()._create_connection(*args, **kwargs)
        except (ClientConnectorError, ClientHttpProxyError):
            raise
        except ClientError as error:
            # What else goes wrong before there is a connection is a proxy's answer to CONNECT.
            raise NoTunnel from error


class _Route(ClientRequest):
    """Where all requests go, as connectors ask it."""

    @cached_property
    def connection_key(self) -> ConnectionKey:
        return super().connection_key


class UpstreamResponse:
    """Upstream's answer: its head, and its body as it comes.

    At the body's end it gives its connection back; before, `close` ends the connection.
    `asked` are the headers of the request it answers.
    """

    __slots__ = (
        "_connection", "_upload", "asked", "content", "given_up", "headers", "raw_headers",
        "reason", "status",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        message: RawResponseMessage,
        content: StreamReader,
        asked: Headers,
        upload: asyncio.Task[None] | None,
    ) -> None:
        self._connection: Connection | None = connection
        self.status: int = message.code
        self.reason: str | None = message.reason
        self.headers = message.headers
        self.raw_headers: RawHeaders = message.raw_headers
        self.content = content
        self.asked = asked
        self._upload = upload
        # Whether it was closed before its end.
        self.given_up = False
        content.on_eof(self._release)

    def __repr__(self) -> str:
        return f"<UpstreamResponse {self.status}>"

    @property
    def ok(self) -> bool:
        """Whether it is no error."""
        return self.status < FIRST_ERROR

    @property
    def wire(self) -> UpstreamConnection | None:
        """The connection itself, until it is given back."""
        return None if self._connection is None else connection_of(self._connection)

    def rest(self) -> bytes:
        """What came of the body before it broke off; aiohttp leaves that unread."""
        return self.content._read_nowait(-1)

    def close(self) -> None:
        """End the connection, unless it was given back."""
        if self._upload is not None:
            self._upload.cancel()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if not self.content.is_eof():
            self.given_up = True
            # What refers to this would stay, with what it holds, until the next collection.
            self.content._eof_callbacks.clear()

    def _release(self) -> None:
        connection = self._connection
        if connection is None or connection_of(connection).upgraded:
            return
        if self._upload is not None and not self._upload.done():
            # Upstream does not want the rest.
            self.close()
        else:
            connection.release()
            self._connection = None


class ConnectionPool:
    """Asks upstream, over pooled connections or over fresh ones.

    `relayed`: requests go whole to a proxy, which may answer them itself (RFC 9112, 3.2.2).
    """

    def __init__(self, settings: Settings) -> None:
        base = URL(settings.openai_base_url)
        proxy = URL(settings.proxy) if settings.proxy else None
        options: dict[str, Any] = {}
        if settings.ssl_cert_file or settings.ssl_cert_dir:
            options["ssl"] = client_context(settings.ssl_cert_file, settings.ssl_cert_dir)
        self._loop = asyncio.get_running_loop()
        self._pooled = _session(settings, _Connector(**options))
        self._fresh = _session(settings, _Connector(force_close=True, **options))
        self._route = _Route("GET", base, loop=self._loop, proxy=proxy, session=self._pooled)
        self._host = f"Host: {base.host_port_subcomponent}"
        # What stands before a target that is without its `/v1`.
        self._prefix = URL(settings.openai_base_url, encoded=True).raw_path.rstrip("/")
        self.relayed = proxy is not None and base.scheme == "http"
        if self.relayed:
            self._prefix = str(base.origin()) + self._prefix
        self._parsing = {
            "read_until_eof": True,
            "auto_decompress": False,
            "read_timeout": settings.upstream_read_timeout or None,
            # aiohttp reads ahead twice this much; the pipe holds the other half of a stream.
            "read_bufsize": max(1, settings.stream_capacity // 4),
            "max_line_size": FIELD_LIMIT,
            "max_field_size": FIELD_LIMIT,
            "max_headers": HEADERS_LIMIT,
        }

    async def close(self) -> None:
        """Close all connections."""
        await self._pooled.close()
        await self._fresh.close()

    async def connect(self, *, fresh: bool = False) -> Connection:
        """A connection to ask over; with `fresh` one that was never used. Raises ClientError.

        It is the caller's until it is asked over.
        """
        session = self._fresh if fresh else self._pooled
        assert session.connector is not None
        while True:
            try:
                connection = await session.connector.connect(self._route, [], session.timeout)
            except TimeoutError as error:
                raise ConnectionTimeoutError from error
            # Upstream may have said something unasked.
            if connection_of(connection).can_serve():
                return connection
            connection.close()

    async def ask(
        self, connection: Connection, method: str, target: str, headers: Headers, body: RequestBody
    ) -> UpstreamResponse:
        """Send a request; returns upstream's answer once its head is there.

        The connection then belongs to the answer; if it comes to none, it is closed. Raises
        ClientError, or ValueError for what a head cannot hold.
        """
        wire = connection_of(connection)
        upload: asyncio.Task[None] | None = None
        try:
            head = self._head(connection, method, target, headers + body.framing)
            wire.begin(self._parsing, bodiless=method == hdrs.METH_HEAD)
            upload = self._send(connection, wire, head, body)
            while True:
                message, content = await wire.read()
                if message.code >= FIRST_FINAL or message.code == SWITCHING_PROTOCOLS:
                    return UpstreamResponse(connection, message, content, headers, upload)
        except BaseException as error:
            if upload is not None:
                upload.cancel()
            connection.close()
            if isinstance(error, HttpProcessingError):
                raise ClientPayloadError from error
            raise

    def _head(self, connection: Connection, method: str, target: str, headers: Headers) -> bytes:
        """A request's head. Raises ValueError if it would not be read as it is meant."""
        lines = [f"{method} {self._prefix}{target[len(PREFIX) - 1 :]} HTTP/1.1", self._host]
        lines += [f"{name}: {value}" for name, value in headers]
        if self._route.proxy is not None:
            # The connector leaves it there if the proxy asks for one with each request.
            credentials = self._route.headers.get(hdrs.PROXY_AUTHORIZATION)
            if credentials is not None:
                lines.append(f"{hdrs.PROXY_AUTHORIZATION}: {credentials}")
        if connection._connector.force_close:
            lines.append("Connection: close")
        text = "\r\n".join(lines)
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
            raise ValueError("a line of the head holds a line break")
        return f"{text}\r\n\r\n".encode()

    def _send(
        self, connection: Connection, wire: UpstreamConnection, head: bytes, body: RequestBody
    ) -> "asyncio.Task[None] | None":
        """Begin to send; the task that goes on with what does not go at once."""
        transport = wire.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError
        piece = body.piece
        if piece is None:
            transport.write(head)
            return self._loop.create_task(self._go_on(connection, body))
        transport.write(head + piece)
        if wire.writing_paused:
            return self._loop.create_task(self._go_on(connection))
        wire.start_timeout()
        return None

    async def _go_on(self, connection: Connection, body: RequestBody | None = None) -> None:
        """Send a body, if it is still to be sent, and what is on the way, as upstream takes it."""
        wire = connection_of(connection)
        writer = StreamWriter(wire, self._loop)
        try:
            if body is not None:
                writer.chunked = body.chunked
                async for piece in body:
                    await writer.write(piece)
                await writer.write_eof()
            await writer.drain()
        except asyncio.CancelledError:
            connection.close()
            raise
        except Exception as error:
            if not isinstance(error, ClientError):
                error = ClientConnectionError()
            wire.set_exception(error)
        else:
            wire.start_timeout()


def connection_of(connection: Connection) -> UpstreamConnection:
    """The connection itself, which is there until it is given back."""
    return cast(UpstreamConnection, connection.protocol)


def _session(settings: Settings, connector: TCPConnector) -> ClientSession:
    connect = settings.upstream_connect_timeout
    return ClientSession(
        connector=connector,
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(connect=connect, sock_connect=connect),
    )
