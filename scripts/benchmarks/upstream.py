"""The upstream of a bench, on a raw protocol, so that it is not what is measured."""

import asyncio
import os
from base64 import b64encode
from hashlib import sha1
from time import monotonic_ns

from scripts.benchmarks.wire import (
    ANSWER,
    BYTES,
    BYTES_HEAD,
    CHUNK,
    FRAME,
    MASKED_FRAME,
    PIECE,
    STREAM_END,
    STREAM_HEAD,
    SWITCHED,
    WANTED,
)

# No request that wants something has a longer body.
SMALL = 4096


class Upstream(asyncio.Protocol):
    """Answers each request at once; one that wants a stream gets its events at its pace, and one
    for `BYTES` so many MiB.

    On a WebSocket it answers each frame with one.
    """

    upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.left = self.owed = 0

    def data_received(self, data: bytes) -> None:
        if self.upgraded:
            self.buffer += data
            self.answer_frames()
            return
        if not self.left:
            self.buffer += data
            self.head, end, data = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            length = self.head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
            self.left = int(length or 0)
            self.buffer = b""
        # Kept is only the end of a body, which is all of a small one.
        self.buffer = (self.buffer + data)[-SMALL:]
        self.left -= len(data)
        if not self.left:
            body, self.buffer = self.buffer, b""
            self.answer(self.head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1].decode()
        if at := head.lower().find(b"sec-websocket-key: ") + 1:
            key = head[at + 18 :].partition(b"\r")[0]
            self.upgraded = True
            self.transport.write(SWITCHED.format(proof(key)).encode())
        elif wanted := WANTED.search(body):
            events, pause_us = map(int, wanted.groups())
            self.transport.write(STREAM_HEAD)
            self.stream(events, pause_us / 1e6, self.loop.time())
        elif path.startswith(BYTES):
            self.owed = int(path.removeprefix(BYTES)) << 20
            self.transport.write(BYTES_HEAD.format(self.owed).encode())
            self.resume_writing()
        else:
            self.transport.write(ANSWER)

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
