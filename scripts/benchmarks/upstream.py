"""The upstream of the benchmark: a raw asyncio protocol, so that it is not the bottleneck.

With the environment variable QUOTA, it answers that many requests a second, as many of which may
come at once, and refuses others with 429.
"""

import asyncio
import os
from base64 import b64encode
from hashlib import sha1
from time import monotonic_ns

from rustygate.core.bucket import TokenBucket
from scripts.benchmarks.wire import (
    BLOCK,
    CHUNK,
    DOWNLOAD_HEAD,
    DOWNLOAD_PATH,
    FRAME,
    MASKED_FRAME,
    REFUSAL,
    RESPONSE,
    STREAM_END,
    STREAM_HEAD,
    STREAM_PARAMETERS,
    SWITCHING_PROTOCOLS,
)

# Requests with parameters in the body are shorter than this.
SMALL_BODY = 4096


class Upstream(asyncio.Protocol):
    """Responds to each request at once: with an event stream at the requested pace, with a
    download, or with a short response. On a WebSocket it sends one frame for each one received.
    """

    upgraded = False

    def __init__(self, bucket: TokenBucket | None) -> None:
        self.bucket = bucket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.left = self.download_left = 0

    def data_received(self, data: bytes) -> None:
        if self.upgraded:
            self.buffer += data
            self.echo_frames()
            return
        if not self.left:
            self.buffer += data
            self.head, end, data = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            length = self.head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
            self.left = int(length or 0)
            self.buffer = b""
        # Only the end of a body is kept, which is all of a small one.
        self.buffer = (self.buffer + data)[-SMALL_BODY:]
        self.left -= len(data)
        if not self.left:
            body, self.buffer = self.buffer, b""
            self.respond(self.head, body)

    def respond(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1].decode()
        if at := head.lower().find(b"sec-websocket-key: ") + 1:
            key = head[at + 18 :].partition(b"\r")[0]
            self.upgraded = True
            self.transport.write(SWITCHING_PROTOCOLS.format(accept_key(key)).encode())
        elif parameters := STREAM_PARAMETERS.search(body):
            events, pause_us = map(int, parameters.groups())
            self.transport.write(STREAM_HEAD)
            self.stream(events, pause_us / 1e6, self.loop.time())
        elif path.startswith(DOWNLOAD_PATH):
            self.download_left = int(path.removeprefix(DOWNLOAD_PATH)) << 20
            self.transport.write(DOWNLOAD_HEAD.format(self.download_left).encode())
            self.resume_writing()
        else:
            self.transport.write(RESPONSE if self.has_room() else REFUSAL)

    def has_room(self) -> bool:
        """Take a request from the quota, if there is room in it or no quota."""
        if self.bucket is None:
            return True
        now = monotonic_ns()
        if self.bucket.wait(now):
            return False
        self.bucket.take(now)
        return True

    def echo_frames(self) -> None:
        frames, rest = divmod(len(self.buffer), len(MASKED_FRAME))
        self.buffer = self.buffer[len(self.buffer) - rest :]
        self.transport.write(FRAME * frames)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        while self.download_left and not self.paused:
            self.download_left -= len(BLOCK)
            self.transport.write(BLOCK)

    def stream(self, left: int, pause_s: float, due_s: float) -> None:
        """Send events on a fixed schedule: a late event does not delay the following ones."""
        if self.transport.is_closing():
            return
        if not left:
            self.transport.write(STREAM_END)
            return
        self.transport.write(CHUNK % monotonic_ns())
        due_s += pause_s
        self.loop.call_at(due_s, self.stream, left - 1, pause_s, due_s)


def accept_key(key: bytes) -> str:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2)."""
    return b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    quota = int(os.environ.get("QUOTA", 0))
    bucket = TokenBucket.from_rate(quota, quota) if quota else None
    server = await loop.create_server(
        lambda: Upstream(bucket), "127.0.0.1", int(os.environ["PORT"]), backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
