"""One end of a connection: every byte that came, how it ended, and what can be done to it.

Unlike asyncio's streams it keeps what came before a reset, and tells a reset from an end.
"""

import asyncio
import socket
import ssl
import struct
from typing import Literal, Self
from urllib.parse import urlsplit

End = Literal["closed", "reset"]

# SO_LINGER switched on with no time: closing sends a reset (socket(7)).
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Cut(Exception):
    """The connection ended before what was awaited was whole."""


class Wire(asyncio.Protocol):
    """A connection's end.

    `received` is all that ever came; `end` is None while the other side may still send;
    `connected` says that there was a `transport`, which by TLS takes a handshake.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.end: End | None = None
        self.connected = False
        self._taken = 0
        self._changed = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()

    @classmethod
    async def connect(
        cls, url: str, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
    ) -> Self:
        """Connect to a URL's host and port, or to `unix:/path`; a small `receive_buffer` makes a
        slow reader."""
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

    # What asyncio calls.

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

    # What a test does.

    def send(self, data: bytes) -> None:
        """Send, or leave to be sent what the other side does not take yet."""
        self.transport.write(data)

    async def send_all(self, data: bytes) -> None:
        """Send, and wait until all of it has left for the kernel."""
        self.send(data)
        await self._may_write.wait()

    def half_close(self) -> None:
        """Send an end and go on reading."""
        self.transport.write_eof()

    def close(self) -> None:
        """Close once everything has been sent."""
        self.transport.close()

    def reset(self) -> None:
        """Break the connection, as a crash does."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    def discard_read(self) -> None:
        """Keep nothing of what a test has taken: it may be too much."""
        del self.received[: self._taken]
        self._taken = 0

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.transport.resume_reading()

    # What a test waits for.

    async def read_some(self, most: int | None = None) -> bytes:
        """The bytes at hand, waiting for the first of them; none at a clean end. Raises `Cut`
        after a reset."""
        while self._taken == len(self.received):
            if self.end == "reset":
                raise Cut("the connection was reset")
            if self.end is not None:
                return b""
            await self._wait_for_change()
        limit = len(self.received) if most is None else self._taken + most
        return self._take(min(limit, len(self.received)))

    async def read_until(self, mark: bytes) -> bytes:
        """All bytes up to and with `mark`. Raises `Cut`."""
        while (at := self.received.find(mark, self._taken)) < 0:
            if self.end is not None:
                raise Cut(f"{self.end} before {mark!r}")
            await self._wait_for_change()
        return self._take(at + len(mark))

    async def ended(self) -> End:
        """How the other side ended the connection."""
        while self.end is None:
            await self._wait_for_change()
        return self.end

    def _take(self, end: int) -> bytes:
        taken = bytes(self.received[self._taken : end])
        self._taken = end
        return taken

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
