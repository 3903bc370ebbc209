"""A WebSocket on its way through the gate: two connections, and the bytes between them.

Upstream has agreed before the client is told. From then on each read is written at once, as it
came: messages, pings and close codes survive by construction. `core.frames` follows both
directions, so that Close frames end them in good order, and so that what is not sound stops at
the gate: its sender is told why, the other side that this is the end.

A connection that is lost without a Close frame takes the other with it, without one: a client
can always tell an end from a break. A side that does not take what it is given stops the reading
from the other. There is no read timeout: a WebSocket may be silent.

The two connections are taken over from aiohttp. Its own WebSockets would assemble each message,
inflate and deflate it and mask it anew, and could pass neither a Close frame without a code nor
the body of a refusal.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from secrets import token_bytes
from time import monotonic_ns
from typing import Any

from aiohttp import hdrs, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler

from rustygate.core.headers import Headers, response_headers
from rustygate.core.usage import UsageTotal
from rustygate.core.websocket_frames import (
    GOING_AWAY,
    INTERNAL_ERROR,
    MASK_BYTES,
    MESSAGE_TOO_BIG,
    FrameTracker,
    ProtocolViolation,
    close_frame,
)
from rustygate.core.websocket_handshake import InvalidHandshake, WebSocketHandshake
from rustygate.errors import BadRequest, BodyTooLarge, Draining, UpstreamDisconnected
from rustygate.exchange import Exchange
from rustygate.system.tls import unsent_bytes
from rustygate.upstream.pool import UpstreamResponse

# How long one side's Close frame may wait for the other's.
CLOSE_PATIENCE_S = 10.0

# How long a side that the gate told to leave may take. Were its connection ended at once, what
# it is still sending would be answered by a reset, which may overtake the Close frame.
LINGER_S = 1.0

# How long a side may take to read what it is owed, and how often it is looked whether it has.
FLUSH_PATIENCE_S = 5.0
FLUSH_LOOK_S = 0.02

# What begins the reasons in Close frames of the gate's own.
_SELF = "rustygate: "


async def bridge(
    request: web.Request, answer: UpstreamResponse, exchange: Exchange
) -> web.StreamResponse:
    """Tell the client that upstream agreed, pass what comes until the end, stamp the exchange.

    Raises `UpstreamDisconnected`, before anything went downstream, if what upstream agreed to is
    not what was asked. How it ended otherwise is the exchange's outcome.
    """
    connection = answer.wire
    if connection is None:
        raise _no_agreement()
    headers = _agreement(request, answer) + response_headers(answer.raw_headers)
    headers += exchange.headers()
    response = web.StreamResponse(status=101, headers=headers)
    response.force_close()
    exchange.status = 101
    await response.prepare(request)
    compressed = hdrs.SEC_WEBSOCKET_EXTENSIONS in response.headers
    await _Bridge(request, connection, exchange, compressed).run()
    return response


def _agreement(request: web.Request, answer: UpstreamResponse) -> Headers:
    """The headers that tell the client what was agreed upon."""
    try:
        asked = WebSocketHandshake.from_headers(request.headers.items())
        sent = WebSocketHandshake.from_headers(answer.asked)
        return asked.response_headers(sent, answer.headers.items())
    except (InvalidHandshake, ValueError) as error:
        raise _no_agreement() from error


def _no_agreement() -> UpstreamDisconnected:
    return UpstreamDisconnected("Upstream's 101 does not fit what was asked.", begun=True)


class _Bridge:
    """Two sides that pass to each other what comes, and how they end."""

    def __init__(
        self,
        request: web.Request,
        connection: ResponseHandler,
        exchange: Exchange,
        compressed: bool,
    ) -> None:
        self._exchange = exchange
        self._changed = asyncio.Event()
        self._usage = UsageTotal()
        asked = FrameTracker(masked=True, compressed=compressed)
        told = FrameTracker(masked=False, compressed=compressed, on_text=self._usage.feed)
        self._client = _Downstream(request.protocol, asked, self._changed.set)
        self._upstream = _Upstream(connection, told, self._changed.set)
        self._client.peer, self._upstream.peer = self._upstream, self._client

    async def run(self) -> None:
        """Pass frames until both sides have ended."""
        client, upstream = self._client, self._upstream
        try:
            client.take_over()
            upstream.take_over()
            upstream.catch_up()
            client.catch_up()
            await self._until(lambda: client.over or upstream.over)
            await self._conclude()
        except asyncio.CancelledError:
            if not client.lost:
                self._note("aborted", Draining.reason)
                going = (GOING_AWAY, Draining.reason)
                await self._farewell(going, going)
            raise
        finally:
            cleanly = client.frames.closed and upstream.frames.closed
            client.end(cleanly)
            upstream.end(cleanly)
            self._stamp()

    async def _conclude(self) -> None:
        """One side is over: end the other as it should be."""
        client, upstream = self._client, self._upstream
        if violation := client.frames.violation:
            self._note("aborted", _blame(violation).reason)
            going = (GOING_AWAY, "the client failed")
            await self._farewell((violation.code, violation.message), going)
        elif violation := upstream.frames.violation:
            self._note("aborted", UpstreamDisconnected.reason)
            failed = (INTERNAL_ERROR, f"upstream failed: {violation.message}")
            await self._farewell(failed, (violation.code, violation.message))
        elif client.frames.closed or upstream.frames.closed:
            self._note("ok")
            await self._exchange_closes()
        elif client.lost:
            self._note("client_left")
        else:
            self._note("aborted", UpstreamDisconnected.reason)
            await client.flushed()

    async def _exchange_closes(self) -> None:
        """One side has sent its Close frame: pass the other's."""
        client, upstream = self._client, self._upstream
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_PATIENCE_S):
                await self._until(
                    lambda: client.lost or upstream.lost or (client.over and upstream.over)
                )
        await client.flushed()
        if not client.lost:
            await upstream.flushed()

    async def _farewell(self, to_client: tuple[int, str], to_upstream: tuple[int, str]) -> None:
        """Tell both sides a code and a reason of the gate's own; give them a moment to leave."""
        client, upstream = self._client, self._upstream
        client.dismiss(*to_client)
        upstream.dismiss(*to_upstream)
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._until(lambda: client.gone and upstream.gone)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    def _stamp(self) -> None:
        exchange, total = self._exchange, self._usage.total
        exchange.bytes, exchange.first_byte = self._client.written, self._client.first_at
        if total is not None:
            exchange.tokens_in, exchange.tokens_out = total.tokens_in, total.tokens_out

    def _note(self, outcome: str, reason: str | None = None) -> None:
        self._exchange.outcome, self._exchange.reason = outcome, reason


class _Side(asyncio.Protocol):
    """One of the two connections. What may pass of what it sends is written to its peer.

    `lost`: nothing more will come. `written` counts the bytes it was given since `first_at`.
    """

    peer: "_Side"

    def __init__(
        self, connection: BaseProtocol, frames: FrameTracker, changed: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._changed = changed
        self._dismissed = False
        self.frames = frames
        self.lost = self._transport is None
        self.written = 0
        self.first_at: int | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more of what it sends will pass."""
        return self.lost or self.frames.finished

    @property
    def gone(self) -> bool:
        """Whether it needs no more time to leave."""
        return self.lost or self.frames.closed

    def take_over(self) -> None:
        """Have from now on what comes, in aiohttp's place."""
        if self._transport is not None:
            self._transport.set_protocol(self)
        if self._connection.writing_paused:
            self.pause_writing()

    def catch_up(self) -> None:
        """Have what came since the opening, which aiohttp holds."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Give it what its peer sent."""
        transport = self._open_transport()
        if transport is None:
            return
        if not self.written:
            self.first_at = monotonic_ns()
        self.written += len(data)
        transport.write(data)

    def dismiss(self, code: int, reason: str) -> None:
        """Send a Close frame, if what was written has a place for it, and nothing more."""
        transport = self._open_transport()
        if transport is None:
            return
        self._dismissed = True
        if self.peer.frames.at_boundary and not self.peer.frames.closed:
            transport.write(close_frame(code, _SELF + reason, self._mask()))
        # It may have been reset already.
        with suppress(OSError):
            if transport.can_write_eof():
                transport.write_eof()
        self.go_on_reading()

    def _open_transport(self) -> asyncio.Transport | None:
        """The transport, if there is a sense in writing to it."""
        if self._dismissed or self.lost or self._transport is None or self._transport.is_closing():
            return None
        return self._transport

    def _mask(self) -> bytes:
        """What frames of the gate's own are masked with on this side."""
        return b""

    async def flushed(self) -> None:
        """Wait until what was written has gone out, if that does not take too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_PATIENCE_S):
                # By TLS nobody tells.
                while self._owed():  # noqa: ASYNC110
                    await asyncio.sleep(FLUSH_LOOK_S)

    def _owed(self) -> int:
        return 0 if self.lost or self._transport is None else unsent_bytes(self._transport)

    def stop_reading(self) -> None:
        """Its peer does not take more."""
        self._connection.pause_reading()

    def go_on_reading(self) -> None:
        """Its peer has taken what it was given."""
        self._connection.resume_reading()

    def end(self, cleanly: bool) -> None:
        """End the connection: in good form, which by TLS is more than its end, only if `cleanly`
        and nothing is left."""
        if self._transport is None:
            return
        if cleanly and not self._owed() and not self._transport.is_closing():
            self._transport.close()
        else:
            self._transport.abort()

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:
        passed = self.frames.feed(data)
        if passed:
            self.peer.write(passed)
        if self.frames.finished:
            self._changed()

    def eof_received(self) -> None:
        self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()
        self._connection.connection_lost(exc)
        # Two sides that know each other would wait for the garbage collector.
        del self.peer

    def pause_writing(self) -> None:
        self.peer.stop_reading()

    def resume_writing(self) -> None:
        self.peer.go_on_reading()

    def _lose(self) -> None:
        self.lost = True
        self._changed()

    # What aiohttp calls, while it hands over and when the connection is lost.

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data_received(data)
        return False, b""

    def feed_eof(self) -> None:
        """Known already."""


class _Downstream(_Side):
    """The client's side."""

    _connection: web.RequestHandler

    def catch_up(self) -> None:
        parser: Any = self
        self._connection.set_parser(parser)


class _Upstream(_Side):
    """Upstream's side, on which the gate is the client: frames of its own are masked."""

    _connection: ResponseHandler

    def catch_up(self) -> None:
        self._connection.read_timeout = None
        self._connection.set_parser(self, None)

    def _mask(self) -> bytes:
        return token_bytes(MASK_BYTES)


def _blame(violation: ProtocolViolation) -> type[BadRequest] | type[BodyTooLarge]:
    """What a client's violation is called among the gate's refusals."""
    return BodyTooLarge if violation.code == MESSAGE_TOO_BIG else BadRequest
