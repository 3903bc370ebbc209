"""Measures the gate beside a bare aiohttp pipe, its floor, in the same run.

The process under test is pinned to one core; upstream and the load generator, both raw asyncio
protocols, to the other. Rounds alternate between the two; medians are printed, ratios first.
What is measured is the CPU time of the process under test, which a busy machine disturbs least.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

from aiohttp import ClientSession, ClientWebSocketResponse, DummyCookieJar, TCPConnector, web

from rustygate.admission import Gate
from rustygate.config import Settings
from rustygate.exchange import Exchange

BODY = json.dumps(
    {"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello to the bench."}]}
).encode()
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello, bench!"}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    }
).encode()
ANSWER_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n"
    "x-request-id: req_1\r\nopenai-processing-ms: 12\r\nopenai-version: 2020-10-01\r\n"
    "x-ratelimit-limit-requests: 10000\r\nx-ratelimit-limit-tokens: 2000000\r\n"
    "x-ratelimit-remaining-requests: 9999\r\nx-ratelimit-remaining-tokens: 1999990\r\n"
    "x-ratelimit-reset-requests: 6ms\r\nx-ratelimit-reset-tokens: 0s\r\n"
    "Date: Tue, 01 Jan 2030 00:00:00 GMT\r\nServer: bench\r\n\r\n"
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Date: Tue, 01 Jan 2030 00:00:00 GMT\r\nServer: bench\r\n\r\n"
)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o",'
    b'"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
)
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
STREAM_END = b"0\r\n\r\n"
SWITCHED = (
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Accept: {}\r\n\r\n"
)
WORD = b'{"type":"response.output_text.delta","response_id":"resp_1","delta":" word"}'
FRAME = bytes([0x81, len(WORD)]) + WORD
MASKED_FRAME = bytes([0x81, 0x80 | len(WORD), 0, 0, 0, 0]) + WORD
PIECE = bytes(range(256)) * 256


SOCKET = "/v1/realtime?model=gpt-realtime"

WebSocket = ClientWebSocketResponse | web.WebSocketResponse

GATE = {
    "OPENAI_API_KEY": "sk-bench",
    "RATE_LIMIT": "1000000",
    "RATE_LIMIT_BURST": "1000000",
    "RUST_LOG": "info",
}


@dataclass(frozen=True)
class Shape:
    """A load: so many connections, each asking so many times for a path. With `upload` each sends
    so many MiB, and what is counted are MB, not answers."""

    connections: int
    path: str
    times: int
    upload: int = 0
    unit: str = "us CPU each"


class Upstream(asyncio.Protocol):
    """Answers each request at once; a path ending in `/N/P` gets N events, one each P ms, and
    `/bytes/N` gets N MiB.

    On a WebSocket it answers each frame with one.
    """

    upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""
        self.left = self.owed = 0

    def data_received(self, data: bytes) -> None:
        if self.upgraded:
            self.buffer += data
            self.answer_frames()
            return
        if not self.left:
            self.buffer += data
            head, end, data = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            length = head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
            self.head, self.buffer = head, b""
            self.left = int(length or 0)
        self.left -= len(data)
        if not self.left:
            self.answer(self.head, self.head.split(b" ", 2)[1].decode())

    def answer(self, head: bytes, path: str) -> None:
        if key := head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r")[0]:
            self.upgraded = True
            self.transport.write(SWITCHED.format(proof(key)).encode())
        elif "/stream/" in path:
            events, pause_ms = map(int, path.split("/")[-2:])
            self.transport.write(STREAM_HEAD)
            self.stream(events, pause_ms / 1000)
        elif "/bytes/" in path:
            self.owed = int(path.rsplit("/", 1)[1]) << 20
            head = ANSWER_HEAD.replace("application/json", "application/octet-stream")
            self.transport.write(head.format(self.owed).encode())
            self.resume_writing()
        else:
            self.transport.write(ANSWER_HEAD.format(len(ANSWER)).encode() + ANSWER)

    def answer_frames(self) -> None:
        frames, rest = divmod(len(self.buffer), len(MASKED_FRAME))
        self.buffer = self.buffer[len(self.buffer) - rest :]
        self.transport.write(FRAME * frames)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        while self.owed and not self.paused:
            self.owed -= len(PIECE)
            self.transport.write(PIECE)

    def stream(self, left: int, pause_s: float) -> None:
        if not left or self.transport.is_closing():
            self.transport.write(STREAM_END)
            return
        self.transport.write(CHUNK)
        asyncio.get_running_loop().call_later(pause_s, self.stream, left - 1, pause_s)


def proof(key: bytes) -> str:
    """What answers a WebSocket's key (RFC 6455, 4.2.2)."""
    return b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


async def serve_upstream() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", int(os.environ["PORT"]), backlog=2048)
    await server.serve_forever()


async def serve_floor(upstream: str) -> None:
    """The pipe of the aiohttp documentation: one handler, one session, nothing else.

    WebSockets get a bridge as plain: two loops that send what they receive.
    """
    session = ClientSession(
        connector=TCPConnector(limit=0), cookie_jar=DummyCookieJar(), auto_decompress=False
    )

    async def pass_on(source: WebSocket, sink: WebSocket) -> None:
        async for message in source:
            await sink.send_str(message.data)
        await sink.close()

    async def bridge(request: web.Request) -> web.StreamResponse:
        client = web.WebSocketResponse()
        await client.prepare(request)
        async with session.ws_connect(upstream + request.raw_path) as server:
            await asyncio.gather(pass_on(client, server), pass_on(server, client))
        return client

    async def handle(request: web.Request) -> web.StreamResponse:
        if "Upgrade" in request.headers:
            return await bridge(request)
        small = (request.content_length or 0) <= len(PIECE)
        data = await request.read() if small else request.content
        headers = {k: v for k, v in request.headers.items() if k not in {"Host", "Connection"}}
        url = upstream + request.raw_path
        async with session.request(request.method, url, headers=headers, data=data) as answer:
            passed = {k: v for k, v in answer.headers.items() if k != "Transfer-Encoding"}
            response = web.StreamResponse(status=answer.status, headers=passed)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"]), backlog=2048).start()
    await asyncio.Event().wait()


async def ask(port: int, path: str, times: int) -> int:
    """One connection's requests, one after the other; returns the events or answers seen."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer sk-bench\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n"
        "Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\n"
        "User-Agent: OpenAI/Python 3.0.0\r\nx-stainless-lang: python\r\n"
        "x-stainless-package-version: 3.0.0\r\nx-stainless-os: Linux\r\n"
        "x-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\n"
        "x-stainless-runtime-version: 3.11.7\r\nx-stainless-async: async:asyncio\r\n"
        "x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n\r\n"
    )
    seen = 0
    for _ in range(times):
        writer.write(head.encode() + BODY)
        answer = await reader.readuntil(b"\r\n\r\n")
        if b"chunked" in answer:
            seen += (await reader.readuntil(STREAM_END)).count(b"data:")
        else:
            length = int(answer.partition(b"Content-Length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
            seen += 1
    writer.close()
    return seen


async def talk(port: int, path: str, times: int) -> int:
    """One WebSocket: a frame there and one back, so many times; returns the frames."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    for _ in range(times):
        writer.write(MASKED_FRAME)
        await reader.readexactly(len(FRAME))
    writer.close()
    return 2 * times


async def download(port: int, path: str) -> float:
    """Returns the MB that came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 18)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
    seen = 0
    while piece := await reader.read(1 << 18):
        seen += len(piece)
    writer.close()
    return seen / 1e6


async def upload(port: int, path: str, size: int) -> float:
    """Returns the MB that went."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {size}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    writer.write(head.encode())
    for _ in range(size // len(PIECE)):
        writer.write(PIECE)
        await writer.drain()
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return size / 1e6


async def load(port: int, shape: Shape) -> float:
    asked: list[Awaitable[float]] = []
    for _ in range(shape.connections):
        if shape.upload:
            asked.append(upload(port, shape.path, shape.upload << 20))
        elif "/bytes/" in shape.path:
            asked.append(download(port, shape.path))
        elif shape.path == SOCKET:
            asked.append(talk(port, shape.path, shape.times))
        else:
            asked.append(ask(port, shape.path, shape.times))
    return sum(await asyncio.gather(*asked))


Process = tuple[int, int]


@contextmanager
def process(core: int, *command: str, **environ: str) -> Iterator[Process]:
    """A pinned child that serves the port in its PORT; yields its pid and that port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | environ | {"PORT": str(port)},
    )
    os.sched_setaffinity(child.pid, {core})
    try:
        wait_for(child, port)
        yield child.pid, port
    finally:
        child.kill()
        child.wait()


def wait_for(child: subprocess.Popen[bytes], port: int) -> None:
    while child.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    sys.exit(f"{child.args} did not start")


def cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(side: Process, shape: Shape) -> float:
    """CPU microseconds of the process per answer, event or MB."""
    pid, port = side
    before = cpu_s(pid)
    seen = asyncio.run(load(port, shape))
    return (cpu_s(pid) - before) / seen * 1e6


def compare(name: str, sides: dict[str, Process], shape: Shape, rounds: int) -> None:
    """Alternate between the sides; print the ratio of the medians, and the spread."""
    figures: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, child in sides.items():
            figure = measure(child, shape)
            if number:  # the first warms up
                figures[side].append(figure)
    medians = {side: statistics.median(values) for side, values in figures.items()}
    spread = max((max(v) - min(v)) / statistics.median(v) for v in figures.values())
    print(
        f"{name:<26} {medians['gate'] / medians['floor']:.2f} x floor   gate "
        f"{medians['gate']:.0f}, floor {medians['floor']:.0f} {shape.unit}   "
        f"(spread {spread:.0%}{': a noisy machine' if spread > 0.2 else ''})",
        flush=True,
    )


def admission_us() -> float:
    """Microseconds of an uncontended admission and release, best of five."""

    async def passages(number: int) -> float:
        gate = Gate(Settings(openai_api_key="sk-bench", rate_limit=1e9, rate_limit_burst=10**9))
        exchange = Exchange("bench", "POST", "/v1/x")
        began = time.perf_counter()
        for _ in range(number):
            async with gate.admission(exchange) as admission:
                admission.answered(ok=True)
        return (time.perf_counter() - began) / number * 1e6

    return min(asyncio.run(passages(20_000)) for _ in range(5))


def bench(rounds: int) -> None:
    load_core, test_core = 0, (os.cpu_count() or 1) - 1
    os.sched_setaffinity(0, {load_core})
    with ExitStack() as stack:
        _, port = stack.enter_context(process(load_core, __file__, "upstream"))
        upstream = f"http://127.0.0.1:{port}"
        environ = GATE | {"OPENAI_BASE_URL": f"{upstream}/v1"}
        floor = stack.enter_context(process(test_core, __file__, "floor", upstream))
        gate = stack.enter_context(process(test_core, "-m", "rustygate", **environ))
        sides = {"floor": floor, "gate": gate}
        print(f"idle RSS: gate {rss_mb(gate[0]):.0f} MB, floor {rss_mb(floor[0]):.0f} MB")
        compare("request, 32 connections", sides, Shape(32, "/v1/x", 100), rounds)
        compare("event, 200 streams", sides, Shape(200, "/v1/stream/40/50", 1), rounds)
        compare("frame, 50 sockets", sides, Shape(50, SOCKET, 300), rounds)
        # Microseconds per MB are milliseconds per GB.
        down = Shape(1, "/v1/bytes/64", 1, unit="ms CPU per GB")
        up = Shape(1, "/v1/files", 1, upload=64, unit="ms CPU per GB")
        compare("bytes, 64 MB bodies down", sides, down, rounds)
        compare("bytes, 64 MB bodies up", sides, up, rounds)
        print(f"RSS: gate {rss_mb(gate[0]):.0f} MB")
        seen = asyncio.run(load(gate[1], Shape(1000, "/v1/stream/20/200", 1)))
        print(f"1,000 streams at once: {seen:.0f} of 20000 events; RSS {rss_mb(gate[0]):.0f} MB")
    print(f"uncontended admission: {admission_us():.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=["upstream", "floor"], help=argparse.SUPPRESS)
    parser.add_argument("upstream", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args()
    if options.role == "upstream":
        asyncio.run(serve_upstream())
    elif options.role == "floor":
        asyncio.run(serve_floor(options.upstream))
    else:
        bench(options.rounds)


if __name__ == "__main__":
    main()
