"""The loads, on raw protocols: requests, streams, the frames of WebSockets.

Each takes a port, and headers to add, and returns what its clients saw. Times are nanoseconds of
the machine's monotonic clock, which is upstream's too.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic_ns

from scripts.benchmarks.wire import (
    BODY,
    DONE,
    DOWNLOAD,
    FRAME,
    LAST_CHUNK,
    MASKED_FRAME,
    PIECE,
    SENT,
    UPGRADE,
    UPLOAD,
    request,
    stream_body,
)

HOST = "127.0.0.1"
# An answer that takes longer is taken for lost.
PATIENCE_S = 10
# As long as an event without the part before its instant may be.
TAIL = 64


class Failed(Exception):
    """What was asked did not answer as it should."""


@dataclass(slots=True)
class Answers:
    """What clients saw of their requests."""

    took_s: float = 0
    latencies: list[int] = field(default_factory=list)


class Asker(asyncio.Protocol):
    """A client that asks again as soon as it was answered, until the end."""

    def __init__(self, ask: bytes, answers: Answers, end: int) -> None:
        self.ask = ask
        self.answers = answers
        self.end = end
        self.buffer = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.asked = monotonic_ns()
        self.transport.write(self.ask)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not is_whole(self.buffer):
            return
        now = monotonic_ns()
        if not self.buffer.startswith(b"HTTP/1.1 200 "):
            self.fail(self.buffer.partition(b"\r\n")[0].decode(errors="replace"))
            return
        self.answers.latencies.append(now - self.asked)
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
            self.done.set_exception(Failed(reason))
        self.transport.close()


def is_whole(answer: bytes) -> bool:
    """Whether an answer has come to its end."""
    head, end, content = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
    return len(content) >= int(length) if length else content.endswith(LAST_CHUNK)


async def ask(port: int, headers: str, connections: int, seconds: float) -> Answers:
    """So many connections, each with one request at a time. Raises Failed."""
    loop = asyncio.get_running_loop()
    answers = Answers()
    began = monotonic_ns()
    wanted = request(BODY, headers)

    async def client() -> None:
        end = began + int(seconds * 1e9)
        _, asker = await loop.create_connection(lambda: Asker(wanted, answers, end), HOST, port)
        await asker.done

    await patient([client] * connections, seconds)
    answers.took_s = (monotonic_ns() - began) / 1e9
    return answers


async def patient(clients: list[Callable[[], Awaitable[None]]], seconds: float) -> None:
    """Let all run; raises Failed if one does, or takes too long."""
    try:
        async with asyncio.timeout(seconds + PATIENCE_S):
            await asyncio.gather(*(client() for client in clients))
    except TimeoutError:
        raise Failed(f"no answer within {PATIENCE_S} s") from None
    except (OSError, EOFError) as error:
        raise Failed(f"the connection was lost: {error}") from error


@dataclass(slots=True)
class Streams:
    """What clients saw of their streams: how long until the first event, how long each took.

    `begun` is called once all of the `number` have had an event; `late` counts those since.
    """

    number: int
    begun: Callable[[], None]
    first: list[int] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    late: int = 0
    intact: int = 0
    refusal: str = "no event came in time"

    def note(self, delay: int) -> None:
        """Note how long an event took that came on."""
        self.delays.append(delay)
        self.late += len(self.first) == self.number

    def note_first(self, delay: int) -> None:
        """Note how long a stream's first event took."""
        self.first.append(delay)
        if len(self.first) == self.number:
            self.begun()


class Listener(asyncio.Protocol):
    """A client that reads one stream; `ended` and `instants` tell what came of it."""

    def __init__(self, ask: bytes, streams: Streams) -> None:
        self.ask = ask
        self.streams = streams
        self.asked = monotonic_ns()
        self.tail = b""
        self.instants: list[int] = []
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.ask)

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        data = self.tail + data
        if not self.instants and data.startswith(b"HTTP/1.1 ") and data[9:12] != b"200":
            self.streams.refusal = data.partition(b"\r")[0].decode(errors="replace")
            self.end(False)
            return
        read = 0
        for event in SENT.finditer(data):
            read = event.end()
            sent = int(event[1])
            self.streams.note(now - sent)
            if not self.instants:
                self.streams.note_first(now - self.asked)
            self.instants.append(sent)
        self.tail = data[read:][-TAIL:]
        if self.tail.endswith(LAST_CHUNK):
            self.end(DONE.strip() in self.tail)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(False)

    def end(self, whole: bool) -> None:
        if not self.done.done():
            self.done.set_result(whole)
        self.transport.close()


async def listen(
    port: int,
    headers: str,
    number: int,
    events: int,
    pause_us: int,
    begun: Callable[[], None] = lambda: None,
) -> Streams:
    """So many streams opened at once. Those that do not end in time count as not intact."""
    loop = asyncio.get_running_loop()
    streams = Streams(number, begun)
    wanted = request(stream_body(events, pause_us), headers, "identity")

    async def client() -> None:
        _, one = await loop.create_connection(lambda: Listener(wanted, streams), HOST, port)
        try:
            async with asyncio.timeout(events * pause_us / 1e6 + PATIENCE_S):
                whole = await one.done
        except TimeoutError:
            one.transport.abort()
            return
        in_order = one.instants == sorted(one.instants)
        streams.intact += whole and in_order and len(one.instants) == events

    try:
        await asyncio.gather(*(client() for _ in range(number)))
    except OSError as error:
        raise Failed(f"the connection was lost: {error}") from error
    if not streams.delays:
        raise Failed(streams.refusal)
    return streams


async def talk(port: int, sockets: int, seconds: float) -> int:
    """WebSockets, each with a frame there and one back, again and again; returns the frames."""
    seen = 0
    end = monotonic_ns() + int(seconds * 1e9)

    async def client() -> None:
        nonlocal seen
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(UPGRADE)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Failed(head.partition(b"\r\n")[0].decode())
        while True:
            writer.write(MASKED_FRAME)
            await reader.readexactly(len(FRAME))
            seen += 2
            if monotonic_ns() >= end:
                break
        writer.close()

    await patient([client] * sockets, seconds)
    return seen


async def download(port: int, headers: str, mib: int) -> float:
    """Get a large body; returns the MB that came. Raises Failed."""
    seen = 0

    async def client() -> None:
        nonlocal seen
        reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 18)
        writer.write(DOWNLOAD.format(mib, headers).encode())
        while piece := await reader.read(1 << 18):
            seen += len(piece)
        writer.close()

    await patient([client], 0)
    if seen < mib << 20:
        raise Failed(f"{seen} bytes came of {mib} MiB")
    return seen / 1e6


async def upload(port: int, headers: str, mib: int) -> float:
    """Send a large body; returns the MB that went. Raises Failed."""
    size = mib << 20

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(UPLOAD.format(size, headers).encode())
        for _ in range(size // len(PIECE)):
            writer.write(PIECE)
            await writer.drain()
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise Failed(answer.partition(b"\r\n")[0].decode())

    await patient([client], 0)
    return size / 1e6
