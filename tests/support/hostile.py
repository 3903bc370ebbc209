"""Hostile requests, and checks that they do no harm."""

import asyncio
import json

from tests.support.client import Client
from tests.support.gate import IDLE, Gate
from tests.support.http import (
    CHAT,
    get,
    request,
    response,
)
from tests.support.upstream import Upstream

# Appears in hostile heads and bodies, and nowhere else.
MARK = "canary-of-the-request"
MARKED = f"X-Mark: {MARK}"

# Would get a response if the gate parsed it as a request of its own.
SMUGGLED = get("/v1/smuggled", MARKED)

BODY = json.dumps({"model": "gpt-4o", "user": MARK}).encode()
MULTIPART = "Content-Type: multipart/form-data; boundary=x"
MEGABYTE = 1 << 20


def head_with(*lines: bytes, method: str = "POST") -> bytes:
    """A valid head with hostile lines."""
    return request(method, CHAT, MARKED).removesuffix(b"\r\n") + b"".join(lines) + b"\r\n"


def framed(*lines: bytes, body: bytes = b"") -> bytes:
    """A request with ambiguous framing, and one hidden behind it."""
    return head_with(*(line + b"\r\n" for line in lines)) + body + SMUGGLED


def chunked(*body: bytes) -> bytes:
    return head_with(b"Transfer-Encoding: chunked\r\n") + b"".join(body)


def with_start_line(line: bytes, *lines: str) -> bytes:
    """A head with this start line."""
    return line + b"\r\n" + get("/", MARKED, *lines).split(b"\r\n", 1)[1]


async def send_byte_by_byte(client: Client, data: bytes) -> None:
    """Send one byte at a time, as TCP may deliver them; stop when the other side closes."""
    for byte in data:
        if client.wire.end is not None:
            return
        client.send(bytes([byte]))
        await asyncio.sleep(0)


async def check_refused_and_closed(client: Client) -> None:
    """Check that one error response comes, and then the end of the connection."""
    received = await client.response()
    assert (received.status, received.reason) == (400, "bad_request")
    assert received.error["type"] == "invalid_request_error"
    assert MARK.encode() not in received.head.raw + received.body
    await client.ended()
    assert client.wire.received == received.head.raw + received.body


async def check_unharmed(running: Gate, upstream: Upstream) -> None:
    """Check that nothing is left over and the next request is served."""
    await running.wait_until(**IDLE)
    before = len(upstream.calls)
    upstream.reply = response(b"next")
    assert (await running.request(get("/v1/next"))).body == b"next"
    assert [call.target for call in upstream.calls[before:]] == ["/v1/next"]
