"""Hostile requests, and what must be left of them: nothing."""

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

# Stands in hostile heads and bodies, and nowhere else.
MARK = "canary-of-the-request"
MARKED = f"X-Mark: {MARK}"

# What would be answered, if it were taken for a request of its own.
SMUGGLED = get("/v1/smuggled", MARKED)

BODY = json.dumps({"model": "gpt-4o", "user": MARK}).encode()
MULTIPART = "Content-Type: multipart/form-data; boundary=x"
MEGABYTE = 1 << 20


def head_with(*lines: bytes, method: str = "POST") -> bytes:
    """An honest head and hostile lines."""
    return request(method, CHAT, MARKED).removesuffix(b"\r\n") + b"".join(lines) + b"\r\n"


def framed(*lines: bytes, body: bytes = b"") -> bytes:
    """A request whose framing is in doubt, and one that hides behind it."""
    return head_with(*(line + b"\r\n" for line in lines)) + body + SMUGGLED


def chunked(*body: bytes) -> bytes:
    return head_with(b"Transfer-Encoding: chunked\r\n") + b"".join(body)


def started(line: bytes, *lines: str) -> bytes:
    """A head that starts with that line."""
    return line + b"\r\n" + get("/", MARKED, *lines).split(b"\r\n", 1)[1]


async def byte_by_byte(client: Client, data: bytes) -> None:
    """Send as TCP may deliver it; stop when the other side has heard enough."""
    for byte in data:
        if client.wire.end is not None:
            return
        client.send(bytes([byte]))
        await asyncio.sleep(0)


async def is_refused_and_closed(client: Client) -> None:
    """One answer in the error shape, and the end."""
    got = await client.response()
    assert (got.status, got.reason) == (400, "bad_request")
    assert got.error["type"] == "invalid_request_error"
    assert MARK.encode() not in got.head.raw + got.body
    await client.ended()
    assert client.wire.received == got.head.raw + got.body


async def is_unharmed(running: Gate, upstream: Upstream) -> None:
    """Nothing is held any more, and the next request is served."""
    await running.wait_until(**IDLE)
    before = len(upstream.calls)
    upstream.reply = response(b"next")
    assert (await running.request(get("/v1/next"))).body == b"next"
    assert [call.target for call in upstream.calls[before:]] == ["/v1/next"]
