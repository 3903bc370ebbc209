"""The upstream of a bench, on a raw protocol, so that it is not what is measured."""

import asyncio
import os
from base64 import b64encode
from hashlib import sha1
from time import monotonic_ns

from scripts.benchmarks.wire import (
    ANSWER,
    CHUNK,
    FRAME,
    MASKED_FRAME,
    STREAM_END,
    STREAM_HEAD,
    SWITCHED,
    WANTED,
)


class Upstream(asyncio.Protocol):
    """Answers each request at once; one that wants a stream gets its events at its pace.

    On a WebSocket it answers each frame with one.
    """

    upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.upgraded:
            self.answer_frames()
            return
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r")[0] or 0)
        if not end or len(rest) < length:
            return
        self.buffer = rest[length:]
        if at := lower.find(b"sec-websocket-key: ") + 1:
            key = head[at + 18 :].partition(b"\r")[0]
            self.upgraded = True
            self.transport.write(SWITCHED.format(proof(key)).encode())
        elif wanted := WANTED.search(rest):
            events, pause_us = map(int, wanted.groups())
            self.transport.write(STREAM_HEAD)
            self.stream(events, pause_us / 1e6, self.loop.time())
        else:
            self.transport.write(ANSWER)

    def answer_frames(self) -> None:
        frames, rest = divmod(len(self.buffer), len(MASKED_FRAME))
        self.buffer = self.buffer[len(self.buffer) - rest :]
        self.transport.write(FRAME * frames)

    def stream(self, left: int, pause_s: float, due: float) -> None:
        """Events by the clock: one that is late does not put off those behind it."""
        if self.transport.is_closing():
            return
        if not left:
            self.transport.write(STREAM_END)
            return
        self.transport.write(CHUNK % monotonic_ns())
        due += pause_s
        self.loop.call_at(due, self.stream, left - 1, pause_s, due)


def proof(key: bytes) -> str:
    """What answers a WebSocket's key (RFC 6455, 4.2.2)."""
    return b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", int(os.environ["PORT"]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
