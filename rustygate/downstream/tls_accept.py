"""Accepting connections on a TLS port: TLS starts, and plain HTTP gets a response.

A client that speaks plain HTTP to a TLS port would see its connection closed without a reason. So
the first byte is inspected before TLS starts, and left in the socket for TLS to read: asyncio
cannot start TLS with bytes that were already read.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from rustygate.system.background import start_task
from rustygate.system.tls import ServerCertificate

# How long a client may take to send the first byte, how long a TLS handshake may take, and how
# long the end of TLS. A slow phone needs two seconds; asyncio allows 60 and 30.
TLS_TIMEOUT_S = 10.0

ProtocolFactory = Callable[[], asyncio.Protocol]


class TlsAcceptor:
    """A factory of protocols for a plain listener, which serves HTTPS with another factory's.

    Args:
        protocol_factory: makes the protocols of connections on which TLS has started.
        respond_to_plain_http: called with the transport of a client that does not speak TLS.
        limit: the most connections on which TLS has not started. Above it, the oldest is closed,
            first of those that have sent nothing.
    """

    def __init__(
        self,
        certificate: ServerCertificate,
        protocol_factory: ProtocolFactory,
        respond_to_plain_http: Callable[[asyncio.Transport], None],
        limit: int,
    ) -> None:
        self.certificate = certificate
        self.limit = limit
        self.protocol_factory = protocol_factory
        self.respond_to_plain_http = respond_to_plain_http
        # Connections before their first byte, and tasks of handshakes, the oldest first.
        self.accepted: dict[_AcceptedConnection, None] = {}
        self.handshakes: dict[asyncio.Task[None], None] = {}

    def __call__(self) -> asyncio.Protocol:
        return _AcceptedConnection(self)

    def abort(self) -> None:
        """Abort the connections on which TLS has not started yet."""
        for connection in list(self.accepted):
            connection.abort()
        for handshake in self.handshakes:
            handshake.cancel()

    def add(self, newcomer: "_AcceptedConnection") -> None:
        """Count a connection, and close another one if there are too many."""
        self.accepted[newcomer] = None
        if len(self.accepted) + len(self.handshakes) <= self.limit:
            return
        oldest = next(iter(self.accepted))
        if oldest is not newcomer:
            oldest.abort()
        else:
            handshake = next(iter(self.handshakes))
            del self.handshakes[handshake]
            handshake.cancel()

    def start_tls(self, transport: asyncio.Transport) -> None:
        """Start TLS on a connection, and hand it to a protocol."""
        handshake = start_task("starting TLS", self._start_tls(transport))
        self.handshakes[handshake] = None
        handshake.add_done_callback(lambda done: self.handshakes.pop(done, None))

    async def _start_tls(self, transport: asyncio.Transport) -> None:
        early = _EarlyData()
        # asyncio has closed the connection of a failed handshake.
        with suppress(OSError):
            secure = await asyncio.get_running_loop().start_tls(
                transport,
                early,
                self.certificate.context,
                server_side=True,
                ssl_handshake_timeout=TLS_TIMEOUT_S,
                ssl_shutdown_timeout=TLS_TIMEOUT_S,
            )
            if secure is not None and not early.lost and not secure.is_closing():
                early.hand_over(secure, self.protocol_factory())


class _AcceptedConnection(asyncio.Protocol):
    """A connection before its first byte. It is not read, but watched through a duplicate of its
    socket: asyncio's own socket cannot be watched by others."""

    def __init__(self, acceptor: TlsAcceptor) -> None:
        self._acceptor = acceptor

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        descriptor = os.dup(transport.get_extra_info("socket").fileno())
        self._socket = socket.socket(fileno=descriptor)
        loop = asyncio.get_running_loop()
        # Early Python 3.11 begins to read after this call, even if reading is paused here. The
        # pause follows that, and comes before the next events.
        loop.call_soon(transport.pause_reading)
        loop.add_reader(self._socket, self._on_first_byte)
        self._timer = loop.call_later(TLS_TIMEOUT_S, self.abort)
        self._acceptor.add(self)

    def abort(self) -> None:
        """Abort the connection."""
        self._stop_watching()
        self._transport.abort()

    def _on_first_byte(self) -> None:
        try:
            first = self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        self._stop_watching()
        if not first:
            self._transport.abort()
        elif first.isalpha() or first in b"\r\n":
            # A method, or an empty line before it (RFC 9112, 2.2). TLS begins with 0x16 (RFC 8446,
            # 5.1).
            self._acceptor.respond_to_plain_http(self._transport)
            self._transport.resume_reading()
        else:
            self._acceptor.start_tls(self._transport)

    def _stop_watching(self) -> None:
        if self in self._acceptor.accepted:
            del self._acceptor.accepted[self]
            self._timer.cancel()
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()


class _EarlyData(asyncio.Protocol):
    """Holds what arrives between the end of a handshake and the protocol that handles it."""

    def __init__(self) -> None:
        self.lost = False
        self._data: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self._data.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def hand_over(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        """Let `protocol` handle the connection, and what arrived on it."""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        for data in self._data:
            protocol.data_received(data)
