"""The phases of an exchange, set up so that a test can disconnect a side or drain the gate."""

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
from tests.support.waiting import soon, within
from tests.support.wire import Wire

BODY = b'{"model": "gpt-4o", "stream": true}'
FILE = b"--x\r\n\r\n" + b"x" * 1000 + b"\r\n--x--"
MULTIPART = "Content-Type: multipart/form-data; boundary=x"

# More than the gate reads of a body that it does not buffer, and little enough that the kernel
# still delivers the client's close.
UNREAD_BODY_SIZE = 600_000

# An upload that no test completes.
ENDLESS_UPLOAD = request("POST", "/v1/files", MULTIPART, f"Content-Length: {1 << 28}")

# Far more than fits into the buffers between upstream and a client that does not read.
FLOOD_SIZE = 24 << 20

# DRAIN_TIMEOUT: one that no test reaches, and one that expires at once.
LONG_DRAIN_S, SHORT_DRAIN_S = 20, 0.1

Disconnect = Callable[[Wire], None]


either_way = pytest.mark.parametrize(
    "disconnect", [Wire.abort, Wire.reset], ids=["close", "reset"]
)


# The phases.


@dataclass(frozen=True, slots=True)
class Scene:
    """An exchange in some phase.

    Args:
        finish: completes the exchange and reads its response.
        call: its request at upstream, if it has been sent.
        holder: the request it waits behind, if it is queued.
    """

    gate: Gate
    client: Client
    finish: Callable[[], Awaitable[Response]]
    call: Call | None = None
    holder: Call | None = None

    @property
    def snapshot_after(self) -> dict[str, int]:
        """The gate's snapshot once this exchange has ended."""
        return IDLE | {"in_flight": 0 if self.holder is None else 1}


Phase = Callable[[StartGate, Upstream], Awaitable[Scene]]


async def sending_body(gate: StartGate, upstream: Upstream) -> Scene:
    """The gate has buffered a part of the body."""
    running = await gate()
    client = await running.send(post(BODY)[:-1])
    await running.wait_until(held_bytes=len(BODY) - 1)

    async def finish() -> Response:
        client.send(BODY[-1:])
        return await client.response()

    return Scene(running, client, finish)


async def queued(gate: StartGate, upstream: Upstream, *data: bytes, **settings: object) -> Scene:
    """In the queue behind another exchange."""
    running = await gate(CONCURRENCY_LIMIT=1, **settings)
    await running.send(get("/v1/holder"))
    holder = await upstream.call()
    client = await running.connect()
    async with soon():
        await client.wire.send_all(b"".join(data) or post(BODY))
    await running.wait_until(waiters=1)
    return Scene(running, client, client.response, holder=holder)


async def queued_with_unread_body(gate: StartGate, upstream: Upstream) -> Scene:
    body = b"x" * UNREAD_BODY_SIZE
    sent = request("POST", "/v1/files", MULTIPART, body=body)
    return await queued(gate, upstream, sent, MAX_BUFFERED_BODY=0)


async def queued_before_100_continue(gate: StartGate, upstream: Upstream) -> Scene:
    lines = [MULTIPART, "Expect: 100-continue", "Content-Length: 1000"]
    return await queued(gate, upstream, request("POST", "/v1/files", *lines))


async def queued_with_pipelined_requests(gate: StartGate, upstream: Upstream) -> Scene:
    """More requests than aiohttp parses before it pauses reading."""
    return await queued(gate, upstream, *[get("/v1/ahead")] * 100)


async def before_retry(gate: StartGate, upstream: Upstream) -> Scene:
    """Between two attempts of an idempotent request."""
    running = await gate()
    client = await running.send(
        request("PUT", "/v1/x", "Content-Type: application/json", body=BODY)
    )
    call = await upstream.call()
    call.close()
    await call.ended()

    async def finish() -> Response:
        again = await upstream.call()
        await again.respond(response(b"whole"))
        return await client.response()

    return Scene(running, client, finish, call)


async def uploading(gate: StartGate, upstream: Upstream) -> Scene:
    """Half of the body has reached upstream."""
    running = await gate(MAX_BUFFERED_BODY=0)
    client = await running.send(request("POST", "/v1/files", MULTIPART, body=FILE)[:-9])
    call = await upstream.call()
    await call.expect_body(FILE[:-9])

    async def finish() -> Response:
        client.send(FILE[-9:])
        await call.respond(response(b"whole"))
        return await client.response()

    return Scene(running, client, finish, call)


async def uploading_to_stalled_upstream(gate: StartGate, upstream: Upstream) -> Scene:
    """Upstream does not read, so that the gate no longer reads from the client either."""
    running = await gate()
    client = await running.send(ENDLESS_UPLOAD, FILE)
    call = await upstream.call()
    call.wire.pause_reading()
    await send_until_stalled(client.wire)
    return Scene(running, client, client.response, call)


async def send_until_stalled(wire: Wire) -> None:
    """Send until the other side accepts no more."""
    with suppress(TimeoutError):
        while True:
            async with within(0.2):
                await wire.send_all(b"x" * (64 << 10))


async def sent_request(gate: StartGate, upstream: Upstream) -> Scene:
    """Upstream has received the whole request and has not responded."""
    running = await gate()
    client = await running.send(post(BODY))
    call = await upstream.call()
    await call.read_rest()

    async def finish() -> Response:
        await call.respond(response(b"whole"))
        return await client.response()

    return Scene(running, client, finish, call)


async def responding(
    gate: StartGate,
    upstream: Upstream,
    head: bytes,
    data: bytes = post(BODY),
    flood: bytes = b"",
    end: bytes = LAST_CHUNK,
) -> Scene:
    """The client has the first bytes of the response; `flood` is on its way."""
    running = await gate()
    client = await running.send(data)
    call = await upstream.call()
    await call.read_rest()
    first = b"data: first\n\n"
    framed = chunk if b"chunked" in head else bytes
    call.send(head, framed(first))
    head_received = await client.head()
    await client.expect_body(first)
    if flood:
        client.wire.pause_reading()
        call.send(framed(flood))

    async def finish() -> Response:
        client.wire.resume_reading()
        call.send(end)
        call.done.set()
        return Response(head_received, first + await client.read_rest())

    return Scene(running, client, finish, call)


responding_with_length = partial(
    responding,
    head=response_head("Content-Length: 18", "Content-Type: application/json"),
    end=b"whole",
)
streaming = partial(responding, head=EVENT_STREAM)
streaming_to_slow_client = partial(
    responding, head=EVENT_STREAM, flood=b"data: x\n\n" * (FLOOD_SIZE // 9)
)


QUEUED = {
    "queued": queued,
    "queued with unread body": queued_with_unread_body,
    "queued before 100 Continue": queued_before_100_continue,
    "queued with pipelined requests": queued_with_pipelined_requests,
}
RESPONDING = {
    "responding with length": responding_with_length,
    "streaming": streaming,
    "streaming to slow client": streaming_to_slow_client,
}
IN_FLIGHT = {"uploading": uploading, "sent": sent_request} | RESPONDING
PHASES = {"sending body": sending_body, "before retry": before_retry} | QUEUED | IN_FLIGHT


def in_each(phases: Mapping[str, Phase]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("phase", phases.values(), ids=phases)


async def check_next_request(gate: Gate, upstream: Upstream) -> None:
    upstream.reply = response(b"next")
    assert (await gate.request(get("/v1/next"))).body == b"next"
    assert upstream.calls[-1].target == "/v1/next"


def open_files() -> int:
    return len(os.listdir("/dev/fd"))
