"""Relays a WebSocket: two connections, and the bytes between them.

Upstream accepts the handshake before the client gets a response. From then on each read is
written at once, unchanged, so messages, pings and close codes pass as they are.
`core.websocket_frames` follows both directions. That way Close frames end both connections in
order, and a protocol violation stops at the gate: its sender gets the reason, and the other side
a Close frame.

A connection that is lost without a Close frame takes the other with it, also without one, so a
client can always tell a clean end from a cut. While a side does not read, the gate does not read
from the other. There is no read timeout: a WebSocket may be silent.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from aiohttp import hdrs, web
from aiohttp.client_proto import ResponseHandler

from rustygate.aiohttp_internals.response import HandshakeResponse
from rustygate.core.clients import Client
from rustygate.core.headers import Headers, headers_in
from rustygate.core.websocket_compression import keeps_context
from rustygate.core.websocket_frames import (
    GOING_AWAY,
    INTERNAL_ERROR,
    MESSAGE_TOO_BIG,
    FrameTracker,
    ProtocolViolation,
)
from rustygate.core.websocket_handshake import (
    SWITCHING_PROTOCOLS,
    InvalidHandshake,
    WebSocketHandshake,
)
from rustygate.errors import BadRequest, BodyTooLarge, Draining, UpstreamDisconnected
from rustygate.exchange import Exchange
from rustygate.relay.websocket_pings import Pinger
from rustygate.relay.websocket_side import ClientSide, UpstreamSide
from rustygate.relay.websocket_turns import TurnServices, WebSocketTurns
from rustygate.upstream.response import UpstreamResponse

# How long the gate waits for the Close frame that responds to one side's Close frame.
CLOSE_TIMEOUT_S = 10.0

# How long the turns in flight may take to end once the client has sent its Close frame. It does
# not wait for them, and their slots must be free within a second.
TURNS_TIMEOUT_S = 0.5

# How long a side may take to disconnect after a Close frame of the gate's own. If the gate closed
# the connection at once, data still arriving would cause a reset, which may overtake the frame.
DISCONNECT_TIMEOUT_S = 1.0


async def relay_websocket(
    request: web.Request,
    upstream_response: UpstreamResponse,
    exchange: Exchange,
    client: Client | None,
    services: TurnServices,
) -> web.StreamResponse:
    """Accept the client's handshake, relay both directions until the end, stamp the exchange.

    Raises `UpstreamDisconnected`, before anything was sent downstream, if upstream's 101 does not
    match the handshake. Any later end is the exchange's outcome.
    """
    connection = upstream_response.connection
    if connection is None:
        raise _mismatch()
    headers = _handshake_headers(request, upstream_response)
    headers += headers_in(upstream_response.forwarded_headers().lines) + exchange.headers()
    response = HandshakeResponse(status=SWITCHING_PROTOCOLS, headers=headers)
    response.force_close()
    exchange.status = SWITCHING_PROTOCOLS
    await response.prepare(request)
    # Only compression is ever negotiated.
    compression = response.headers.get(hdrs.SEC_WEBSOCKET_EXTENSIONS)
    turns = WebSocketTurns(
        services,
        request,
        exchange,
        client,
        keeps_context=keeps_context(compression or "", "client"),
    )
    interval_s = services.settings.sse_keepalive_interval
    await _WebSocketRelay(request, connection, exchange, turns, compression).run(interval_s)
    return response


def _handshake_headers(request: web.Request, upstream_response: UpstreamResponse) -> Headers:
    """The headers that complete the client's handshake."""
    try:
        received = WebSocketHandshake.from_headers(request.headers.items())
        sent = WebSocketHandshake.from_headers(headers_in(upstream_response.request_headers))
        return received.response_headers(sent, upstream_response.headers.items())
    except (InvalidHandshake, ValueError) as error:
        raise _mismatch() from error


def _mismatch() -> UpstreamDisconnected:
    message = "Upstream's 101 response does not match the WebSocket handshake."
    return UpstreamDisconnected(message, started=True)


class _WebSocketRelay:
    """The two sides of one WebSocket, and how they end."""

    def __init__(
        self,
        request: web.Request,
        connection: ResponseHandler,
        exchange: Exchange,
        turns: WebSocketTurns,
        compression: str | None,
    ) -> None:
        self._exchange = exchange
        self._turns = turns
        self._changed = asyncio.Event()
        client_frames = FrameTracker(
            masked=True,
            compressed=compression is not None,
            observer=turns.from_client,
            keeps_context=keeps_context(compression or "", "client"),
        )
        upstream_frames = FrameTracker(
            masked=False,
            compressed=compression is not None,
            observer=turns.from_upstream,
            keeps_context=keeps_context(compression or "", "server"),
        )
        self._client = ClientSide(request.protocol, client_frames, self._on_change)
        self._upstream = UpstreamSide(connection, upstream_frames, self._on_change)
        self._client.peer, self._upstream.peer = self._upstream, self._client
        turns.client, turns.upstream = self._client, self._upstream

    async def run(self, ping_interval_s: float) -> None:
        """Relay until both sides have ended."""
        try:
            with self._pings(ping_interval_s):
                await self._relay()
        finally:
            await self._turns.finish(*self._turn_outcome())

    @contextmanager
    def _pings(self, interval_s: float) -> Iterator[None]:
        sides = (self._client, self._upstream) if interval_s else ()
        pingers = [Pinger(side, interval_s) for side in sides]
        try:
            yield
        finally:
            for pinger in pingers:
                pinger.stop()

    async def _relay(self) -> None:
        client, upstream = self._client, self._upstream
        try:
            client.take_over()
            upstream.take_over()
            upstream.take_buffered()
            client.take_buffered()
            await self._wait_until(lambda: client.finished or upstream.finished)
            await self._end()
        except asyncio.CancelledError:
            if not client.lost:
                self._stamp_outcome("aborted", Draining.reason)
                going_away = (GOING_AWAY, Draining.reason)
                await self._close_both(going_away, going_away)
            raise
        finally:
            cleanly = client.frames.closed and upstream.frames.closed
            client.disconnect(cleanly)
            upstream.disconnect(cleanly)
            self._stamp_totals()

    def _on_change(self) -> None:
        """A side has finished or was lost."""
        self._changed.set()
        if self._client.finished or self._upstream.finished:
            self._turns.stop(*self._turn_outcome())

    def _turn_outcome(self) -> tuple[str, str | None]:
        """The outcome of a turn that has not ended with the WebSocket."""
        exchange = self._exchange
        if exchange.outcome not in (None, "ok"):
            return exchange.outcome or "", exchange.reason
        if self._client.has_closed:
            return "client_left", None
        return "aborted", UpstreamDisconnected.reason

    async def _end(self) -> None:
        """One side has finished: end the other accordingly."""
        client, upstream = self._client, self._upstream
        if violation := client.frames.violation:
            self._stamp_outcome("aborted", _refusal_for(violation).reason)
            going_away = (GOING_AWAY, "the client failed")
            await self._close_both((violation.code, violation.message), going_away)
        elif violation := upstream.frames.violation:
            self._stamp_outcome("aborted", UpstreamDisconnected.reason)
            failed = (INTERNAL_ERROR, f"upstream failed: {violation.message}")
            await self._close_both(failed, (violation.code, violation.message))
        elif client.frames.closed or upstream.frames.closed:
            self._stamp_outcome("ok")
            await self._await_close()
        elif client.lost:
            self._stamp_outcome("client_left")
        else:
            self._stamp_outcome("aborted", UpstreamDisconnected.reason)
            await client.flush()

    async def _await_close(self) -> None:
        """One side has sent its Close frame: pass on the one that responds to it."""
        client, upstream = self._client, self._upstream
        if not upstream.frames.closed:
            await self._wait_for_the_end(TURNS_TIMEOUT_S)
        await self._turns.finish(*self._turn_outcome())
        await self._wait_for_the_end(CLOSE_TIMEOUT_S)
        await client.flush()
        if not client.lost:
            await upstream.flush()

    async def _wait_for_the_end(self, limit_s: float) -> None:
        """Wait until both sides have sent their last, or one is lost."""
        client, upstream = self._client, self._upstream
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._wait_until(
                    lambda: client.lost or upstream.lost or (client.finished and upstream.finished)
                )

    async def _close_both(self, to_client: tuple[int, str], to_upstream: tuple[int, str]) -> None:
        """Send both sides a Close frame of the gate's own, and give them time to disconnect."""
        client, upstream = self._client, self._upstream
        client.send_close(*to_client)
        upstream.send_close(*to_upstream)
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
                await self._wait_until(lambda: client.has_closed and upstream.has_closed)

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _stamp_totals(self) -> None:
        self._exchange.bytes = self._client.bytes_written
        self._exchange.first_byte = self._client.first_written_at

    def _stamp_outcome(self, outcome: str, reason: str | None = None) -> None:
        self._exchange.outcome, self._exchange.reason = outcome, reason


def _refusal_for(violation: ProtocolViolation) -> type[BadRequest] | type[BodyTooLarge]:
    """The refusal that stands for a client's violation in logs and metrics."""
    return BodyTooLarge if violation.code == MESSAGE_TOO_BIG else BadRequest
