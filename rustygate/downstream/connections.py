"""Connections: how many there may be, how long a client may take to ask, and how much its head
may hold.

What many or slow clients must not use up is what the others need. Slow is who has begun a request
and does not go on, or connected and asks nothing. A connection between two requests is not slow,
nor is one whose request waits or is answered, however long. For bodies see `body`.
"""

import asyncio
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo
from loguru import logger

from rustygate.errors import NotHttp, Refusal, RequestTimeout, TooManyConnections

# From the opening of a connection, or from the first byte of a later request, to its head's end.
# A slow phone needs two seconds; Apache gives twenty to forty, nginx sixty.
HEAD_LIMIT_S = 10.0

# Bytes of a whole head. nginx takes 32 KiB, Go a megabyte; aiohttp limits only each line and
# their number, which together are 4 MiB.
HEAD_LIMIT = 128 * 1024

# How long one that was turned away may take to read why, and how many may at a time.
LINGER_S = 1.0
LINGERING_LIMIT = 128

# How long a gate that drains waits for heads that are under way, and how often it looks. Without,
# who connected a moment before would be cut off instead of told to try again.
HEADWAY_S = 1.0
HEADWAY_LOOK_S = 0.02

# How often it is told that there are too many connections.
TELL_INTERVAL_S = 60.0


class ConnectionLimiter:
    """Turns connections away once there are `limit` of them, with an answer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._turned_away: set[_TurnedAway] = set()
        self._answer = _written(TooManyConnections(limit))
        self._tell_at = 0.0

    def __repr__(self) -> str:
        return f"<ConnectionLimiter for {self.limit}, {len(self._turned_away)} turned away>"

    def turn_away(self, transport: asyncio.Transport) -> None:
        """Answer a new connection at once, and close it."""
        now = asyncio.get_running_loop().time()
        if now >= self._tell_at:
            self._tell_at = now + TELL_INTERVAL_S
            logger.warning("there are CONNECTION_LIMIT={} connections; no more fit in", self.limit)
        transport.write(self._answer)
        if len(self._turned_away) < LINGERING_LIMIT and transport.can_write_eof():
            transport.set_protocol(_TurnedAway(transport, self._turned_away))
        else:
            transport.set_protocol(asyncio.Protocol())
            transport.close()


class _TurnedAway(asyncio.Protocol):
    """Hears a client out that was turned away, for a moment: closing while its request comes
    would be a reset, which may overtake the answer."""

    def __init__(self, transport: asyncio.Transport, among: "set[_TurnedAway]") -> None:
        self._among = among
        among.add(self)
        transport.write_eof()
        loop = asyncio.get_running_loop()
        self._abort = loop.call_later(LINGER_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._abort.cancel()
        self._among.discard(self)


class LimitedConnection(web.RequestHandler):
    """A connection that comes by a door, and whose heads are limited in time and in size."""

    def __init__(self, manager: web.Server, *, door: ConnectionLimiter, **options: Any) -> None:
        super().__init__(manager, **options)
        self._door = door
        self._timer: asyncio.TimerHandle | None = None
        # Whether its parser was ever paused, and so may hold something back.
        self._was_paused = False
        # Bytes of the head that has begun.
        self._head_size = 0
        # How many heads came whole, and the body of the latest: the next head comes behind it.
        self._heads = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        self._refused = False
        # aiohttp forgets a transport that it closes before it is closed.
        self._carrier: asyncio.Transport | None = None

    @property
    def awaits_head(self) -> bool:
        """Whether a head is under way, or has to be since the connection is new."""
        return self._timer is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        assert self._manager is not None
        if len(self._manager._connections) >= self._door.limit:
            self._door.turn_away(transport)
            return
        super().connection_made(transport)
        self._carrier = transport
        self._timer = self._loop.call_later(HEAD_LIMIT_S, self._be_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        self._leave_no_cycles()

    def _leave_no_cycles(self) -> None:
        """What refers to itself stays until the next collection, and these are seldom."""
        # A body refers to its connection, and asyncio's transport to a method of its own.
        self._body = EMPTY_PAYLOAD
        if self._carrier is not None:
            vars(self._carrier).pop("_read_ready_cb", None)
            self._carrier = None

    def _pause_transport_reading(self) -> None:
        self._was_paused = True
        super()._pause_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp says so after each read, and looks each time for what is held back. That may be
        # there long after the pause, for the parser heeds it only with the next bytes.
        if self._was_paused:
            super().resume_reading(resume_parser)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        in_head = self._heads == self._request_count and self._body.is_eof()
        super().data_received(data)
        if self._heads != self._request_count:
            self._stop_timer()
            self._heads, self._head_size = self._request_count, 0
            self._body = self._messages[-1][1] if self._messages else EMPTY_PAYLOAD
        elif in_head and not self._upgraded:
            self._grow_head(data)

    def _grow_head(self, data: bytes) -> None:
        self._head_size += len(data)
        if self._head_size > HEAD_LIMIT:
            self._refuse(NotHttp())
        # Empty lines between requests are none's beginning (RFC 9112, 2.2).
        elif self._timer is None and self._waiter is not None and data.strip(b"\r\n"):
            self._timer = self._loop.call_later(HEAD_LIMIT_S, self._be_late)

    def _be_late(self) -> None:
        self._timer = None
        if self._head_size:
            limit = HEAD_LIMIT_S
            self._refuse(RequestTimeout(f"The request's head did not come within {limit:g} s."))
        else:
            self.force_close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in turn what will not be read further; see `handle_error`."""
        self._refused = True
        self._stop_timer()
        self._messages.append((_ErrInfo(refusal.status, refusal, ""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def wait_for_heads(server: web.Server, limit_s: float) -> None:
    """Wait until no head is under way to a server that accepts no more, but not for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(min(limit_s, HEADWAY_S)):
            # What was accepted last is a connection only some turns of the loop later.
            await asyncio.sleep(HEADWAY_LOOK_S)
            while any(_awaits_head(each) for each in server._connections):  # noqa: ASYNC110
                await asyncio.sleep(HEADWAY_LOOK_S)


def _awaits_head(connection: web.RequestHandler) -> bool:
    return isinstance(connection, LimitedConnection) and connection.awaits_head


def _written(refusal: Refusal) -> bytes:
    """A refusal as the bytes of an answer."""
    response = refusal.response([("Connection", "close")])
    assert isinstance(response.body, bytes)
    response.headers["Content-Length"] = str(len(response.body))
    head = [f"HTTP/1.1 {response.status} {response.reason}"]
    head += [f"{name}: {value}" for name, value in response.headers.items()]
    return "\r\n".join([*head, "", ""]).encode() + response.body
