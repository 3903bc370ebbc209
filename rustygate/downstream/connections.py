"""Connections from clients: how many are open, and how long and large a request head may be.

Many or slow clients must not use up the resources of the others. A client is slow if it connects
and sends nothing, or if it stalls within a request. A connection between two requests is not
slow, nor is one whose request is queued or in progress, however long that takes.
`request_body` limits slow bodies.
"""

import asyncio
import select
from collections.abc import Callable, Iterable
from contextlib import suppress
from heapq import nsmallest
from operator import itemgetter
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import InvalidURLError
from loguru import logger

from rustygate.aiohttp_internals.server import ServerConnection
from rustygate.downstream.request_pace import RequestPace
from rustygate.errors import (
    InvalidUrl,
    NotHttp,
    PlainHttp,
    Refusal,
    RequestTimeout,
    TooManyConnections,
)
from rustygate.exchange import ID_HEADER, new_id
from rustygate.system.lockstep import Lockstep
from rustygate.system.shared_counts import Count
from rustygate.system.tcp import poll
from rustygate.system.tls import abort

# From the start of a connection, or from the first byte of a later request, to the end of the
# head. A slow phone needs two seconds; Apache allows twenty to forty, nginx sixty.
HEAD_TIMEOUT_S = 10.0

# Bytes of a whole head. nginx accepts 32 KiB, Go a megabyte. aiohttp only limits each line and
# their number, which together allow 4 MiB.
HEAD_LIMIT = 128 * 1024

# Bytes of a request line or a header. aiohttp accepts 8190; long queries and tokens need more.
FIELD_LIMIT = 32 * 1024

# How long a rejected client may take to read the response, and how many may do so at a time.
LINGER_TIMEOUT_S = 1.0
LINGERING_LIMIT = 128

# How long a draining gate waits for heads in progress, and how often it checks. Otherwise it would
# cut off a client that had just connected, instead of asking it to try again.
DRAIN_HEAD_TIMEOUT_S = 1.0
DRAIN_POLL_INTERVAL_S = 0.02

# How often a client is checked while its connection is not read. A disconnect must be noticed
# within a second.
DISCONNECT_POLL_INTERVAL_S = 0.5

_DISCONNECTED = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR

# The least time between two log lines about the connection limit.
LOG_INTERVAL_S = 60.0

# How many of the longest idle connections one look at all of them finds.
IDLE_BATCH = 100

# After a look that found no idle connection, the next one is due after this many times its
# duration. Otherwise a crowd of new connections would make the gate do nothing else.
IDLE_SEARCH_PAUSE = 20.0


class ConnectionLimiter:
    """Makes room for connections above `limit`, or rejects them with a response.

    Attributes:
        open: how many are open here, and in other processes that share the limit.
        all_connections: those that are open here.
    """

    def __init__(self, limit: int, connections: Count) -> None:
        self.limit = limit
        self.open = connections
        self.all_connections: Callable[[], Iterable[web.RequestHandler]] = tuple
        self._lingering: set[_RejectedConnection] = set()
        self._response = _SerializedRefusal(TooManyConnections(limit))
        self._plain_http = _SerializedRefusal(PlainHttp())
        self._log_again_at = 0.0
        # The longest idle connections and when they became idle; the longest idle one is last.
        self._idle: list[tuple[float, DownstreamConnection]] = []
        self._search_again_at = 0.0

    def __repr__(self) -> str:
        return (
            f"<ConnectionLimiter {self.open.total} of {self.limit}, "
            f"{len(self._lingering)} lingering>"
        )

    def has_room(self) -> bool:
        """Whether a new connection would be admitted."""
        return self.open.total < self.limit or self._has_idle()

    def admit(self) -> bool:
        """Count a new connection, if there is room for it or another one can be closed."""
        self.open.own += 1
        if self.open.total <= self.limit or self.make_room():
            return True
        self.open.own -= 1
        return False

    def make_room(self) -> bool:
        """Close the connection that has been idle longest; returns whether there is one."""
        self._warn()
        if not self._has_idle():
            return False
        _, connection = self._idle.pop()
        transport = connection.transport
        connection.force_close()
        if transport is not None:
            # A client that is gone would not take part in the end of TLS.
            abort(transport)
        return True

    def reject(self, transport: asyncio.Transport) -> None:
        """Respond to a new connection at once, and close it."""
        self._respond(transport, self._response)

    def refuse_plain_http(self, transport: asyncio.Transport) -> None:
        """Respond in plain HTTP to a client that speaks it to a TLS port, and close."""
        self._respond(transport, self._plain_http)

    def _respond(self, transport: asyncio.Transport, response: "_SerializedRefusal") -> None:
        """Write a response and close the connection, once the client has had time to read it."""
        transport.write(response.with_id(new_id()))
        if len(self._lingering) < LINGERING_LIMIT and transport.can_write_eof():
            transport.set_protocol(_RejectedConnection(transport, self._lingering))
        else:
            transport.set_protocol(asyncio.Protocol())
            transport.close()

    def _has_idle(self) -> bool:
        """Whether a connection is idle; the longest idle one is then the last of `_idle`."""
        return self._drop_busy() or self._search()

    def _drop_busy(self) -> bool:
        """Drop from the end of `_idle` those that are no longer idle; returns whether one is."""
        while self._idle:
            idle_since, connection = self._idle[-1]
            is_idle = connection.awaits_request and connection.idle_since == idle_since
            if is_idle and not _has_unread_data(connection.transport):
                return True
            self._idle.pop()
        return False

    def _search(self) -> bool:
        """Look for idle connections among all of them; returns whether one is."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if began < self._search_again_at:
            return False
        idle = (
            (connection.idle_since, connection)
            for connection in self.all_connections()
            if isinstance(connection, DownstreamConnection) and connection.awaits_request
        )
        self._idle = nsmallest(IDLE_BATCH, idle, key=itemgetter(0))[::-1]
        if self._drop_busy():
            return True
        now = loop.time()
        self._search_again_at = now + IDLE_SEARCH_PAUSE * (now - began)
        return False

    def _warn(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._log_again_at:
            self._log_again_at = now + LOG_INTERVAL_S
            logger.warning(
                "connection limit reached: {}; idle connections are closed, and if none is idle, "
                "new ones get 503; raise CONNECTION_LIMIT if this lasts",
                self.limit,
            )


class _RejectedConnection(asyncio.Protocol):
    """Reads and discards a rejected client's request for a moment.

    Closing while the request arrives would send a reset, which may overtake the response.
    """

    def __init__(
        self, transport: asyncio.Transport, lingering: "set[_RejectedConnection]"
    ) -> None:
        self._lingering = lingering
        lingering.add(self)
        # The response may have met a reset.
        with suppress(OSError):
            transport.write_eof()
        loop = asyncio.get_running_loop()
        self._abort = loop.call_later(LINGER_TIMEOUT_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._abort.cancel()
        self._lingering.discard(self)


class DownstreamConnection(ServerConnection):
    """A connection that is subject to a limiter, and whose heads are limited in time and size.

    Its error responses repeat nothing of the request, which may contain a key. While it does not
    read, because a body waits or requests are pipelined, it checks whether the client is still
    connected: a paused transport does not notice a disconnect.
    """

    __slots__ = (
        "_disconnect_timer", "_head_size", "_head_timer", "_limiter", "_lockstep", "_pace",
        "is_own", "looked_up",
    )  # fmt: skip

    def __init__(
        self,
        manager: web.Server,
        *,
        limiter: ConnectionLimiter,
        pace: RequestPace,
        lockstep: Lockstep,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._limiter = limiter
        self._pace = pace
        self._lockstep = lockstep
        self._head_timer: asyncio.TimerHandle | None = None
        self._disconnect_timer: asyncio.TimerHandle | None = None
        # Bytes of the head in progress.
        self._head_size = 0
        # Whether it is one of the gate's own to upstream, and at which version of those that was
        # looked up.
        self.is_own, self.looked_up = False, -1

    @property
    def awaits_head(self) -> bool:
        """Whether a head is in progress, or the connection is new."""
        return self._head_timer is not None

    @property
    def awaits_request(self) -> bool:
        """Whether it is between two requests, or nothing has arrived yet on a new connection."""
        is_silent = self._head_timer is None or not self._head_size
        return self.is_idle and is_silent and self.transport is not None

    @property
    def idle_since(self) -> float:
        """When the latest response ended, or the connection began, on the loop's clock."""
        if self._head_timer is None:
            return super().idle_since
        return self._head_timer.when() - HEAD_TIMEOUT_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self._limiter.admit():
            self._limiter.reject(transport)
            return
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limiter.open.own -= 1
        self._stop_head_timer()
        super().connection_lost(exc)

    def on_head(self) -> None:
        self._stop_head_timer()
        self._head_size = 0
        if self.is_idle:
            self._lockstep.expect(self)

    def on_partial_head(self, data: bytes) -> None:
        self._head_size += len(data)
        if self._head_size > HEAD_LIMIT:
            self._refuse(NotHttp())
        # Empty lines between requests do not start a head (RFC 9112, 2.2).
        elif self._head_timer is None and not self.has_requests and data.strip(b"\r\n"):
            self._start_head_timer()

    def wait_for_turn(self) -> "asyncio.Future[None] | None":
        self._lockstep.arrive(self)
        return self._pace.wait_for_turn()

    def _start_head_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(HEAD_TIMEOUT_S, self._on_head_timeout)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self._head_size:
            message = f"The request's head did not arrive within {HEAD_TIMEOUT_S:g} s."
            self._refuse(RequestTimeout(message))
        else:
            self.force_close()

    def _refuse(self, refusal: Refusal) -> None:
        self._stop_head_timer()
        self.reject(refusal, refusal.status)

    def error_response(
        self, request: web.BaseRequest, error: BaseException | None
    ) -> web.StreamResponse:
        identifier = new_id()
        logger.debug(
            "request rejected: {} from {}", type(error).__name__, request.remote, id=identifier
        )
        if request.writer.output_size:
            raise ConnectionError
        response = _refusal_for(error).response([(ID_HEADER, identifier)])
        response.force_close()
        return response

    def on_reading_paused(self) -> None:
        if self._disconnect_timer is None:
            self._schedule_disconnect_check()

    def _schedule_disconnect_check(self) -> None:
        loop = asyncio.get_running_loop()
        self._disconnect_timer = loop.call_later(
            DISCONNECT_POLL_INTERVAL_S, self._check_disconnect
        )

    def _check_disconnect(self) -> None:
        self._disconnect_timer = None
        if self.transport is None or self.transport.is_reading():
            return
        if _is_disconnected(self.transport):
            abort(self.transport)
        else:
            self._schedule_disconnect_check()


def drain_connections(server: web.Server) -> None:
    """Make upstream's responses say `Connection: close` from now on.

    Otherwise a client, or a proxy in front of the gate, would send its next request here. Idle
    connections stay open: a request may be on its way, and is refused rather than lost. Those of
    health checks stay open too, because no new ones are accepted.
    """
    for connection in server.connections:
        if isinstance(connection, ServerConnection):
            connection.is_draining = True


async def wait_for_heads(server: web.Server, limit_s: float) -> None:
    """Wait for the heads in progress of a server that no longer accepts connections, for a second
    at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(min(limit_s, DRAIN_HEAD_TIMEOUT_S)):
            # An accepted socket becomes a connection only some turns of the loop later.
            await asyncio.sleep(DRAIN_POLL_INTERVAL_S)
            while any(map(_awaits_head, server.connections)):  # noqa: ASYNC110
                await asyncio.sleep(DRAIN_POLL_INTERVAL_S)


def _refusal_for(error: BaseException | None) -> Refusal:
    if isinstance(error, InvalidURLError):
        return InvalidUrl()
    return error if isinstance(error, Refusal) else NotHttp()


def _awaits_head(connection: web.RequestHandler) -> bool:
    return isinstance(connection, DownstreamConnection) and connection.awaits_head


def _is_disconnected(transport: asyncio.Transport) -> bool:
    """Whether the client has closed or reset the connection, according to the kernel."""
    return bool(poll(transport, _DISCONNECTED))


def _has_unread_data(transport: asyncio.Transport | None) -> bool:
    """Whether a request may have arrived that the event loop has not read yet."""
    return transport is not None and poll(transport, select.POLLIN | _DISCONNECTED) == (
        select.POLLIN
    )


class _SerializedRefusal:
    """A refusal's response as bytes, for a connection that aiohttp does not handle."""

    def __init__(self, refusal: Refusal) -> None:
        response = refusal.response([("Connection", "close")])
        assert isinstance(response.body, bytes)
        response.headers["Content-Length"] = str(len(response.body))
        head = [f"HTTP/1.1 {response.status} {response.reason}"]
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        self._before_id = "\r\n".join([*head, f"{ID_HEADER}: "]).encode()
        self._after_id = b"\r\n\r\n" + response.body

    def with_id(self, identifier: str) -> bytes:
        """The response with that id."""
        return self._before_id + identifier.encode() + self._after_id
