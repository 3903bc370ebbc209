"""A gate process with its upstream and clients, and healthy streams through it."""

import asyncio
import json
import os
import signal
import socket
from collections import Counter, defaultdict
from collections.abc import (
    AsyncIterator,
    Collection,
)
from contextlib import asynccontextmanager, suppress
from threading import Thread
from typing import Any, NamedTuple

from rustygate.core.clients import hash_key
from tests.support.client import Client
from tests.support.http import (
    CLIENT_KEY,
    EVENT_STREAM,
    LAST_CHUNK,
    chunk,
    post,
)
from tests.support.metrics import Scrape, scrape_request
from tests.support.process import Process
from tests.support.upstream import Call, Upstream
from tests.support.waiting import soon, until
from tests.support.wire import Wire

STREAMS = 100

# How often a healthy stream says something, and after what silence upstream is given up.
EVENT_EVERY_S, SILENCE_S = 0.25, 4

# So many units, and as good as no refill: none is taken or given back unseen.
BURST = 1_000_000

# Has one exchange in flight at a time, and the class of waiters to itself.
NARROW_KEY = "rg-narrow"
CLIENTS = f"""
[client.healthy]
key_sha256 = "{hash_key(CLIENT_KEY)}"
[client.narrow]
key_sha256 = "{hash_key(NARROW_KEY)}"
priority = "batch"
concurrency = 1
"""
SETTINGS = {
    "OPENAI_API_KEY": "sk-matrix",
    "RUST_LOG": "info",
    "LOG_FORMAT": "json",
    "RATE_LIMIT": "0.00001",
    "RATE_LIMIT_BURST": str(BURST),
    "MAX_BODY_SIZE": "100000",
    "UPSTREAM_READ_TIMEOUT": str(SILENCE_S),
    "SSE_KEEPALIVE_INTERVAL": "0",
}

FIRST = b"data: first\n\n"


class Ends(NamedTuple):
    """How an exchange's line says that it ended."""

    outcome: str
    status: int | None = None
    reason: str | None = None
    attempts: int = 1

    @classmethod
    def of(cls, line: dict[str, Any]) -> "Ends":
        return cls(line["outcome"], line["status"], line.get("reason"), line["attempts"])


Endings = Counter[Ends]


# What stands round the gate.


class Running:
    """A gate, and what it has logged so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.url: str = process.wait_for_line(process.stderr, r'"url":"([^"]+)"')[1]
        self.lines: list[dict[str, Any]] = []
        self._reader = Thread(target=self._read)
        self._reader.start()

    @property
    def exchanges(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == "exchange"]

    @property
    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def says(self, message: str) -> None:
        await until(lambda: any(message == line["message"] for line in self.lines))

    async def exit_code(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = await asyncio.to_thread(self.process.exit_code)
        self._reader.join()
        return code

    def end(self) -> None:
        self.process.signal(signal.SIGKILL)
        self._reader.join()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(json.loads(line))


class Fickle(Upstream):
    """An upstream that can be made to refuse connections, or to break them at once."""

    breaks = False

    def __init__(self) -> None:
        super().__init__()
        # Inherited by what it accepts, so that the address can be had again beside those.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        assert self._server is not None
        address = self._socket.getsockname()
        self._server.close()
        yield
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(address)
        await self.start()

    def _accept(self) -> Wire:
        return _Broken() if self.breaks else super()._accept()


class _Broken(Wire):
    """Closed, for a reset might come before the other side knows that it is connected."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.close()


class Stage:
    """A gate's upstream, whose calls are had by their targets, and its clients."""

    def __init__(self) -> None:
        self.upstream = Fickle()
        self.running: Running
        self._calls: defaultdict[str, asyncio.Queue[Call]] = defaultdict(asyncio.Queue)
        self._clients: list[Client] = []

    async def sort_calls(self) -> None:
        while True:
            with suppress(TimeoutError):
                call = await self.upstream.call()
                self._calls[call.target].put_nowait(call)

    async def call(self, target: str) -> Call:
        """The next request for a target that nobody took yet."""
        async with soon():
            return await self._calls[target].get()

    async def send(self, *data: bytes) -> Client:
        """Send bytes to the gate over a new connection."""
        client = Client(await Wire.connect(self.running.url))
        self._clients.append(client)
        client.send(*data)
        return client

    async def shown(self) -> Scrape:
        client = await self.send(scrape_request("Connection: close"))
        shown = Scrape((await client.response()).body)
        await client.ended()
        client.disconnect()
        return shown

    async def wait_until(self, name: str, count: int, **labels: str) -> Scrape:
        """Scrape until a metric says so."""
        async with soon():
            while (shown := await self.shown()).sum(name, **labels) != count:
                pass
        return shown

    async def waits(self, count: int) -> None:
        """Until so many narrow exchanges wait."""
        await self.wait_until("rustygate_waiters", count, **{"class": "batch"})

    def hang_up(self, busy: Collection[Wire] = ()) -> None:
        """End upstream's connections but those that are busy."""
        for wire in self.upstream.wires:
            if wire.connected and wire not in busy:
                wire.close()

    def disconnect(self) -> None:
        for client in self._clients:
            client.disconnect()


class Healthy:
    """Streams that say something all the while, until they come to their good end."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._over = asyncio.Event()
        self._streams: list[asyncio.Task[None]] = []
        self.clients: list[Client] = []
        self.calls: list[Call] = []

    @property
    def expected(self) -> dict[str, Endings]:
        return {call.target: Counter([Ends("ok", 200)]) for call in self.calls}

    @property
    def wires(self) -> set[Wire]:
        return {call.wire for call in self.calls}

    async def end(self) -> None:
        """Let all end; each must have come whole."""
        self._over.set()
        await asyncio.gather(*self._streams)

    async def stop(self) -> None:
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

    async def begin(self, target: str) -> None:
        client = await self._stage.send(post(b'{"stream": true}', target=target))
        call = await self._stage.call(target)
        call.send(EVENT_STREAM, chunk(FIRST))
        assert (await client.head()).status == 200
        self.clients.append(client)
        self.calls.append(call)
        self._streams.append(asyncio.create_task(self._go_on(client, call)))

    async def _go_on(self, client: Client, call: Call) -> None:
        said = [FIRST]
        while not self._over.is_set():
            said.append(b"data: %d\n\n" % len(said))
            call.send(chunk(said[-1]))
            with suppress(TimeoutError):
                async with asyncio.timeout(EVENT_EVERY_S):
                    await self._over.wait()
        call.send(LAST_CHUNK)
        assert await client.read_rest() == b"".join(said)
        call.done.set()
