"""Who leaves when: clients, upstream and the gate itself, in each phase of an exchange.

Whoever leaves, the others are told, everything is let go of within a second, and the exchange's
one line says what happened.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

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
from tests.support.upstream import Call, Upstream, loopback_socket, url_of
from tests.support.waiting import A_SECOND_S, soon, until
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


# The client leaves.


@either_way
async def test_client_that_leaves_in_its_head_leaves_no_trace(
    gate: StartGate, upstream: Upstream, leave: Leaving
) -> None:
    running = await gate()
    before = open_files()
    client = await running.send(post(BODY)[:50])
    await running.request(get("/health"))
    leave(client.wire)
    # The other one's two ends are open still.
    await until(lambda: open_files() == before + 2, A_SECOND_S)
    await serves_the_next(running, upstream)
    assert len(upstream.calls) == len(await running.settled()) == 1


@either_way
@in_each(PHASES)
async def test_client_that_leaves_takes_everything_with_it(
    gate: StartGate, upstream: Upstream, phase: Phase, leave: Leaving
) -> None:
    scene = await phase(gate, upstream)
    sent = len(upstream.calls)
    leave(scene.client.wire)
    await scene.gate.wait_until(**scene.numbers)
    if scene.call is not None:
        await scene.call.ended(A_SECOND_S)
    [line] = await scene.gate.settled()
    assert line["outcome"] == "client_left"
    if scene.holder is not None:
        await scene.holder.respond(response())
    await serves_the_next(scene.gate, upstream)
    assert len(upstream.calls) == sent + 1


@either_way
@pytest.mark.parametrize(
    "reply",
    [
        response(b"whole"),
        response_head("Transfer-Encoding: chunked") + chunk(b"whole") + LAST_CHUNK,
        EVENT_STREAM + chunk(b"data: [DONE]\n\n") + LAST_CHUNK,
    ],
    ids=["length", "chunked", "stream"],
)
async def test_client_that_leaves_after_the_last_byte_had_it_all(
    gate: StartGate, upstream: Upstream, reply: bytes, leave: Leaving
) -> None:
    upstream.reply = reply
    running = await gate()
    client = await running.connect()
    await client.request(post(BODY))
    leave(client.wire)
    await running.wait_until(**IDLE)
    [line] = await running.settled()
    assert line["outcome"] == "ok"
    await serves_the_next(running, upstream)
    assert len(upstream.wires) == 1


async def test_client_that_breaks_a_stalled_upload_frees_the_way_upstream(
    gate: StartGate, upstream: Upstream
) -> None:
    """What upstream does not read keeps no connection open, nor the rest of the body."""
    before = open_files()
    scene = await uploads_to_nobody(gate, upstream)
    # The gate's listener, and both ends of both connections.
    assert open_files() == before + 5
    scene.client.reset()
    await scene.gate.wait_until(**IDLE)
    # The listener, and upstream's own end.
    await until(lambda: open_files() == before + 2, A_SECOND_S)
    assert (await scene.gate.settled())[0]["outcome"] == "client_left"
    await serves_the_next(scene.gate, upstream)


@pytest.mark.xfail(
    strict=True,
    reason="TCP delivers no end behind bytes that nobody takes: getsockopt(TCP_INFO) says "
    "ESTABLISHED too, and however wide the window, a client that goes on sending fills it",
)
async def test_client_that_closes_behind_a_full_socket_is_missed(
    gate: StartGate, upstream: Upstream
) -> None:
    scene = await waits(gate, upstream, ENDLESS)
    await until_stalled(scene.client.wire)
    close(scene.client.wire)
    try:
        await scene.gate.wait_until(**scene.numbers)
    finally:
        assert scene.holder is not None
        await scene.holder.respond(response())


# Upstream leaves.


async def is_answered_in_part(gate: StartGate, upstream: Upstream) -> Scene:
    scene = await has_been_sent(gate, upstream)
    assert scene.call is not None
    scene.call.send(b"HTTP/1.1 200 OK\r\nX-")
    return scene


async def is_answered_by_a_head(gate: StartGate, upstream: Upstream) -> Scene:
    scene = await has_been_sent(gate, upstream)
    assert scene.call is not None
    scene.call.send(EVENT_STREAM)
    return scene


UNANSWERED = {
    "uploads": uploads,
    "uploads to nobody": uploads_to_nobody,
    "has been sent": has_been_sent,
    "is answered in part": is_answered_in_part,
    "is answered by a head": is_answered_by_a_head,
}


@asynccontextmanager
async def slamming(leave: Leaving) -> AsyncIterator[str]:
    """An upstream that ends each connection at once; its base URL."""

    class Slammed(Wire):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            leave(self)

    sock = loopback_socket()
    async with await asyncio.get_running_loop().create_server(Slammed, sock=sock):
        yield url_of(sock)


@either_way
async def test_upstream_that_leaves_before_it_reads_is_tried_again_and_given_up(
    gate: StartGate, upstream: Upstream, leave: Leaving
) -> None:
    async with slamming(leave) as url:
        running = await gate(OPENAI_BASE_URL=url)
        got = await running.request(post(BODY))
        assert (got.status, got.reason) == (502, "upstream_disconnected")
        await running.wait_until(**IDLE)
        [line] = await running.settled()
        assert (line["outcome"], line["attempts"]) == ("upstream_error", 3)


@either_way
@in_each(UNANSWERED)
async def test_upstream_that_leaves_before_its_answer_is_a_failure(
    gate: StartGate, upstream: Upstream, phase: Phase, leave: Leaving
) -> None:
    scene = await phase(partial(gate, UPSTREAM_RETRIES=0), upstream)
    assert scene.call is not None
    leave(scene.call.wire)
    got = await scene.client.response()
    assert (got.status, got.reason) == (502, "upstream_disconnected")
    await scene.call.ended(A_SECOND_S)
    await scene.gate.wait_until(**IDLE)
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["attempts"]) == ("upstream_error", 1)
    await serves_the_next(scene.gate, upstream)


@either_way
@in_each(ANSWERED)
async def test_upstream_that_leaves_in_its_answer_cuts_it(
    gate: StartGate, upstream: Upstream, phase: Phase, leave: Leaving
) -> None:
    scene = await phase(gate, upstream)
    assert scene.call is not None
    leave(scene.call.wire)
    scene.client.wire.resume_reading()
    await scene.client.read_until_cut()
    await scene.call.ended(A_SECOND_S)
    await scene.gate.wait_until(**IDLE)
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["status"]) == ("aborted", 200)
    await serves_the_next(scene.gate, upstream)


# The gate leaves.


@asynccontextmanager
async def draining(gate: Gate) -> AsyncIterator[None]:
    """The gate drains meanwhile, and has drained after."""
    task = asyncio.create_task(gate.daemon.drain())
    try:
        # Not before it has begun.
        await asyncio.sleep(0)
        yield
        async with soon():
            await task
    finally:
        task.cancel()


def is_told_to_try_again(got: Response) -> bool:
    told = [got.head.all(name) for name in ("retry-after", "x-should-retry", "connection")]
    return (got.status, got.reason) == (503, "draining") and told == [["1"], ["true"], ["close"]]


@in_each(WAITING | {"waits to try again": waits_to_try_again})
async def test_waiters_are_refused_at_once_when_the_gate_drains(
    gate: StartGate, upstream: Upstream, phase: Phase
) -> None:
    scene = await phase(partial(gate, DRAIN_TIMEOUT=LONG), upstream)
    async with draining(scene.gate):
        async with asyncio.timeout(A_SECOND_S):
            got = await scene.client.response()
        assert is_told_to_try_again(got)
        assert got.error["code"] == "draining"
        await scene.gate.wait_until(**scene.numbers)
        [line] = await scene.gate.settled()
        assert (line["outcome"], line["reason"]) == ("refused", "draining")
        if scene.holder is not None:
            await scene.holder.respond(response())
    assert len(upstream.calls) == 1


async def test_who_has_not_sent_all_is_refused_once_it_has(
    gate: StartGate, upstream: Upstream
) -> None:
    scene = await sends_its_body(partial(gate, DRAIN_TIMEOUT=LONG), upstream)
    late = await scene.gate.send(post(BODY)[:50])
    await scene.gate.request(get("/health"))
    async with draining(scene.gate):
        assert is_told_to_try_again(await scene.finish())
        late.send(post(BODY)[50:])
        assert is_told_to_try_again(await late.response())
    assert upstream.wires == []
    assert {line["outcome"] for line in await scene.gate.settled(2)} == {"refused"}


@in_each(IN_FLIGHT)
async def test_what_is_in_flight_may_finish_while_the_gate_drains(
    gate: StartGate, upstream: Upstream, phase: Phase
) -> None:
    scene = await phase(partial(gate, DRAIN_TIMEOUT=LONG), upstream)
    async with draining(scene.gate):
        got = await scene.finish()
        assert got.status == 200
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["bytes"]) == ("ok", len(got.body))
    assert scene.gate.snapshot() == IDLE


@in_each(IN_FLIGHT | {"sends its body": sends_its_body})
async def test_what_does_not_finish_in_time_is_aborted(
    gate: StartGate, upstream: Upstream, phase: Phase
) -> None:
    scene = await phase(partial(gate, DRAIN_TIMEOUT=SHORT), upstream)
    async with draining(scene.gate):
        pass
    assert scene.gate.snapshot() == IDLE
    scene.client.wire.resume_reading()
    if phase in ANSWERED.values():
        await scene.client.read_until_cut()
    else:
        await scene.client.ended()
        assert scene.client.wire.received == b""
    if scene.call is not None:
        await scene.call.ended(A_SECOND_S)
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "draining")


async def test_http_1_0_client_can_tell_an_aborted_answer_from_a_whole_one(
    gate: StartGate, upstream: Upstream
) -> None:
    asked = b"GET /v1/x HTTP/1.0\r\nHost: gate\r\n\r\n"
    drained = partial(gate, DRAIN_TIMEOUT=SHORT)
    scene = await is_answered(drained, upstream, response_head(), asked)
    async with draining(scene.gate):
        pass
    assert await scene.client.ended() == "reset"


async def test_second_signal_aborts_what_drains(gate: StartGate, upstream: Upstream) -> None:
    """Stopping waits for nobody."""
    scene = await is_streamed(partial(gate, DRAIN_TIMEOUT=LONG), upstream)
    async with draining(scene.gate):
        async with asyncio.timeout(A_SECOND_S):
            await scene.gate.daemon.stop()
        await scene.client.read_until_cut()
    assert (await scene.gate.settled())[0]["outcome"] == "aborted"


async def test_draining_gate_takes_no_connection_and_no_exchange(
    gate: StartGate, upstream: Upstream
) -> None:
    scene = await has_been_sent(partial(gate, DRAIN_TIMEOUT=LONG), upstream)
    idle = await scene.gate.connect()
    assert (await idle.request(get("/ready"))).status == 200
    async with draining(scene.gate):
        address = urlsplit(scene.gate.url)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address.hostname, address.port)
        assert (await idle.request(get("/ready"))).status == 503
        assert (await idle.request(get("/health"))).status == 200
        assert is_told_to_try_again(await idle.request(post(BODY)))
        assert await idle.ended() == "closed"
        await scene.finish()
    assert len(upstream.calls) == 1


async def test_gate_with_nothing_in_hand_drains_at_once(gate: StartGate) -> None:
    running = await gate(DRAIN_TIMEOUT=LONG)
    async with asyncio.timeout(A_SECOND_S):
        await running.daemon.drain()


async def test_idle_connections_are_closed_in_the_end(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate()
    silent, idle = await running.connect(), await running.connect()
    assert (await idle.request(post(BODY))).status == 200
    await running.daemon.drain()
    async with asyncio.timeout(A_SECOND_S):
        await running.daemon.stop()
        assert await silent.ended() == "closed"
        assert await idle.ended() == "closed"
        assert await upstream.wires[0].ended() == "closed"
