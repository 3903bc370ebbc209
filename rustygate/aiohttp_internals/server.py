"""The server side of aiohttp: a connection with hooks, and a server and a runner that use it.

aiohttp has no option for the class of its connections, and no hooks in them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import BadStatusLine
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _PAYLOAD_ACCESS_ERROR, ERROR, _ErrInfo
from multidict import CIMultiDict, CIMultiDictProxy

from rustygate.core.headers import HEAD_END

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())

# aiohttp's parser also accepts 0.9 and 2.0 in a head that looks like HTTP/1.
_VERSIONS = (HttpVersion11, HttpVersion10)


class ServerConnection(web.RequestHandler):
    """A client's connection. Subclasses override the hooks, which do nothing here.

    Bodies are not decompressed.

    Attributes:
        is_draining: whether the server drains, so that a client should connect elsewhere.
    """

    __slots__ = (
        "__weakref__", "_body", "_heads", "_ignores_upgrade", "_last_transport",
        "_received_after_head", "_rejected", "_unparsed", "_was_paused", "is_draining",
    )  # fmt: skip

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, auto_decompress=False, **options)
        # A deque takes ten times the memory.
        self._messages = []  # type: ignore[assignment]
        # Whether the parser was ever paused, and so may hold data back.
        self._was_paused = False
        self._rejected = False
        self.is_draining = False
        # Unparsed bytes of a request that waits for its turn. A parsed head takes more memory, and
        # parsing the heads of a whole crowd at once fragments the heap.
        self._unparsed = b""
        # The number of heads parsed, and the body of the latest: the next head follows it.
        self._heads = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        # How many bytes arrived after that head.
        self._received_after_head: float = 0
        # Whether that head asks for an upgrade that aiohttp ignores, and its body has not ended.
        self._ignores_upgrade = False
        # aiohttp drops its reference to a transport before the transport is closed.
        self._last_transport: asyncio.BaseTransport | None = None

    # Hooks.

    def on_head(self) -> None:
        """A request head has arrived, or one or more have been parsed."""

    def on_partial_head(self, data: bytes) -> None:
        """`data` arrived outside a body and completed no head."""

    def on_reading_paused(self) -> None:
        """The transport no longer reads: the connection buffers enough data."""

    def wait_for_turn(self) -> "asyncio.Future[None] | None":
        """What the next request waits for before it is parsed; None if its turn has come."""
        return None

    def error_response(
        self, request: web.BaseRequest, error: BaseException | None
    ) -> web.StreamResponse:
        """The response to a head that cannot be parsed, and to what the handler raises.

        A ConnectionError raised here closes the connection.
        """
        raise NotImplementedError

    # For subclasses.

    @property
    def is_idle(self) -> bool:
        """Whether no request is being handled and none is queued."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def has_requests(self) -> bool:
        """Whether a request is being handled, or one that was parsed waits."""
        return self._current_request is not None or bool(self._messages)

    @property
    def has_more_requests(self) -> bool:
        """Whether a request that was parsed waits behind the one that is being handled."""
        return bool(self._messages)

    @property
    def idle_since(self) -> float:
        """When the latest response ended, on the loop's clock."""
        return self._next_keepalive_close_time - self._keepalive_timeout

    def reject(self, error: Exception, status: int) -> None:
        """Read no further. Earlier requests are answered, then `error_response` is sent."""
        self._rejected = True
        self._messages.append((_ErrInfo(status, error, ""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Called by aiohttp and asyncio.

    async def start(self) -> None:
        """Handle the requests of the connection, one after another.

        aiohttp runs each handler in a task of its own. That takes two more turns of the event
        loop and a thirtieth of the CPU time of a request.
        """
        while not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                await self._waiter
                self._waiter = None
            if (turn := self.wait_for_turn()) is not None:
                await turn
            if self._unparsed and not self._force_close:
                self._parse(self._unparsed)
            if self._messages and not await self._handle_next(*self._next_request()):
                break
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    def _next_request(self) -> tuple[web.BaseRequest, Handler]:
        """The next request, and what handles it. Nothing else refers to its head."""
        handler, make_request = self._request_handler, self._request_factory
        assert handler is not None
        assert make_request is not None
        message, body = self._messages.pop(0)  # type: ignore[call-arg]
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        if isinstance(message, _ErrInfo):
            handler, message = self._make_error_handler(message), ERROR
        writer = StreamWriter(self, self._loop)
        return make_request(message, body, self, writer, self._own_task), handler

    async def _handle_next(self, request: web.BaseRequest, handler: Handler) -> bool:
        """Handle a request; returns whether the connection is kept alive."""
        try:
            response, is_lost = await self._handle_request(request, None, handler)
            if is_lost:
                return False
            self._keepalive = bool(response.keep_alive)
            body = request.content
            if not body.is_eof():
                await self._linger(body)
            body.set_exception(_PAYLOAD_ACCESS_ERROR)
        except Exception:
            # The response cannot be sent, or the rest of the body cannot be read. An error of the
            # handler itself was answered with a response.
            return False
        except asyncio.CancelledError:
            self.force_close()
            raise
        finally:
            request._task = None  # type: ignore[assignment]
        if not self._keepalive or self._close or self._force_close:
            return False
        self._expect_another_request()
        return True

    @property
    def _own_task(self) -> "asyncio.Task[None]":
        # Kept in a frame, it would be part of a reference cycle once an exception ends the task.
        return self._task_handler or asyncio.current_task()  # type: ignore[return-value]

    def _expect_another_request(self) -> None:
        close_time = self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        # The timer does not start again if it fires within a request.
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)

    async def _linger(self, body: StreamReader) -> None:
        """Read, for a limited time, what the handler left of a body."""
        transport = self.transport
        if not self._keepalive and transport is not None and transport.can_write_eof():
            # A client that waits for the end need not wait as long (RFC 9112, 9.6).
            transport.write_eof()
        if self._lingering_time:
            # A task of the handler that read the body, and was cancelled, ends in the next turn.
            await asyncio.sleep(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lingering_time):
                    while not body.is_eof() and not self._force_close:
                        await body.readany()
        if not body.is_eof() and not self._force_close:
            self.close()

    def free_head(self, request: web.BaseRequest) -> None:
        """Free the headers of a request that takes long; from then on it has none.

        If its body has been read, the body's reader is freed too, and the parser, which would keep
        the headers until the next head arrives.
        """
        message = request._message
        if message.upgrade or request._headers is _NO_HEADERS:
            return
        request._message = message._replace(headers=_NO_HEADERS, raw_headers=())
        request._headers = _NO_HEADERS
        request._cache.clear()
        body = request._payload
        if not body.at_eof() or body is not self._body:
            return
        request._payload = self._body = EMPTY_PAYLOAD
        # A parser must be kept if it has a part of the next head, or if an upgrade is next.
        if self._received_after_head == body.total_bytes and not self._upgraded:
            self._parser = None

    def _new_parser(self) -> HttpRequestParser:
        return HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._last_transport = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._break_reference_cycles()

    def _break_reference_cycles(self) -> None:
        # A cycle stays in memory until the next garbage collection, and collections are rare.
        # A body refers to its connection, and asyncio's transport to one of its own methods.
        self._body = EMPTY_PAYLOAD
        if self._last_transport is not None:
            vars(self._last_transport).pop("_read_ready_cb", None)
            self._last_transport = None

    def _pause_transport_reading(self) -> None:
        self._was_paused = True
        super()._pause_transport_reading()
        self.on_reading_paused()

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls this after each read, and each time looks for data that the parser holds
        # back. The parser may hold data long after a pause, since a pause takes effect only with
        # the next bytes. A parser that was never paused holds none.
        if self._was_paused:
            super().resume_reading(resume_parser)

    def close(self) -> None:
        # From now on, aiohttp discards what it is given to parse.
        if self._unparsed:
            self._parse(self._unparsed)
        super().close()

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done() and _length_after_head(data) >= 0:
            self._unparsed = data
            self.on_head()
            waiter.set_result(None)
        else:
            self._parse(self._unparsed + data)

    def _parse(self, data: bytes) -> None:
        self._unparsed = b""
        if not self._rejected:
            in_head = self._heads == self._request_count and self._body.is_eof()
            if self._parser is None and self.transport is not None:
                self._parser = self._new_parser()
            try:
                super().data_received(data)
            except Exception as error:
                # The parser lets errors of yarl pass that are not ValueErrors.
                self.reject(error, 400)
            if self._heads != self._request_count:
                number, self._heads = self._request_count - self._heads, self._request_count
                self._note_latest_head(data, number)
                self.on_head()
            else:
                self._received_after_head += len(data)
                if in_head and not self._upgraded:
                    self.on_partial_head(data)
            if self._ignores_upgrade and self._body.is_eof():
                self._end_ignored_upgrade()
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._fail_bodies()

    def _note_latest_head(self, data: bytes, number: int) -> None:
        """Note the last of a number of heads that a read completed."""
        # Only the parser knows where the second of several ended.
        self._received_after_head = _length_after_head(data) if number == 1 else -inf
        self._body, self._ignores_upgrade = EMPTY_PAYLOAD, False
        if self._messages:
            message, self._body = self._messages[-1]
            if not isinstance(message, _ErrInfo):
                # The size of a chunked body as it was sent is not known.
                self._ignores_upgrade = message.upgrade and not (self._upgraded or message.chunked)

    def _end_ignored_upgrade(self) -> None:
        """Reject what followed the request in the same read. The parser has dropped it, so the
        next response would pass for that of the lost request."""
        self._ignores_upgrade = False
        if self._received_after_head > self._body.total_bytes:
            self.reject(BadStatusLine(), 400)

    def _fail_bodies(self) -> None:
        """Raise in readers of a body whose framing broke; aiohttp reports that only to the next
        handler."""
        bodies = [body for _, body in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError())

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        # A response repeats the request's version, which may be anything; if the head cannot be
        # parsed, aiohttp assumes 1.0.
        request._version = HttpVersion11
        return self.error_response(request, exc)


def _length_after_head(data: bytes) -> float:
    """How many bytes follow a head; negative if none ends in the data. Empty lines may precede it
    (RFC 9112, 2.2)."""
    data = data.lstrip(b"\r\n")
    end = data.find(HEAD_END)
    return -inf if end < 0 else len(data) - end - len(HEAD_END)


def free_head(request: web.BaseRequest) -> None:
    """Call `ServerConnection.free_head` of the request's connection."""
    connection = request.protocol
    assert isinstance(connection, ServerConnection)
    connection.free_head(request)


def skip_lingering(connection: web.RequestHandler) -> None:
    """Close the connection right after the response, even if the body has not been read.

    By default aiohttp reads on for ten seconds.
    """
    connection._lingering_time = 0.0


async def peek(body: StreamReader, size: int, timeout_s: float) -> bytes:
    """The first bytes of a body, which stay to be read: up to `size`, or what arrives in time."""
    # The reader of the body gets its errors.
    with suppress(Exception):
        async with asyncio.timeout(timeout_s):
            while body.total_bytes < size and not body.is_eof() and body.exception() is None:
                await body._wait("peek")
    return b"".join(body._buffer)[:size]


class _Server(web.Server):
    """A server whose connections are of the given type."""

    def __init__(
        self, handler: Any, connection_type: type[ServerConnection], **options: Any
    ) -> None:
        super().__init__(handler, **options)
        self._connection_type = connection_type

    def __call__(self) -> web.RequestHandler:
        return self._connection_type(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application over connections of the given type.

    Requests whose target begins with `prefix` go to the route named `fallback` without a lookup
    in the router, which would take too long for each forwarded request. So do targets that the
    router cannot match at all, such as `*`. `options` are for the connections too.
    """

    def __init__(
        self,
        application: web.Application,
        connection_type: type[ServerConnection],
        *,
        prefix: str,
        fallback: str,
        **options: Any,
    ) -> None:
        super().__init__(application, **options)
        self._connection_type = connection_type
        self._prefix = prefix
        self._fallback = fallback

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        prefix = self._prefix
        (route,) = self.app.router[self._fallback]
        match = web.UrlMappingMatchInfo({}, route)
        match.add_app(self.app)
        match.freeze()

        def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
            # Not `request.version`, which would cache the value that `handle_error` replaces.
            if request._version not in _VERSIONS:
                raise BadStatusLine
            assert isinstance(request, web.Request)
            if not request.raw_path.startswith(prefix):
                return look_up(request)
            request._match_info = match
            return route.handler(request)

        async def look_up(request: web.Request) -> web.StreamResponse:
            try:
                return await server.request_handler(request)
            except web.HTTPException:
                return await route.handler(request)

        return _Server(
            handle,
            self._connection_type,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            **server._kwargs,
        )
