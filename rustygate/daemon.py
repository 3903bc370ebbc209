"""The one `web.Application`: wiring, startup, drain.

`Daemon` is one running gate. The command line runs one until a signal comes; tests run them
with the very options that production has.
"""

import asyncio
import logging
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import BadStatusLine
from aiohttp.web_protocol import _ErrInfo
from loguru import logger
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from rustygate.access.admin import Admin
from rustygate.access.client_auth import ClientAuth
from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.paths import PREFIX
from rustygate.downstream.connections import ConnectionLimiter, LimitedConnection, wait_for_heads
from rustygate.downstream.listener import Listener
from rustygate.errors import NotHttp, Refusal
from rustygate.proxy import Proxy
from rustygate.telemetry.ledger import Ledger
from rustygate.telemetry.metrics import Metrics
from rustygate.upstream.client import Upstream

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing

# aiohttp takes 8190 bytes of a request line or a header; long queries and tokens need more.
FIELD_LIMIT = 32 * 1024

# How much of a body that waits is read ahead, beyond what one read brings: the less, the less
# memory a queue of uploads takes. Whose turn has come is read with larger strides.
READ_AHEAD = 32 * 1024

# How long idle connections may take to close once all exchanges have ended.
CLOSE_TIMEOUT_S = 1.0

# How often a client of whom nothing is read is looked after; it must be missed within a second.
WATCH_INTERVAL_S = 0.5

# The name of the route by which all goes that is not the gate's own.
FORWARDED = "forwarded"

# aiohttp's parser also lets 0.9 and 2.0 pass, in a head that looks like HTTP/1.
_VERSIONS = (HttpVersion11, HttpVersion10)


class Daemon:
    """One running gate: `start`, then `drain` for a good end, then `stop`.

    As an async context manager it starts and stops.
    """

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket] = (),
        tracing: "Tracing | None" = None,
    ) -> None:
        """Listens on `sockets`, if there are any, instead of where the settings say."""
        self._settings = settings
        self._tracing = tracing
        self._listener = Listener(settings, sockets)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where it listens, once it does."""
        return self._listener.url

    async def start(self) -> None:
        """Bind and serve. Raises OSError if the address cannot be had."""
        settings = self._settings
        self._gate = Gate(settings)
        self._upstream = Upstream(settings)
        metrics = Metrics(self._gate)
        admin = Admin(settings, metrics.refused)
        self._ledger = Ledger(metrics, self._tracing)
        self._access = ClientAuth(settings.clients_file)
        self._gate.limit_clients(self._access.limits)
        self._proxy = Proxy(
            settings, self._gate, self._upstream, self._ledger, self._access, self._tracing
        )
        application = _application(self._proxy, self._gate, admin, metrics)
        self._runner = _runner(application, ConnectionLimiter(settings.connection_limit))
        await self._runner.setup()
        assert self._runner.server is not None
        try:
            await self._listener.open(self._runner.server)
        except OSError:
            await self.stop()
            raise
        self._gate.start()

    def reload(self) -> bool:
        """Read the clients' file again; whether there is one.

        Raises ClientsError, and then nothing has changed.
        """
        self._access.reload()
        self._gate.limit_clients(self._access.limits)
        return self._settings.clients_file is not None

    async def drain(self) -> None:
        """Take no new work, refuse the waiters, give exchanges in flight DRAIN_TIMEOUT."""
        self._gate.close()
        await self._listener.retire()
        limit_s = self._settings.drain_timeout
        assert self._runner.server is not None
        await asyncio.gather(
            wait_for_heads(self._runner.server, limit_s), self._proxy.finish(limit_s)
        )

    async def stop(self) -> None:
        """Close everything; exchanges still in hand are aborted."""
        self._gate.close()
        self._listener.close()
        await self._proxy.finish(0)
        await self._runner.cleanup()
        await self._upstream.close()
        self._ledger.flush()
        if self._tracing is not None:
            await self._tracing.stop()

    def snapshot(self) -> dict[str, int]:
        """The gate's live numbers: waiters, exchanges in flight, bytes of bodies held."""
        return self._proxy.snapshot()


def _application(proxy: Proxy, gate: Gate, admin: Admin, metrics: Metrics) -> web.Application:
    async def health(request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def ready(request: web.Request) -> web.Response:
        if gate.closed:
            return web.json_response({"status": "draining"}, status=503)
        return web.json_response({"status": "ready"})

    async def show_metrics(request: web.Request) -> web.Response:
        headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE_PLAIN_0_0_4}
        return web.Response(body=metrics.text(), headers=headers)

    application = web.Application()
    application.router.add_get("/health", health)
    application.router.add_get("/ready", ready)
    application.router.add_get("/metrics", admin.only(show_metrics))
    application.router.add_route(
        hdrs.METH_ANY,
        "/{target:.*}",
        proxy.handle,
        name=FORWARDED,
        expect_handler=_leave_to_the_body,
    )
    if proxy.browsers.welcome:
        application.on_response_prepare.append(proxy.browsers.tell)
    return application


class _Connection(LimitedConnection):
    """A connection whose errors repeat nothing of the request, a client's key least of all.

    While its reading is paused, for a body that waits or for requests sent ahead, it looks by
    itself whether the client is still there: a paused transport does not see the end.
    """

    _watch: asyncio.TimerHandle | None = None

    def _pause_transport_reading(self) -> None:
        super()._pause_transport_reading()
        if self._watch is None:
            self._watch = self._loop.call_later(WATCH_INTERVAL_S, self._look)

    def _look(self) -> None:
        self._watch = None
        if self.transport is None or self.transport.is_reading():
            return
        if _has_hung_up(self.transport):
            self.transport.abort()
        else:
            self._watch = self._loop.call_later(WATCH_INTERVAL_S, self._look)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._end_broken_body()

    def _end_broken_body(self) -> None:
        """Tell who reads a body that its framing broke; aiohttp tells only the next handler."""
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
        logger.debug("not served: {} from {}", type(exc).__name__, request.remote)
        if request.writer.output_size:
            raise ConnectionError
        # An answer repeats the request's version, which may be anything; where the head could not
        # be parsed, aiohttp says 1.0 for it.
        request._version = HttpVersion11
        return (exc if isinstance(exc, Refusal) else NotHttp()).response([])


def _has_hung_up(transport: asyncio.Transport) -> bool:
    hung_up = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
    poll = select.poll()
    with suppress(OSError, ValueError):
        poll.register(transport.get_extra_info("socket").fileno(), hung_up)
        return bool(poll.poll(0))
    return True


class _Server(web.Server):
    """Makes such connections."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """Serves the application over such connections. aiohttp has no option for this.

    What is under `/v1/` is forwarded without asking the router, which takes longer than a pipe
    may. So are targets that the router cannot match at all, such as `*`.
    """

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        (route,) = self.app.router[FORWARDED]
        matched = web.UrlMappingMatchInfo({}, route)
        matched.add_app(self.app)
        matched.freeze()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            # Not `request.version`, which would keep what it once said.
            if request._version not in _VERSIONS:
                raise BadStatusLine
            assert isinstance(request, web.Request)
            if request.raw_path.startswith(PREFIX):
                request._match_info = matched
                return await route.handler(request)
            try:
                return await made.request_handler(request)
            except web.HTTPException:
                return await route.handler(request)

        return _Server(
            handle,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )


def _runner(application: web.Application, door: ConnectionLimiter) -> web.AppRunner:
    # aiohttp would log requests that it cannot parse with their bytes.
    muted = logging.Logger("muted", logging.CRITICAL + 1)
    return _Runner(
        application,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        logger=muted,
        max_line_size=FIELD_LIMIT,
        max_field_size=FIELD_LIMIT,
        read_bufsize=READ_AHEAD,
        shutdown_timeout=CLOSE_TIMEOUT_S,
        door=door,
    )


async def _leave_to_the_body(request: web.Request) -> None:
    """`Expect: 100-continue` is answered where the body is read, not before (see `body`)."""
