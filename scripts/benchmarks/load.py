"""The load clients, on raw protocols: requests, streams, WebSocket frames, large bodies.

Each load takes a port and additional headers, and returns what its clients measured. Times are
nanoseconds of the machine's monotonic clock, which upstream shares.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic_ns

from scripts.benchmarks.wire import (
    BLOCK,
    BODY,
    DONE,
    DOWNLOAD,
    FRAME,
    LAST_CHUNK,
    MASKED_FRAME,
    SENT_AT,
    UPGRADE,
    UPLOAD,
    request,
    stream_body,
)

HOST = "127.0.0.1"
# A response that takes longer counts as lost.
TIMEOUT_S = 10
# How long requests one after another may take, under a tool that slows the side down.
IN_TURN_TIMEOUT_S = 300
# Long enough for the part of an event after its timestamp, or for the end of a stream.
TAIL = 64


class MeasurementFailed(Exception):
    """A side did not respond as it should."""


@dataclass(slots=True)
class RequestResults:
    """What the clients measured: the latency of each request, and how long the load took."""

    took_s: float = 0
    latencies: list[int] = field(default_factory=list)


class RequestClient(asyncio.Protocol):
    """A client that sends its next request as soon as it has a response, until the end time."""

    def __init__(self, payload: bytes, results: RequestResults, end: int) -> None:
        self.payload = payload
        self.results = results
        self.end = end
        self.buffer = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.sent_at = monotonic_ns()
        self.transport.write(self.payload)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not is_complete(self.buffer):
            return
        now = monotonic_ns()
        if not self.buffer.startswith(b"HTTP/1.1 200 "):
            self.fail(self.buffer.partition(b"\r\n")[0].decode(errors="replace"))
            return
        self.results.latencies.append(now - self.sent_at)
        self.buffer = b""
        if now < self.end:
            self.send()
        else:
            self.transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("the connection was lost")

    def fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(MeasurementFailed(reason))
        self.transport.close()


def is_complete(response: bytes) -> bool:
    """Whether a response has arrived in full."""
    head, end, content = response.partition(b"\r\n\r\n")
    if not end:
        return False
    length = head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
    return len(content) >= int(length) if length else content.endswith(LAST_CHUNK)


async def send_requests(
    port: int, headers: str, connections: int, seconds: float, content: bytes = BODY
) -> RequestResults:
    """Keep one request in flight on each connection. Raises MeasurementFailed."""
    loop = asyncio.get_running_loop()
    results = RequestResults()
    began = monotonic_ns()
    payload = request(content, headers)

    async def client() -> None:
        end = began + int(seconds * 1e9)
        _, client_protocol = await loop.create_connection(
            lambda: RequestClient(payload, results, end), HOST, port
        )
        await client_protocol.done

    await run_clients([client] * connections, seconds)
    results.took_s = (monotonic_ns() - began) / 1e9
    return results


async def send_in_turn(port: int, payload: bytes, number: int) -> int:
    """Send a number of requests on one connection, each after the whole response to the one
    before. Returns in how many reads the responses arrived. Raises MeasurementFailed."""
    reads = 0

    async def client() -> None:
        nonlocal reads
        reader, writer = await asyncio.open_connection(HOST, port)
        for _ in range(number):
            writer.write(payload)
            reads += await read_response(reader)
        writer.close()

    await run_clients([client], IN_TURN_TIMEOUT_S)
    return reads


async def hold_requests(port: int, payload: bytes, number: int) -> None:
    """Send requests on as many connections, and keep them open until cancelled."""

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(payload)
        try:
            await read_response(reader)
        finally:
            writer.close()

    await run_clients([client] * number, IN_TURN_TIMEOUT_S)


async def send_paced(port: int, headers: str, per_second: float, seconds: float) -> int:
    """Send requests at a pace on one connection; returns their number."""
    payload = request(BODY, headers)
    number = round(per_second * seconds)
    loop = asyncio.get_running_loop()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        began = loop.time()
        for sent in range(number):
            await asyncio.sleep(began + sent / per_second - loop.time())
            writer.write(payload)
            await read_response(reader)
        await asyncio.sleep(began + seconds - loop.time())
        writer.close()

    await run_clients([client], seconds)
    return number


async def read_response(reader: asyncio.StreamReader) -> int:
    """Read a response to its end; returns the number of reads.

    Raises MeasurementFailed, or EOFError if it is cut.
    """
    response, reads = b"", 0
    while not is_complete(response):
        if not (chunk := await reader.read(1 << 16)):
            raise EOFError
        response += chunk
        reads += 1
    if not response.startswith(b"HTTP/1.1 200 "):
        raise MeasurementFailed(response.partition(b"\r\n")[0].decode(errors="replace"))
    return reads


async def run_clients(clients: list[Callable[[], Awaitable[None]]], seconds: float) -> None:
    """Run all clients. Raises MeasurementFailed if one of them fails or takes too long."""
    try:
        async with asyncio.timeout(seconds + TIMEOUT_S):
            await asyncio.gather(*(client() for client in clients))
    except TimeoutError:
        raise MeasurementFailed(f"no response within {TIMEOUT_S} s") from None
    except (OSError, EOFError) as error:
        raise MeasurementFailed(f"the connection was lost: {error}") from error


@dataclass(slots=True)
class StreamResults:
    """What the clients measured: the time to each stream's first event, the delay of each event.

    `on_all_open` is called once all `number` streams have received an event;
    `events_after_open` counts the events after that.
    """

    number: int
    on_all_open: Callable[[], None]
    first: list[int] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    events_after_open: int = 0
    intact: int = 0
    error: str = "no event arrived in time"

    def record(self, delay: int) -> None:
        """Record the delay of an event."""
        self.delays.append(delay)
        self.events_after_open += len(self.first) == self.number

    def record_first(self, delay: int) -> None:
        """Record the time to the first event of a stream."""
        self.first.append(delay)
        if len(self.first) == self.number:
            self.on_all_open()


class StreamClient(asyncio.Protocol):
    """A client that reads one stream.

    `done` is whether the stream ended well; `sent_times` are the times its events were sent.
    """

    def __init__(self, payload: bytes, streams: StreamResults) -> None:
        self.payload = payload
        self.streams = streams
        self.sent_at = monotonic_ns()
        self.tail = b""
        self.sent_times: list[int] = []
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.payload)

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        data = self.tail + data
        if not self.sent_times and data.startswith(b"HTTP/1.1 ") and data[9:12] != b"200":
            self.streams.error = data.partition(b"\r")[0].decode(errors="replace")
            self.end(False)
            return
        read = 0
        for event in SENT_AT.finditer(data):
            read = event.end()
            sent = int(event[1])
            self.streams.record(now - sent)
            if not self.sent_times:
                self.streams.record_first(now - self.sent_at)
            self.sent_times.append(sent)
        self.tail = data[read:][-TAIL:]
        if self.tail.endswith(LAST_CHUNK):
            self.end(DONE.strip() in self.tail)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(False)

    def end(self, complete: bool) -> None:
        if not self.done.done():
            self.done.set_result(complete)
        self.transport.close()


async def read_streams(
    port: int,
    headers: str,
    number: int,
    events: int,
    pause_us: int,
    on_all_open: Callable[[], None] = lambda: None,
) -> StreamResults:
    """Open streams at once. A stream that does not end in time does not count as intact."""
    loop = asyncio.get_running_loop()
    streams = StreamResults(number, on_all_open)
    payload = request(stream_body(events, pause_us), headers, "identity")

    async def client() -> None:
        _, stream = await loop.create_connection(
            lambda: StreamClient(payload, streams), HOST, port
        )
        try:
            async with asyncio.timeout(events * pause_us / 1e6 + TIMEOUT_S):
                complete = await stream.done
        except TimeoutError:
            stream.transport.abort()
            return
        in_order = stream.sent_times == sorted(stream.sent_times)
        streams.intact += complete and in_order and len(stream.sent_times) == events

    try:
        await asyncio.gather(*(client() for _ in range(number)))
    except OSError as error:
        raise MeasurementFailed(f"the connection was lost: {error}") from error
    if not streams.delays:
        raise MeasurementFailed(streams.error)
    return streams


async def exchange_frames(port: int, sockets: int, seconds: float) -> int:
    """Exchange frames on WebSockets, one in each direction at a time; returns their number."""
    received = 0
    end = monotonic_ns() + int(seconds * 1e9)

    async def client() -> None:
        nonlocal received
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(UPGRADE)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise MeasurementFailed(head.partition(b"\r\n")[0].decode())
        while True:
            writer.write(MASKED_FRAME)
            await reader.readexactly(len(FRAME))
            received += 2
            if monotonic_ns() >= end:
                break
        writer.close()

    await run_clients([client] * sockets, seconds)
    return received


async def download(port: int, headers: str, mib: int) -> float:
    """Download a large body; returns its size in MB. Raises MeasurementFailed."""
    received = 0

    async def client() -> None:
        nonlocal received
        reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 18)
        writer.write(DOWNLOAD.format(mib, headers).encode())
        while chunk := await reader.read(1 << 18):
            received += len(chunk)
        writer.close()

    await run_clients([client], 0)
    if received < mib << 20:
        raise MeasurementFailed(f"received {received} bytes of {mib} MiB")
    return received / 1e6


async def upload(port: int, headers: str, mib: int) -> float:
    """Upload a large body; returns its size in MB. Raises MeasurementFailed."""
    size = mib << 20

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(UPLOAD.format(size, headers).encode())
        for _ in range(size // len(BLOCK)):
            writer.write(BLOCK)
            await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        if not head.startswith(b"HTTP/1.1 200 "):
            raise MeasurementFailed(head.partition(b"\r\n")[0].decode())

    await run_clients([client], 0)
    return size / 1e6
