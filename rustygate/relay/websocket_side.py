"""One of the two connections of a WebSocket, taken over from aiohttp.

aiohttp's own WebSockets would assemble each message, decompress, recompress and mask it again.
They could pass neither a Close frame without a code nor the body of a refused handshake.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from secrets import token_bytes
from time import monotonic_ns
from typing import Any

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler

from rustygate.core.websocket_frames import MASK_BYTES, PING, FrameTracker, close_frame, frame
from rustygate.system.tls import abort, unsent_bytes

# How long a side may take to read what was written to it, and how often that is checked.
FLUSH_TIMEOUT_S = 5.0
FLUSH_POLL_INTERVAL_S = 0.02

# Why a side is not read: its peer's write buffer is full, or too much of what it sent waits.
PEER_FULL, HELD = 1, 2

# The start of the reason in the gate's own Close frames.
_REASON_PREFIX = "rustygate: "


class Side(asyncio.Protocol):
    """One of the two connections. What it sends is written to its peer, as far as it may pass.

    `lost`: no more data will arrive. `bytes_written` counts the bytes written to this side, from
    `first_written_at` on. `last_read_at`: when it last sent something, on the loop's clock.
    """

    peer: "Side"

    def __init__(
        self, connection: BaseProtocol, frames: FrameTracker, on_change: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._on_change = on_change
        self._close_sent = False
        self._not_read_for = 0
        self._time = asyncio.get_running_loop().time
        self.last_read_at = self._time()
        self.frames = frames
        self.lost = self._transport is None
        self.bytes_written = 0
        self.first_written_at: int | None = None

    @property
    def finished(self) -> bool:
        """Whether no more of what it sends will pass."""
        return self.lost or self.frames.finished

    @property
    def has_closed(self) -> bool:
        """Whether it has disconnected or sent a Close frame."""
        return self.lost or self.frames.closed

    def take_over(self) -> None:
        """Receive what arrives from now on, in place of aiohttp's protocol."""
        if self._transport is not None:
            self._transport.set_protocol(self)
        if self._connection.writing_paused:
            self.pause_writing()

    def take_buffered(self) -> None:
        """Receive what arrived since the handshake, which aiohttp has buffered."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Write what its peer sent."""
        transport = self._writable_transport()
        if transport is None:
            return
        if not self.bytes_written:
            self.first_written_at = monotonic_ns()
        self.bytes_written += len(data)
        transport.write(data)

    def insert(self, message: bytes) -> None:
        """Send a message of the gate's own as soon as the peer's last message
        is complete."""
        if self._writable_transport() is not None and not self.peer.frames.finished:
            written = self.peer.frames.insert(message)
            if written:
                self.write(written)

    def ping(self, payload: bytes) -> None:
        """Send a ping of the gate's own, unless this is in the middle of a frame or the side does
        not read. The pong does not pass."""
        transport = self._writable_transport()
        if transport is None or self._connection.writing_paused or self.frames.finished:
            return
        if self.peer.frames.at_boundary and not self.peer.frames.finished:
            self.frames.expect_pong(payload)
            transport.write(frame(PING, payload, self._new_mask()))

    def send_close(self, code: int, reason: str) -> None:
        """Send a Close frame of the gate's own, if the data so far ends at a frame boundary, and
        nothing after it."""
        transport = self._writable_transport()
        if transport is None:
            return
        self._close_sent = True
        if self.peer.frames.at_boundary and not self.peer.frames.closed:
            transport.write(close_frame(code, _REASON_PREFIX + reason, self._new_mask()))
        # The connection may have been reset already.
        with suppress(OSError):
            if transport.can_write_eof():
                transport.write_eof()
        self.resume_reading(PEER_FULL | HELD)

    def _writable_transport(self) -> asyncio.Transport | None:
        """The transport, unless writing to it is over."""
        transport = self._transport
        if self._close_sent or self.lost or transport is None or transport.is_closing():
            return None
        return transport

    def _new_mask(self) -> bytes:
        """The mask for a frame of the gate's own on this side; empty for none."""
        return b""

    async def flush(self) -> None:
        """Wait until what was written has been sent, for `FLUSH_TIMEOUT_S` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                # With TLS, nothing reports when the bytes have been sent.
                while self._unsent():  # noqa: ASYNC110
                    await asyncio.sleep(FLUSH_POLL_INTERVAL_S)

    def _unsent(self) -> int:
        return 0 if self.lost or self._transport is None else unsent_bytes(self._transport)

    def pause_reading(self, reason: int = PEER_FULL) -> None:
        """Stop reading, for one more reason."""
        self._not_read_for |= reason
        self._connection.pause_reading()

    def resume_reading(self, reason: int = PEER_FULL) -> None:
        """Read again if no other reason is left."""
        if self._not_read_for & reason:
            self._not_read_for &= ~reason
            if not self._not_read_for:
                self._connection.resume_reading()

    def disconnect(self, cleanly: bool) -> None:
        """Close the connection if `cleanly` and nothing is unsent; otherwise abort it. With TLS
        only the former sends a closure alert."""
        if self._transport is None:
            return
        if cleanly and not self._unsent() and not self._transport.is_closing():
            self._transport.close()
        else:
            abort(self._transport)

    # Called by asyncio.

    def data_received(self, data: bytes) -> None:
        self.last_read_at = self._time()
        passed = self.frames.feed(data)
        if passed:
            self.peer.write(passed)
        if self.frames.finished:
            self._on_change()

    def eof_received(self) -> None:
        self._mark_lost()

    def connection_lost(self, exc: Exception | None) -> None:
        self._mark_lost()
        self._connection.connection_lost(exc)
        # Two sides that refer to each other would wait for the garbage collector.
        del self.peer

    def pause_writing(self) -> None:
        self.peer.pause_reading()

    def resume_writing(self) -> None:
        self.peer.resume_reading()

    def _mark_lost(self) -> None:
        self.lost = True
        self._on_change()

    # Called by aiohttp, when it hands over its buffer and when the connection is lost.

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data_received(data)
        return False, b""

    def feed_eof(self) -> None:
        """Do nothing: `eof_received` or `connection_lost` has been called."""


class ClientSide(Side):
    """The connection to the client."""

    _connection: web.RequestHandler

    def take_buffered(self) -> None:
        parser: Any = self
        self._connection.set_parser(parser)


class UpstreamSide(Side):
    """The connection to upstream. The gate is the client on it and masks its own frames."""

    _connection: ResponseHandler

    def take_buffered(self) -> None:
        self._connection.read_timeout = None
        self._connection.set_parser(self, None)

    def _new_mask(self) -> bytes:
        return token_bytes(MASK_BYTES)
