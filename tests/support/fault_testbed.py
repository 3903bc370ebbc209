"""A gate process with its upstream and clients, and healthy streams through it."""

import asyncio
import json
import os
import signal
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
from tests.support.upstream import Call, Upstream, loopback_socket
from tests.support.waiting import soon, until
from tests.support.wire import Wire

STREAMS = 100

# The interval of a healthy stream's events, and UPSTREAM_READ_TIMEOUT.
EVENT_INTERVAL_S, READ_TIMEOUT_S = 0.5, 8

# The burst, with practically no refill, so that every unit taken or given back can be counted.
BURST = 1_000_000

# A client with one exchange in flight at a time, and a priority class of its own.
LIMITED_KEY = "rg-limited"
CLIENTS = f"""
[client.healthy]
key_sha256 = "{hash_key(CLIENT_KEY)}"
[client.limited]
key_sha256 = "{hash_key(LIMITED_KEY)}"
priority = "batch"
concurrency = 1
"""
SETTINGS = {
    "OPENAI_API_KEY": "sk-matrix",
    "RUST_LOG": "info",
    "LOG_FORMAT": "json",
    "RATE_LIMIT": "0.00001",
    "RATE_LIMIT_BURST": str(BURST),
    "MAX_BUFFERED_BODY": "10000",
    "MAX_BODY_SIZE": "100000",
    "UPSTREAM_READ_TIMEOUT": str(READ_TIMEOUT_S),
    "UPSTREAM_CONNECT_TIMEOUT": "1",
    "SSE_KEEPALIVE_INTERVAL": "0",
}

FIRST = b"data: first\n\n"


class Outcome(NamedTuple):
    """How an exchange ended, according to its log line."""

    outcome: str
    status: int | None = None
    reason: str | None = None
    attempts: int = 1

    @classmethod
    def of(cls, line: dict[str, Any]) -> "Outcome":
        return cls(line["outcome"], line["status"], line.get("reason"), line["attempts"])


Outcomes = Counter[Outcome]


# The gate and its surroundings.


class GateProcess:
    """A gate process, and the lines it has logged."""

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

    async def wait_for_log(self, message: str) -> None:
        """Wait for a line whose message starts like this."""
        await until(lambda: any(line["message"].startswith(message) for line in self.lines))

    async def exit_code(self) -> int:
        """Its exit code, once it has ended."""
        code = await asyncio.to_thread(self.process.exit_code)
        self._reader.join()
        return code

    def kill(self) -> None:
        self.process.signal(signal.SIGKILL)
        self._reader.join()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(json.loads(line))


class UnreliableUpstream(Upstream):
    """An upstream that can refuse connections, or close them at once."""

    closes_connections = False

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        self.stop_listening()
        yield
        self._socket = loopback_socket(self.port)
        await self.start()

    def _accept(self) -> Wire:
        return _ClosedWire() if self.closes_connections else super()._accept()


class _ClosedWire(Wire):
    """Closed at once, not reset: a reset may arrive before the gate knows it is connected."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.close()


class FaultTestbed:
    """A gate with its clients and its upstream, whose calls are sorted by target."""

    def __init__(self) -> None:
        self.upstream = UnreliableUpstream()
        self.running: GateProcess
        self._calls: defaultdict[str, asyncio.Queue[Call]] = defaultdict(asyncio.Queue)
        self._clients: list[Client] = []

    async def sort_calls(self) -> None:
        while True:
            with suppress(TimeoutError):
                call = await self.upstream.call()
                self._calls[call.target].put_nowait(call)

    async def call(self, target: str) -> Call:
        """The next request for a target that was not taken yet."""
        async with soon():
            return await self._calls[target].get()

    async def send(self, *data: bytes) -> Client:
        """Send bytes to the gate over a new connection."""
        client = Client(await Wire.connect(self.running.url))
        self._clients.append(client)
        client.send(*data)
        return client

    async def scrape(self) -> Scrape:
        client = await self.send(scrape_request("Connection: close"))
        scrape = Scrape((await client.response()).body)
        await client.ended()
        client.disconnect()
        return scrape

    async def wait_for_metric(self, name: str, count: int, **labels: str) -> Scrape:
        """Scrape until a metric has this value."""
        async with soon():
            while (scrape := await self.scrape()).sum(name, **labels) != count:
                pass
        return scrape

    async def wait_for_waiters(self, count: int) -> None:
        """Wait until this many exchanges of the limited client wait."""
        await self.wait_for_metric("rustygate_waiters", count, **{"class": "batch"})

    def close_upstream_connections(self, busy: Collection[Wire] = ()) -> None:
        """Close upstream's connections, except those that are busy."""
        for wire in self.upstream.wires:
            if wire.connected and wire not in busy:
                wire.close()

    def disconnect(self) -> None:
        for client in self._clients:
            client.disconnect()


class HealthyStreams:
    """Streams with regular events, until they end cleanly."""

    def __init__(self, testbed: FaultTestbed) -> None:
        self._stage = testbed
        self._finished = asyncio.Event()
        self._streams: list[asyncio.Task[None]] = []
        self.clients: list[Client] = []
        self.calls: list[Call] = []

    @property
    def expected(self) -> dict[str, Outcomes]:
        return {call.target: Counter([Outcome("ok", 200)]) for call in self.calls}

    @property
    def wires(self) -> set[Wire]:
        return {call.wire for call in self.calls}

    async def finish(self) -> None:
        """End all streams; each must arrive complete."""
        self._finished.set()
        await asyncio.gather(*self._streams)

    async def stop(self) -> None:
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

    async def start(self, target: str) -> None:
        client = await self._stage.send(post(b'{"stream": true}', target=target))
        call = await self._stage.call(target)
        call.send(EVENT_STREAM, chunk(FIRST))
        assert (await client.head()).status == 200
        self.clients.append(client)
        self.calls.append(call)
        self._streams.append(asyncio.create_task(self._stream(client, call)))

    async def _stream(self, client: Client, call: Call) -> None:
        events = [FIRST]
        while not self._finished.is_set():
            events.append(b"data: %d\n\n" % len(events))
            call.send(chunk(events[-1]))
            with suppress(TimeoutError):
                async with asyncio.timeout(EVENT_INTERVAL_S):
                    await self._finished.wait()
        call.send(LAST_CHUNK)
        assert await client.read_rest() == b"".join(events)
        call.done.set()
