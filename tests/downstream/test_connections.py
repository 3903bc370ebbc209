"""Limits on connections: slow clients are cut off, too many are rejected, and a client whose
request is queued or in progress may take its time."""

import asyncio
import gc
import socket
import weakref
from contextlib import ExitStack
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

from rustygate import data_plane
from rustygate.downstream import connections, request_body
from rustygate.downstream.connections import ConnectionLimiter
from rustygate.system.shared_counts import lone_count
from rustygate.workers.remote_control import RemoteControl
from tests.conftest import StartGate
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.gate import Gate, also_with_workers, one_process
from tests.support.http import (
    CHAT,
    CONTINUE,
    EVENT_STREAM,
    LAST_CHUNK,
    chunk,
    get,
    post,
    request,
    response,
)
from tests.support.upstream import Upstream
from tests.support.waiting import A_SECOND_S, soon, until, within

SHORT_S = 0.3
MEGABYTE = 1 << 20
MULTIPART = "Content-Type: multipart/form-data; boundary=x"


@pytest.fixture
def _short_head_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", SHORT_S)


@pytest.fixture
def _short_body_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "BODY_TIMEOUT_S", SHORT_S)


short_head_timeout = pytest.mark.usefixtures("_short_head_timeout")
short_body_timeout = pytest.mark.usefixtures("_short_body_timeout")


async def head_timeout(gate: Gate) -> None:
    """Wait for the head timeout: a silent connection is closed when it is over."""
    silent = await gate.connect()
    assert await silent.ended() == "closed"
    assert silent.wire.received == b""


async def expect_request_timeout(client: Client, *, sends: bool = False) -> None:
    """The gate responds with 408 and closes the connection.

    A client that still `sends` may have it reset: the system does so if a byte arrives later.
    """
    got = await client.response()
    assert (got.status, got.reason) == (408, "request_timeout")
    assert got.head["x-should-retry"] == "true"
    assert await client.ended() in ({"closed", "reset"} if sends else {"closed"})


async def expect_rejection(client: Client) -> None:
    """The gate responds with 503 and closes the connection."""
    async with within(A_SECOND_S):
        got = await client.response()
    assert (got.status, got.reason) == (503, "too_many_connections")
    assert got.error["type"] == "service_unavailable_error"
    names = ("retry-after", "x-should-retry", "connection")
    assert [got.head[name] for name in names] == ["1", "true", "close"]
    assert await client.ended() == "closed"


# Heads.


@short_head_timeout
@pytest.mark.parametrize(
    "start",
    [get()[:1], get()[:20], get()[:-3], b"PRI * HTTP/2.0\r\n\r\nS"],
    ids=["one byte", "part of a line", "all but the end", "start of HTTP/2"],
)
async def test_slow_head_times_out(gate: StartGate, start: bytes) -> None:
    running = await gate()
    await expect_request_timeout(await running.send(start))


@short_head_timeout
async def test_trickling_head_does_not_extend_the_timeout(gate: StartGate) -> None:
    client = await (await gate()).connect()
    async with soon():
        for byte in get("/v1/" + "x" * 10_000):
            client.send(bytes([byte]))
            await asyncio.sleep(SHORT_S / 20)
            if client.wire.received:
                break
    await expect_request_timeout(client, sends=True)


@short_head_timeout
async def test_connection_may_idle_between_requests(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate()
    client = await running.connect()
    for _ in range(2):
        assert (await client.request(post())).status == 200
        await head_timeout(running)
    client.send(b"\r\n")
    await head_timeout(running)
    assert (await client.request(post())).status == 200


@short_head_timeout
async def test_slow_head_of_a_later_request_times_out(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    client = await (await gate()).connect()
    assert (await client.request(post())).status == 200
    client.send(post()[:30])
    await expect_request_timeout(client)


@short_head_timeout
@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
async def test_waiting_and_streaming_requests_outlast_the_head_timeout(
    gate: StartGate, upstream: Upstream, later: bool
) -> None:
    """Even while the head of the next request is incomplete."""
    running = await gate()
    client = await running.send(post(), b"" if later else get("/v1/next")[:20])
    call = await upstream.call()
    client.send(get("/v1/next")[:20] if later else b"")
    await head_timeout(running)
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await head_timeout(running)
    call.send(LAST_CHUNK)
    call.done.set()
    assert await client.read_rest() == b"data: 1\n\n"
    client.send(get("/v1/next")[20:])
    await (await upstream.call()).respond(response(b"next"))
    assert (await client.response()).body == b"next"


@short_head_timeout
async def test_slow_body_is_not_a_slow_head(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(post(b"{}")[:-1])
    await head_timeout(running)
    client.send(b"}")
    await (await upstream.call()).respond(response())
    assert (await client.response()).status == 200


@pytest.mark.parametrize("pipelined", [False, True], ids=["first", "pipelined"])
async def test_head_of_many_allowed_lines_is_too_large(
    gate: StartGate, upstream: Upstream, pipelined: bool
) -> None:
    """Each line is within its limit, the head as a whole is not."""
    client = await (await gate()).connect()
    if pipelined:
        client.send(get())
        call = await upstream.call()
    for number in range(20):
        client.send(get("/v1/large").removesuffix(b"\r\n") if not number else b"")
        client.send(b"X-%d: %b\r\n" % (number, b"x" * 20_000))
        await asyncio.sleep(0)
    if pipelined:
        await call.respond(response())
        assert (await client.response()).status == 200
    got = await client.response()
    assert (got.status, got.reason) == (400, "bad_request")
    assert await client.ended() in ("closed", "reset")
    assert len(upstream.calls) == pipelined


async def test_body_bytes_do_not_count_towards_the_head_limit(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response()
    client = await (await gate()).connect()
    large = post(b"x" * MEGABYTE)
    client.send(*[large] * 3, get())
    assert [(await client.response()).status for _ in range(4)] == [200] * 4


# Bodies.


@short_body_timeout
@pytest.mark.parametrize(
    "lines", [(), ("Expect: 100-continue",)], ids=["plain", "Expect: 100-continue"]
)
async def test_stalled_body_times_out(
    gate: StartGate, upstream: Upstream, lines: tuple[str, ...]
) -> None:
    running = await gate()
    client = await running.send(post(b"{}", *lines)[:-1])
    if lines:
        assert (await client.head()).raw == CONTINUE
    await expect_request_timeout(client)
    assert upstream.calls == []
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("refused", "request_timeout")


@short_body_timeout
async def test_stalled_upload_times_out_and_is_never_ended_upstream(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(MAX_BUFFERED_BODY=9_999)
    client = await running.send(request("POST", CHAT, MULTIPART, body=b"x" * 10_000)[:-1])
    call = await upstream.call()
    await call.expect_body(b"x" * 9_999)
    await expect_request_timeout(client)
    await call.ended()


async def test_slow_but_steady_body_is_accepted(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer in total than the timeout for silence."""
    monkeypatch.setattr(request_body, "BODY_TIMEOUT_S", 3.0)
    body = b"thirteen byte"
    client = await (await gate()).send(post(body)[: -len(body)])
    for byte in body:
        await asyncio.sleep(0.25)
        client.send(bytes([byte]))
    call = await upstream.call()
    assert await call.read_rest() == body
    await call.respond(response())
    assert (await client.response()).status == 200


@short_body_timeout
async def test_upload_paused_by_upstream_does_not_time_out(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    sent = request("POST", CHAT, MULTIPART, body=b"x" * 20 * MEGABYTE)
    client = await running.send(sent)
    call = await upstream.call()
    call.wire.pause_reading()
    # Two other requests time out in the meantime.
    for _ in range(2):
        await expect_request_timeout(await running.send(post(b"{}")[:-1]))
    call.wire.resume_reading()
    await call.respond(response())
    assert (await client.response()).status == 200


@short_body_timeout
async def test_stalled_upload_does_not_cut_a_response_that_has_started(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(MAX_BUFFERED_BODY=9_999)
    client = await running.send(request("POST", CHAT, MULTIPART, body=b"x" * 10_000)[:-1])
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await expect_request_timeout(await running.send(post(b"{}")[:-1]))
    call.send(chunk(b"data: 2\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: 1\n\ndata: 2\n\n"


# The connection limit.


@also_with_workers
async def test_connections_above_the_limit_are_rejected_while_none_is_idle(
    gate: StartGate, upstream: Upstream
) -> None:
    """A connection is busy from the first byte of a request until its response has been sent."""
    running = await gate(CONNECTION_LIMIT=2)
    streaming = await running.send(post())
    call = await upstream.call()
    call.send(EVENT_STREAM)
    await streaming.head()
    new = await running.send(get("/health")[:1])
    await expect_rejection(await running.connect())
    await expect_rejection(await running.send(post()))
    call.send(chunk(b"data: 1\n\n"), LAST_CHUNK)
    assert await streaming.read_rest() == b"data: 1\n\n"
    assert (await new.request(get("/health")[1:])).status == 200
    assert "connection limit reached: 2" in running.log.text


async def test_connection_in_the_middle_of_a_head_is_not_idle(gate: StartGate) -> None:
    running = await gate(CONNECTION_LIMIT=1)
    client = await running.connect()
    assert (await client.request(get("/health"))).status == 200
    client.send(get("/health")[:20])
    async with soon():
        while (await running.request(get("/health"))).status != 503:
            pass
    client.send(get("/health")[20:])
    assert (await client.response()).status == 200


@one_process
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_longest_idle_connection_makes_room(
    gate: StartGate, authority: Authority, secure: bool
) -> None:
    settings = authority.issue("127.0.0.1") if secure else {}
    running = await gate(CONNECTION_LIMIT=3, **settings)
    connect = partial(running.connect, tls=authority.client_context() if secure else None)
    first, second, third = [await connect() for _ in range(3)]
    for client in second, first, third, first:
        assert (await client.request(get("/health"))).status == 200
    for longest_idle in second, third, first:
        newcomer = await connect()
        assert (await newcomer.request(get("/health"))).status == 200
        assert await longest_idle.ended() == "closed"
    newest = [await connect() for _ in range(3)]
    for client in newest:
        assert (await client.request(get("/health"))).status == 200


@one_process
async def test_silent_connections_make_room(gate: StartGate) -> None:
    """They count as idle from their beginning, together with those between two requests."""
    running = await gate(CONNECTION_LIMIT=3)
    kept = await running.connect()
    silent = await running.connect()
    assert (await kept.request(get("/health"))).status == 200
    also_silent = await running.connect()
    for longest_idle in silent, kept, also_silent:
        newcomer = await running.connect()
        assert (await newcomer.request(get("/health"))).status == 200
        assert await longest_idle.ended() == "closed"


@one_process
async def test_request_that_has_arrived_is_served_even_if_it_was_not_read(
    gate: StartGate, upstream: Upstream
) -> None:
    """All connections are accepted in one turn of the loop, before any request is read."""
    running = await gate(CONNECTION_LIMIT=3)
    address = urlsplit(running.url)
    assert address.hostname is not None
    with ExitStack() as stack:
        socks = []
        for _ in range(6):
            sock = socket.create_connection((address.hostname, address.port))
            socks.append(stack.enter_context(sock))
            sock.sendall(get("/health"))
        starts = [await asyncio.to_thread(sock.recv, 12) for sock in socks]
    assert starts == [b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 503"] * 3


@one_process
async def test_crowd_takes_the_place_of_idle_connections_only(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one search finds."""
    monkeypatch.setattr(connections, "IDLE_BATCH", 2)
    running = await gate(CONNECTION_LIMIT=6)
    busy = await running.send(post())
    call = await upstream.call()
    idle = [await running.connect() for _ in range(5)]
    for client in idle:
        assert (await client.request(get("/health"))).status == 200
    crowd = [await running.connect() for _ in range(5)]
    for client in idle:
        assert await client.ended() == "closed"
    for client in crowd:
        client.send(get("/health")[:1])
    await running.request(get("/health"))
    await expect_rejection(await running.connect())
    for client in crowd:
        assert (await client.request(get("/health")[1:])).status == 200
    await call.respond(response())
    assert (await busy.response()).status == 200


@also_with_workers
async def test_rejected_client_that_lingers_is_aborted(
    gate: StartGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_TIMEOUT_S", SHORT_S)
    monkeypatch.setattr(connections, "LINGERING_LIMIT", 1)
    running = await gate(CONNECTION_LIMIT=1)
    served = await running.send(get("/health")[:1])
    lingering, other = await running.connect(), await running.connect()
    for client in lingering, other:
        await expect_rejection(client)
    async with soon():
        while lingering.wire.end != "reset":
            lingering.send(b"more")
            await asyncio.sleep(SHORT_S / 10)
    assert (await served.request(get("/health")[1:])).status == 200


@also_with_workers
async def test_rejected_client_that_has_left_is_no_error(gate: StartGate) -> None:
    running = await gate(CONNECTION_LIMIT=1)
    served = await running.send(get("/health")[:1])
    await until(lambda: len(running.connections()) == 1)
    address = urlsplit(running.url)
    for _ in range(3):
        # It has closed before the gate accepts it, and resets when the response arrives.
        socket.create_connection((address.hostname, address.port)).close()
    await expect_rejection(await running.connect())
    assert (await served.request(get("/health")[1:])).status == 200
    served.disconnect()
    await until(lambda: not running.connections())
    again = await running.send(get("/health")[:1])
    await until(lambda: len(running.connections()) == 1)
    await expect_rejection(await running.connect())
    assert (await again.request(get("/health")[1:])).status == 200


async def test_many_rejected_connections_are_all_closed(gate: StartGate) -> None:
    running = await gate(CONNECTION_LIMIT=5)
    served = [await running.send(get("/health")[:1]) for _ in range(5)]
    await until(lambda: [each.awaits_request for each in running.connections()] == [False] * 5)
    for client in await asyncio.gather(*(running.send(get("/health")) for _ in range(100))):
        await expect_rejection(client)
    for client in served:
        assert (await client.request(get("/health")[1:])).status == 200
        client.disconnect()
    await until(lambda: not running.connections())
    assert (await running.request(get("/health"))).status == 200


async def test_connection_limiter_repr_shows_its_state() -> None:
    limiter = ConnectionLimiter(7, lone_count())
    limiter.open.own = 5
    assert repr(limiter) == "<ConnectionLimiter 5 of 7, 0 lingering>"


@pytest.mark.parametrize("workers", [3], indirect=True)
async def test_idle_connection_of_any_worker_makes_room(gate: StartGate) -> None:
    """Whichever accepts the newcomer: it need not have an idle one itself."""
    running = await gate(CONNECTION_LIMIT=6)
    idle = [await running.connect() for _ in range(6)]
    for client in idle:
        assert (await client.request(get("/health"))).status == 200
    for _ in idle:
        busy = await running.connect()
        assert (await busy.request(get("/health"))).status == 200
        busy.send(get("/health")[:1])
    for client in idle:
        assert await client.ended() == "closed"
    await expect_rejection(await running.connect())


@pytest.mark.parametrize("workers", [3], indirect=True)
async def test_worker_does_not_ask_others_for_each_of_many_connections(
    gate: StartGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_plane, "ASK_PAUSE_S", 3600.0)
    asked = []

    async def make_room(channel: RemoteControl) -> bool:
        asked.append(channel)
        return await make_room_as_usual(channel)

    make_room_as_usual = RemoteControl.make_room
    monkeypatch.setattr(RemoteControl, "make_room", make_room)
    running = await gate(CONNECTION_LIMIT=3)
    busy = [await running.send(get("/health")[:1]) for _ in range(3)]
    await until(lambda: len(running.connections()) == 3)
    for _ in range(20):
        await expect_rejection(await running.connect())
    # Each worker asked at most once.
    assert len(asked) == len(set(asked)) <= 3
    for client in busy:
        assert (await client.request(get("/health")[1:])).status == 200


@pytest.mark.parametrize("workers", [3], indirect=True)
async def test_worker_asks_others_again_later(gate: StartGate) -> None:
    """The connection that they close became idle after they had said that none was."""
    running = await gate(CONNECTION_LIMIT=1)
    idle = await running.send(get("/health")[:1])
    await until(lambda: len(running.connections()) == 1)
    for _ in range(5):
        await expect_rejection(await running.connect())
    assert (await idle.request(get("/health")[1:])).status == 200
    async with soon():
        while (await running.request(get("/health"))).status != 200:
            pass
    assert await idle.ended() == "closed"


# Drain and garbage.


async def test_request_on_an_open_connection_is_refused_while_draining(gate: StartGate) -> None:
    running = await gate()
    client = await running.connect()
    await running.request(get("/health"))

    async def shut_down() -> None:
        await running.daemon.drain()
        await running.daemon.stop()

    shutdown = asyncio.create_task(shut_down())
    await asyncio.sleep(SHORT_S / 3)
    got = await client.request(get())
    assert (got.status, got.reason) == (503, "draining")
    async with within(A_SECOND_S):
        await shutdown


async def test_silent_connection_does_not_delay_the_drain(gate: StartGate) -> None:
    running = await gate()
    silent = await running.connect()
    await running.request(get("/health"))
    async with within(A_SECOND_S):
        await running.daemon.drain()
    await running.daemon.stop()
    assert await silent.ended() == "closed"


@one_process
@pytest.mark.parametrize(
    ("data", "status"),
    [(post(), 200), (post(target="/nothing"), 404), (get("/v1/x", "Connection: close"), 200)],
    ids=["served", "refused", "closed by the gate"],
)
async def test_closed_connection_is_freed_without_garbage_collection(
    gate: StartGate, upstream: Upstream, data: bytes, status: int
) -> None:
    """Collections are rare; until the next one, the gate would grow by the memory of each."""
    upstream.reply = EVENT_STREAM + chunk(b"data: x\n\n") + LAST_CHUNK
    running = await gate()
    client = await running.connect()
    server = running.daemon._plane._runner.server
    assert server is not None
    await until(lambda: len(server.connections) == 1)
    [connection] = server.connections
    references: list[weakref.ref[Any]] = [
        weakref.ref(connection),
        weakref.ref(connection.transport),
    ]
    del connection
    gc.disable()
    try:
        assert (await client.request(data)).status == status
        client.disconnect()
        await until(lambda: all(reference() is None for reference in references))
    finally:
        gc.enable()
