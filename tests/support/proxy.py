"""A forward proxy on loopback that records its requests, and forwards or refuses them."""

import asyncio
import ssl
from contextlib import suppress

from tests.support.http import Head
from tests.support.upstream import loopback_socket

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Proxy:
    """Forwards CONNECT tunnels (RFC 9110, 9.3.6) and absolute-form requests, whatever their host,
    to one loopback port.

    Args:
        heads: the request heads received.
        reply: sent instead of forwarding, if set; then the connection is closed.
    """

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.reply: bytes | None = None
        self._port = 0
        self._socket = loopback_socket()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    async def start(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen, and forward to `port`. Until then connections are refused."""
        self._port = port
        self._server = await asyncio.start_server(self._serve, sock=self._socket, ssl=tls)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = Head(await reader.readuntil(b"\r\n\r\n"))
            self.heads.append(head)
            if self.reply is None:
                await self._connect(head, reader, writer)
            else:
                writer.write(self.reply)
        writer.close()

    async def _connect(
        self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(upstream_writer)
        if head.start.startswith("CONNECT "):
            writer.write(CONNECTED)
        else:
            upstream_writer.write(_to_origin_form(head))
        await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))


def _to_origin_form(head: Head) -> bytes:
    """An absolute-form request head, as a proxy forwards it."""
    method, target, version = head.start.split(" ")
    path = target.split("/", 3)[3]
    lines = [line for line in head.lines if not line.lower().startswith("proxy-")]
    return "\r\n".join([f"{method} /{path} {version}", *lines, "", ""]).encode("latin-1")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
