"""The phases of an exchange, each as a scene in which a client, upstream or the gate may leave."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pytest

from tests.conftest import StartGate
from tests.support.client import Client
from tests.support.gate import IDLE, Gate
from tests.support.http import (
    EVENT_STREAM,
    LAST_CHUNK,
    Response,
    chunk,
    get,
    post,
    request,
    response,
    response_head,
)
from tests.support.upstream import Call, Upstream
from tests.support.waiting import soon
from tests.support.wire import Wire

BODY = b'{"model": "gpt-4o", "stream": true}'
FILE = b"--x\r\n\r\n" + b"x" * 1000 + b"\r\n--x--"
MULTIPART = "Content-Type: multipart/form-data; boundary=x"

# More than the gate reads of a body that it does not hold, and less than what makes the kernel
# keep the client's end to itself.
IN_ITS_SOCKET = 600_000

# An upload of which no test sends all.
ENDLESS = request("POST", "/v1/files", MULTIPART, f"Content-Length: {1 << 28}")

# Far more than fits between upstream and a client that does not read.
FLOOD = 24 << 20

# A time to drain that no test waits for, and one that all do.
LONG, SHORT = 20, 0.1

Leaving = Callable[[Wire], None]


def close(wire: Wire) -> None:
    """As a process that ends: what has not been sent is not sent any more."""
    wire.transport.abort()


either_way = pytest.mark.parametrize("leave", [close, Wire.reset], ids=["close", "reset"])


# The phases.


@dataclass(frozen=True, slots=True)
class Scene:
    """An exchange in some phase.

    `call` is its request upstream, if there is one already; `holder` the one it waits behind.
    `finish` lets it come to its good end and takes the answer.
    """

    gate: Gate
    client: Client
    finish: Callable[[], Awaitable[Response]]
    call: Call | None = None
    holder: Call | None = None

    @property
    def numbers(self) -> dict[str, int]:
        """What the gate shows when this exchange is over."""
        return IDLE | {"in_flight": 0 if self.holder is None else 1}


Phase = Callable[[StartGate, Upstream], Awaitable[Scene]]


async def sends_its_body(gate: StartGate, upstream: Upstream) -> Scene:
    """The gate holds what has come so far."""
    running = await gate()
    client = await running.send(post(BODY)[:-1])
    await running.wait_until(held_bytes=len(BODY) - 1)

    async def finish() -> Response:
        client.send(BODY[-1:])
        return await client.response()

    return Scene(running, client, finish)


async def waits(gate: StartGate, upstream: Upstream, *data: bytes) -> Scene:
    """In the queue, behind another exchange."""
    running = await gate(CONCURRENCY_LIMIT=1)
    await running.send(get("/v1/holder"))
    holder = await upstream.call()
    client = await running.connect()
    async with soon():
        await client.wire.send_all(b"".join(data) or post(BODY))
    await running.wait_until(waiters=1)
    return Scene(running, client, client.response, holder=holder)


async def waits_with_its_body_in_its_socket(gate: StartGate, upstream: Upstream) -> Scene:
    body = b"x" * IN_ITS_SOCKET
    return await waits(gate, upstream, request("POST", "/v1/files", MULTIPART, body=body))


async def waits_to_be_told_to_send(gate: StartGate, upstream: Upstream) -> Scene:
    lines = [MULTIPART, "Expect: 100-continue", "Content-Length: 1000"]
    return await waits(gate, upstream, request("POST", "/v1/files", *lines))


async def waits_with_requests_sent_ahead(gate: StartGate, upstream: Upstream) -> Scene:
    """More than aiohttp takes before it stops reading."""
    return await waits(gate, upstream, *[get("/v1/ahead")] * 100)


async def waits_to_try_again(gate: StartGate, upstream: Upstream) -> Scene:
    """Between two attempts."""
    running = await gate()
    client = await running.send(post(BODY))
    call = await upstream.call()
    call.close()
    await call.ended()

    async def finish() -> Response:
        again = await upstream.call()
        await again.respond(response(b"whole"))
        return await client.response()

    return Scene(running, client, finish, call)


async def uploads(gate: StartGate, upstream: Upstream) -> Scene:
    """Half of the body has crossed."""
    running = await gate()
    client = await running.send(request("POST", "/v1/files", MULTIPART, body=FILE)[:-9])
    call = await upstream.call()
    await call.expect_body(FILE[:-9])

    async def finish() -> Response:
        client.send(FILE[-9:])
        await call.respond(response(b"whole"))
        return await client.response()

    return Scene(running, client, finish, call)


async def uploads_to_nobody(gate: StartGate, upstream: Upstream) -> Scene:
    """Upstream does not read, and nobody takes any more of the client's bytes."""
    running = await gate()
    client = await running.send(ENDLESS, FILE)
    call = await upstream.call()
    call.wire.pause_reading()
    await until_stalled(client.wire)
    return Scene(running, client, client.response, call)


async def until_stalled(wire: Wire) -> None:
    """Send until the other side takes no more."""
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.2):
                await wire.send_all(b"x" * (64 << 10))


async def has_been_sent(gate: StartGate, upstream: Upstream) -> Scene:
    """Upstream has all of the request and has not answered."""
    running = await gate()
    client = await running.send(post(BODY))
    call = await upstream.call()
    await call.read_rest()

    async def finish() -> Response:
        await call.respond(response(b"whole"))
        return await client.response()

    return Scene(running, client, finish, call)


async def is_answered(
    gate: StartGate,
    upstream: Upstream,
    head: bytes,
    data: bytes = post(BODY),
    flood: bytes = b"",
    end: bytes = LAST_CHUNK,
) -> Scene:
    """The first bytes of the answer have come down; those of the flood are on their way."""
    running = await gate()
    client = await running.send(data)
    call = await upstream.call()
    await call.read_rest()
    first = b"data: first\n\n"
    framed = chunk if b"chunked" in head else bytes
    call.send(head, framed(first))
    began = await client.head()
    await client.expect_body(first)
    if flood:
        client.wire.pause_reading()
        call.send(framed(flood))

    async def finish() -> Response:
        client.wire.resume_reading()
        call.send(end)
        call.done.set()
        return Response(began, first + await client.read_rest())

    return Scene(running, client, finish, call)


is_answered_plainly = partial(
    is_answered,
    head=response_head("Content-Length: 18", "Content-Type: application/json"),
    end=b"whole",
)
is_streamed = partial(is_answered, head=EVENT_STREAM)
is_streamed_busily = partial(is_answered, head=EVENT_STREAM, flood=b"data: x\n\n" * (FLOOD // 9))


WAITING = {
    "waits": waits,
    "waits with its body in its socket": waits_with_its_body_in_its_socket,
    "waits to be told to send": waits_to_be_told_to_send,
    "waits with requests sent ahead": waits_with_requests_sent_ahead,
}
ANSWERED = {
    "is answered plainly": is_answered_plainly,
    "is streamed": is_streamed,
    "is streamed busily": is_streamed_busily,
}
IN_FLIGHT = {"uploads": uploads, "has been sent": has_been_sent} | ANSWERED
PHASES = (
    {"sends its body": sends_its_body, "waits to try again": waits_to_try_again}
    | WAITING
    | IN_FLIGHT
)


def in_each(phases: Mapping[str, Phase]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("phase", phases.values(), ids=phases)


async def serves_the_next(gate: Gate, upstream: Upstream) -> None:
    upstream.reply = response(b"next")
    assert (await gate.request(get("/v1/next"))).body == b"next"
    assert upstream.calls[-1].target == "/v1/next"


def open_files() -> int:
    return len(os.listdir("/dev/fd"))
