"""Event streams through the gate: opening, stalling and filling them."""

import asyncio
import ssl

from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import (
    EVENT_STREAM,
    chat,
    chunk,
)
from tests.support.upstream import Call, Upstream

# A keepalive interval that passes soon, and one that disables keepalives.
SHORT, NEVER = 0.05, 0

KEEPALIVE = b": keep-alive\n"


async def open_stream(
    gate: Gate,
    upstream: Upstream,
    first: bytes = b"data: first\n\n",
    *,
    request: bytes = b"",
    head: bytes = EVENT_STREAM,
) -> tuple[Client, Call]:
    """A stream whose head and first bytes the client has received."""
    client = await gate.connect()
    return client, await stream_over(client, upstream, first, request=request, head=head)


async def stream_over(
    client: Client,
    upstream: Upstream,
    first: bytes = b"data: first\n\n",
    *,
    request: bytes = b"",
    head: bytes = EVENT_STREAM,
) -> Call:
    """Open a stream over a connection; returns its call at upstream."""
    client.send(request or chat(stream=True))
    call = await upstream.call()
    chunked = b"chunked" in head
    call.send(head, chunk(first) if chunked else first)
    await client.head()
    await client.expect_body(first)
    return call


async def wait_two_intervals(gate: Gate, upstream: Upstream) -> None:
    """Wait for two intervals, measured by the keepalives of another stream."""
    idle, _ = await open_stream(gate, upstream)
    await idle.expect_body(KEEPALIVE)
    await idle.expect_body(KEEPALIVE)


async def open_stalled(
    gate: Gate, upstream: Upstream, tls: ssl.SSLContext | None = None
) -> tuple[Client, Call]:
    """A stream whose client has stopped reading."""
    client = await gate.connect(receive_buffer=4096, tls=tls)
    client.send(chat(stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await client.expect_body(b"data: 1\n\n")
    client.wire.pause_reading()
    return client, call


async def fill_buffers(gate: Gate, call: Call) -> None:
    """Send until the write buffer for the gate's only client is full."""
    [connection] = gate.connections()
    while not connection.writing_paused:
        await call.wire.send_all(chunk(bytes(64 << 10)))
        await asyncio.sleep(0.005)
