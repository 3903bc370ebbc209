"""The server side of aiohttp: a connection with hooks, and a server and a runner that use it.

aiohttp has no option for the class of its connections, and no hooks in them.
"""

import asyncio
from contextlib import suppress
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import BadStatusLine
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

# aiohttp's parser also accepts 0.9 and 2.0 in a head that looks like HTTP/1.
_VERSIONS = (HttpVersion11, HttpVersion10)


class ServerConnection(web.RequestHandler):
    """A client's connection. Subclasses override the hooks, which do nothing here."""

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        # Whether the parser was ever paused, and so may hold data back.
        self._was_paused = False
        self._rejected = False
        # The number of heads parsed, and the body of the latest: the next head follows it.
        self._heads = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        # aiohttp drops its reference to a transport before the transport is closed.
        self._last_transport: asyncio.BaseTransport | None = None

    # Hooks.

    def on_head(self) -> None:
        """One or more request heads are complete."""

    def on_partial_head(self, data: bytes) -> None:
        """`data` arrived outside a body and completed no head."""

    def on_reading_paused(self) -> None:
        """The transport no longer reads: the connection buffers enough data."""

    def error_response(
        self, request: web.BaseRequest, error: BaseException | None
    ) -> web.StreamResponse:
        """The response to a head that cannot be parsed, and to what the handler raises.

        A ConnectionError raised here closes the connection.
        """
        raise NotImplementedError

    # For subclasses.

    @property
    def connection_count(self) -> int:
        """The number of open connections of the server."""
        assert self._manager is not None
        return len(self._manager._connections)

    @property
    def all_connections(self) -> list[web.RequestHandler]:
        """The open connections of the server."""
        assert self._manager is not None
        return self._manager.connections

    @property
    def is_idle(self) -> bool:
        """Whether no request is being handled and none is queued."""
        return self._waiter is not None and not self._waiter.done()

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

    def data_received(self, data: bytes) -> None:
        if not self._rejected:
            in_head = self._heads == self._request_count and self._body.is_eof()
            super().data_received(data)
            if self._heads != self._request_count:
                self._heads = self._request_count
                self._body = self._messages[-1][1] if self._messages else EMPTY_PAYLOAD
                self.on_head()
            elif in_head and not self._upgraded:
                self.on_partial_head(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._fail_bodies()

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


def skip_lingering(connection: web.RequestHandler) -> None:
    """Close the connection right after the response, even if the body has not been read.

    By default aiohttp reads on for ten seconds.
    """
    connection._lingering_time = 0.0


async def peek(body: StreamReader, size: int, timeout_s: float) -> bytes:
    """The first bytes of a body, which stay to be read: up to `size`, or what arrives in time."""
    # Whoever reads the body gets its errors.
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

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            # Not `request.version`, which would cache the value that `handle_error` replaces.
            if request._version not in _VERSIONS:
                raise BadStatusLine
            assert isinstance(request, web.Request)
            if request.raw_path.startswith(prefix):
                request._match_info = match
                return await route.handler(request)
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
