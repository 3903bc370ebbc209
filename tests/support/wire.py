"""One end of a connection: every byte received, how it ended, and ways to disturb it.

Unlike asyncio's streams, it keeps data received before a reset, and distinguishes a reset from a
close.
"""

import asyncio
import os
import socket
import ssl
import struct
import time
from typing import Literal, Self
from urllib.parse import urlsplit

from rustygate.system import tls
from rustygate.system.tcp import unacknowledged_bytes
from tests.support.waiting import SOON_S

End = Literal["closed", "reset"]

# SO_LINGER with a time of zero: closing sends a reset (socket(7)).
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Cut(Exception):
    """The connection ended before the expected data was complete."""


class Wire(asyncio.Protocol):
    """One end of a connection.

    Args:
        received: all bytes received so far.
        end: how the other side ended the connection; None while it may still send.
        connected: whether `transport` exists; with TLS, only after the handshake.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.end: End | None = None
        self.connected = False
        self._read_count = 0
        self._changed = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()

    @classmethod
    async def connect(
        cls, url: str, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
    ) -> Self:
        """Connect to a URL's host and port, or to `unix:/path`.

        Args:
            receive_buffer: SO_RCVBUF in bytes; a small one makes a slow reader.
        """
        parts = urlsplit(url)
        is_unix = parts.scheme == "unix"
        sock = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, parts.path if is_unix else (parts.hostname, parts.port))
        name = parts.hostname if tls else None
        _, wire = await loop.create_connection(cls, sock=sock, ssl=tls, server_hostname=name)
        return wire

    # Callbacks of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.connected = True
        transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self.end = "closed"
        self._changed.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.end = "reset" if exc else self.end or "closed"
        self._changed.set()
        self._may_write.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    # Actions.

    def send(self, data: bytes) -> None:
        """Send; data that the other side does not accept yet is buffered."""
        self.transport.write(data)

    async def send_all(self, data: bytes) -> None:
        """Send, and wait until the kernel has taken all of it."""
        self.send(data)
        await self._may_write.wait()

    def wait_until_received(self) -> None:
        """Wait until the other side's system has everything, without a turn of the loop in which
        the other side would read it."""
        end = time.monotonic() + SOON_S
        while unacknowledged_bytes(self.transport):
            assert time.monotonic() < end
            time.sleep(0.001)

    def half_close(self) -> None:
        """Close the sending side and continue to read."""
        self.transport.write_eof()

    def close(self) -> None:
        """Close after everything has been sent."""
        self.transport.close()

    def abort(self) -> None:
        """Close at once, as a process that exits; unsent data is lost."""
        tls.abort(self.transport)

    def reset(self) -> None:
        """Reset the connection, as a crash does."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def end_at_once(self, how: str) -> None:
        """Close or reset the connection within this call, rather than in the loop's next turn."""
        sock = self.transport.get_extra_info("socket")
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()
        # The transport still has a descriptor to close.
        with open(os.devnull, "rb") as null:
            os.dup2(null.fileno(), sock.fileno())

    def discard_read(self) -> None:
        """Forget the bytes that the test has read, to save memory."""
        del self.received[: self._read_count]
        self._read_count = 0

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.transport.resume_reading()

    # Reading and waiting.

    async def read_some(self, most: int | None = None) -> bytes:
        """Wait for data and return what is there, at most `most` bytes; b"" at a clean end.

        Raises `Cut` after a reset.
        """
        while self._read_count == len(self.received):
            if self.end == "reset":
                raise Cut("the connection was reset")
            if self.end is not None:
                return b""
            await self._wait_for_change()
        limit = len(self.received) if most is None else self._read_count + most
        return self._advance(min(limit, len(self.received)))

    async def read_until(self, mark: bytes) -> bytes:
        """Read up to and including `mark`. Raises `Cut`."""
        while (at := self.received.find(mark, self._read_count)) < 0:
            if self.end is not None:
                raise Cut(f"{self.end} before {mark!r}")
            await self._wait_for_change()
        return self._advance(at + len(mark))

    async def ended(self) -> End:
        """Wait until the other side ends the connection, and return how."""
        while self.end is None:
            await self._wait_for_change()
        return self.end

    def _advance(self, end: int) -> bytes:
        data = bytes(self.received[self._read_count : end])
        self._read_count = end
        return data

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
