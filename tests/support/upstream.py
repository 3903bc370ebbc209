"""A scripted upstream: it records every byte received and sends exactly the given responses."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rustygate.system import tls
from tests.support.certificates import Authority
from tests.support.http import BodyReader, Head, read_head
from tests.support.waiting import SOON_S, soon, until, within
from tests.support.wire import Cut, End, Wire

# The response to a call: its bytes, or a function that makes them.
Reply = bytes | Callable[["Call"], bytes]


class Call:
    """A request received by upstream, and ways to respond. Everything awaited has a time limit."""

    def __init__(self, wire: Wire, head: Head) -> None:
        self.wire = wire
        self.head = head
        self.body = BodyReader(wire, head)
        self.done = asyncio.Event()

    @property
    def target(self) -> str:
        return self.head.start.split(" ")[1]

    async def read_rest(self) -> bytes:
        """Read the rest of the request's body."""
        async with soon():
            return await self.body.read_rest()

    async def expect_body(self, expected: bytes) -> None:
        async with soon():
            assert await self.body.read_exactly(len(expected)) == expected

    def send(self, *data: bytes) -> None:
        """Send a part of the response."""
        self.wire.send(b"".join(data))

    async def respond(self, *data: bytes) -> None:
        """Read the request's body, send the complete response, and accept the next request."""
        await self.read_rest()
        self.send(*data)
        self.done.set()

    def close(self) -> None:
        self.wire.close()

    def reset(self) -> None:
        self.wire.reset()

    async def ended(self, limit_s: float | None = None) -> End:
        """Wait until the gate has ended the connection."""
        async with within(limit_s or SOON_S):
            return await self.wire.ended()


class Upstream:
    """A scripted upstream on loopback.

    Args:
        reply: the response to every request. If None, requests wait until a test takes them with
            `call`.
        calls: all requests received.
        wires: all connections accepted.
    """

    def __init__(self, *, send_buffer: int | None = None, port: int = 0) -> None:
        self.calls: list[Call] = []
        self.wires: list[Wire] = []
        self.reply: Reply | None = None
        self._pending: asyncio.Queue[Call] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        # Keeps the port while this upstream refuses connections. Otherwise another test might get
        # it, and receive the requests that a gate still sends there.
        self._bound = loopback_socket(port)
        self._socket = loopback_socket(self.port)
        if send_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return url_of(self._bound)

    @property
    def port(self) -> int:
        port: int = self._bound.getsockname()[1]
        return port

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen. Until then, connections to the same address are refused."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._accept, sock=self._socket, backlog=1024, ssl=tls
        )

    def stop_listening(self) -> None:
        """Refuse new connections."""
        if self._server is not None:
            self._server.close()
        self._socket.close()

    async def stop(self) -> None:
        """Close everything."""
        self.stop_listening()
        self._bound.close()
        for wire in self.wires:
            if wire.connected:
                tls.abort(wire.transport)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def call(self) -> Call:
        """The next request that was not taken yet."""
        async with soon():
            return await self._pending.get()

    async def connected(self, count: int) -> None:
        """Wait until this many connections have been accepted."""
        await until(lambda: len(self.wires) >= count)

    def _accept(self) -> Wire:
        wire = Wire()
        self.wires.append(wire)
        task = asyncio.get_running_loop().create_task(self._serve(wire), name="upstream")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return wire

    async def _serve(self, wire: Wire) -> None:
        while True:
            try:
                call = Call(wire, await read_head(wire))
            except Cut:
                wire.close()
                return
            self.calls.append(call)
            if self.reply is None:
                self._pending.put_nowait(call)
            else:
                await call.respond(self.reply(call) if callable(self.reply) else self.reply)
            await call.done.wait()


def loopback_socket(port: int = 0) -> socket.socket:
    """A bound socket whose address refuses connections until it listens."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def url_of(sock: socket.socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}/v1"


@asynccontextmanager
async def tls_upstream(authority: Authority) -> AsyncIterator[Upstream]:
    """A listening upstream that speaks TLS."""
    upstream = Upstream()
    await upstream.start(authority.server_context("127.0.0.1"))
    try:
        yield upstream
    finally:
        await upstream.stop()


def url_with_tls(upstream: Upstream) -> str:
    return upstream.url.replace("http:", "https:")
