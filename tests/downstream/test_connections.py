"""Slow clients are cut off and many are turned away; who waits or is answered takes its time."""

import asyncio
import gc
import weakref
from functools import partial
from typing import Any

import pytest

from rustygate.downstream import connections
from rustygate.downstream import request_body as body
from rustygate.downstream.connections import ConnectionLimiter
from tests.conftest import StartGate
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.gate import Gate
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
from tests.support.waiting import A_SECOND_S, soon, until

SHORT_S = 0.3
MEGABYTE = 1 << 20
MULTIPART = "Content-Type: multipart/form-data; boundary=x"


@pytest.fixture
def _short_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", SHORT_S)


@pytest.fixture
def _short_silences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_TIMEOUT_S", SHORT_S)


short_heads = pytest.mark.usefixtures("_short_heads")
short_silences = pytest.mark.usefixtures("_short_silences")


async def time_for_a_head(gate: Gate) -> None:
    """As long as a head may take: a connection that says nothing lasts until then."""
    silent = await gate.connect()
    assert await silent.ended() == "closed"
    assert silent.wire.received == b""


async def is_cut_off(client: Client) -> None:
    """It is refused for its slowness, and closed."""
    got = await client.response()
    assert (got.status, got.reason) == (408, "request_timeout")
    assert got.head["x-should-retry"] == "true"
    assert await client.ended() == "closed"


async def is_turned_away(client: Client) -> None:
    async with asyncio.timeout(A_SECOND_S):
        got = await client.response()
    assert (got.status, got.reason) == (503, "too_many_connections")
    assert got.error["type"] == "service_unavailable_error"
    told = [got.head[name] for name in ("retry-after", "x-should-retry", "connection")]
    assert told == ["1", "true", "close"]
    assert await client.ended() == "closed"


# Heads.


@short_heads
@pytest.mark.parametrize("cut", [1, 20, -3], ids=["one byte", "a line", "all but the end"])
async def test_slow_head_is_cut_off(gate: StartGate, cut: int) -> None:
    running = await gate()
    await is_cut_off(await running.send(get()[:cut]))


@short_heads
async def test_head_that_dribbles_gets_no_more_time(gate: StartGate) -> None:
    client = await (await gate()).connect()
    async with soon():
        for byte in get("/v1/" + "x" * 10_000):
            client.send(bytes([byte]))
            await asyncio.sleep(SHORT_S / 20)
            if client.wire.received:
                break
    await is_cut_off(client)


@short_heads
async def test_connection_between_requests_may_idle(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate()
    client = await running.connect()
    for _ in range(2):
        assert (await client.request(post())).status == 200
        await time_for_a_head(running)
    client.send(b"\r\n")
    await time_for_a_head(running)
    assert (await client.request(post())).status == 200


@short_heads
async def test_slow_head_of_a_later_request_is_cut_off(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response()
    client = await (await gate()).connect()
    assert (await client.request(post())).status == 200
    client.send(post()[:30])
    await is_cut_off(client)


@short_heads
async def test_who_waits_or_is_answered_may_take_longer(
    gate: StartGate, upstream: Upstream
) -> None:
    """Even if the next request has begun by then."""
    running = await gate()
    client = await running.send(post(), get("/v1/next")[:20])
    call = await upstream.call()
    await time_for_a_head(running)
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await time_for_a_head(running)
    call.send(LAST_CHUNK)
    call.done.set()
    assert await client.read_rest() == b"data: 1\n\n"
    client.send(get("/v1/next")[20:])
    await (await upstream.call()).respond(response(b"next"))
    assert (await client.response()).body == b"next"


@short_heads
async def test_body_is_no_slow_head(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(post(b"{}")[:-1])
    await time_for_a_head(running)
    client.send(b"}")
    await (await upstream.call()).respond(response())
    assert (await client.response()).status == 200


@pytest.mark.parametrize("behind", [False, True], ids=["", "behind one that waits"])
async def test_head_that_is_large_on_the_whole_is_refused(
    gate: StartGate, upstream: Upstream, behind: bool
) -> None:
    """Each of its lines is not."""
    client = await (await gate()).connect()
    if behind:
        client.send(get())
        call = await upstream.call()
    for number in range(20):
        client.send(get("/v1/large").removesuffix(b"\r\n") if not number else b"")
        client.send(b"X-%d: %b\r\n" % (number, b"x" * 20_000))
        await asyncio.sleep(0)
    if behind:
        await call.respond(response())
        assert (await client.response()).status == 200
    got = await client.response()
    assert (got.status, got.reason) == (400, "bad_request")
    assert await client.ended() in ("closed", "reset")
    assert len(upstream.calls) == behind


async def test_bodies_do_not_count_as_heads(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    client = await (await gate()).connect()
    large = post(b"x" * MEGABYTE)
    client.send(*[large] * 3, get())
    assert [(await client.response()).status for _ in range(4)] == [200] * 4


# Bodies.


@short_silences
@pytest.mark.parametrize("lines", [(), ("Expect: 100-continue",)], ids=["", "asked for"])
async def test_body_that_stops_is_cut_off(
    gate: StartGate, upstream: Upstream, lines: tuple[str, ...]
) -> None:
    running = await gate()
    client = await running.send(post(b"{}", *lines)[:-1])
    if lines:
        assert (await client.head()).raw == CONTINUE
    await is_cut_off(client)
    assert upstream.calls == []
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("refused", "request_timeout")


@short_silences
async def test_upload_that_stops_is_cut_off_and_never_ended(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(request("POST", CHAT, MULTIPART, body=b"x" * 10_000)[:-1])
    call = await upstream.call()
    await call.expect_body(b"x" * 9_999)
    await is_cut_off(client)
    await call.ended()


@short_silences
async def test_slow_body_that_goes_on_is_taken(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(post(b"1234567")[:-7])
    for byte in b"1234567":
        await asyncio.sleep(SHORT_S / 3)
        client.send(bytes([byte]))
    call = await upstream.call()
    assert await call.read_rest() == b"1234567"
    await call.respond(response())
    assert (await client.response()).status == 200


@short_silences
async def test_upload_that_upstream_holds_up_is_not_slow(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    sent = request("POST", CHAT, MULTIPART, body=b"x" * 20 * MEGABYTE)
    client = await running.send(sent)
    call = await upstream.call()
    call.wire.pause_reading()
    # The silence of others measures the time.
    for _ in range(2):
        await is_cut_off(await running.send(post(b"{}")[:-1]))
    call.wire.resume_reading()
    await call.respond(response())
    assert (await client.response()).status == 200


@short_silences
async def test_upload_that_stops_once_it_is_answered_cuts_no_answer(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(request("POST", CHAT, MULTIPART, body=b"x" * 10_000)[:-1])
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await is_cut_off(await running.send(post(b"{}")[:-1]))
    call.send(chunk(b"data: 2\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: 1\n\ndata: 2\n\n"


# How many.


async def test_connections_beyond_the_limit_are_turned_away(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(CONNECTION_LIMIT=2)
    streaming = await running.send(post())
    call = await upstream.call()
    call.send(EVENT_STREAM)
    await streaming.head()
    idle = await running.connect()
    assert (await idle.request(get("/health"))).status == 200
    await is_turned_away(await running.connect())
    await is_turned_away(await running.send(post()))
    call.send(chunk(b"data: 1\n\n"), LAST_CHUNK)
    assert await streaming.read_rest() == b"data: 1\n\n"
    assert (await idle.request(get("/health"))).status == 200
    idle.disconnect()
    upstream.reply = response()
    async with soon():
        while (await running.request(get("/health"))).status != 200:
            pass
    assert "connection limit reached: 2" in running.log.text


async def test_connections_by_tls_are_turned_away_too(
    gate: StartGate, authority: Authority
) -> None:
    running = await gate(CONNECTION_LIMIT=1, **authority.issue("127.0.0.1"))
    connect = partial(running.connect, tls=authority.client_context())
    served = await connect()
    assert (await served.request(get("/health"))).status == 200
    await is_turned_away(await connect())
    assert (await served.request(get("/health"))).status == 200


async def test_who_is_turned_away_and_stays_is_cut_off(
    gate: StartGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_TIMEOUT_S", SHORT_S)
    monkeypatch.setattr(connections, "LINGERING_LIMIT", 1)
    running = await gate(CONNECTION_LIMIT=1)
    served = await running.connect()
    lingers, another = await running.connect(), await running.connect()
    for client in lingers, another:
        await is_turned_away(client)
    async with soon():
        while lingers.wire.end != "reset":
            lingers.send(b"more")
            await asyncio.sleep(SHORT_S / 10)
    assert (await served.request(get("/health"))).status == 200


async def test_a_crowd_is_turned_away_and_leaves_nothing(gate: StartGate) -> None:
    running = await gate(CONNECTION_LIMIT=5)
    for client in await asyncio.gather(*(running.send(get("/health")) for _ in range(100))):
        assert (await client.response()).status in (200, 503)
        client.disconnect()
    await until(lambda: not running.daemon._runner.server.connections)  # type: ignore[union-attr]
    assert (await running.request(get("/health"))).status == 200


async def test_door_shows_its_state() -> None:
    assert repr(ConnectionLimiter(7)) == "<ConnectionLimiter limit=7, 0 lingering>"


# The end.


async def test_who_connected_before_the_drain_and_asks_then_is_told(gate: StartGate) -> None:
    running = await gate()
    client = await running.connect()
    await running.request(get("/health"))

    async def end() -> None:
        await running.daemon.drain()
        await running.daemon.stop()

    ending = asyncio.create_task(end())
    await asyncio.sleep(SHORT_S / 3)
    got = await client.request(get())
    assert (got.status, got.reason) == (503, "draining")
    async with asyncio.timeout(A_SECOND_S):
        await ending


async def test_who_never_asks_holds_no_drain_up(gate: StartGate) -> None:
    running = await gate()
    silent = await running.connect()
    await running.request(get("/health"))
    async with asyncio.timeout(A_SECOND_S):
        await running.daemon.drain()
    await running.daemon.stop()
    assert await silent.ended() == "closed"


@pytest.mark.parametrize(
    ("data", "status"),
    [(post(), 200), (post(target="/nothing"), 404), (get("/v1/x", "Connection: close"), 200)],
    ids=["answered", "refused", "closed by the gate"],
)
async def test_connection_that_is_over_waits_for_no_collection(
    gate: StartGate, upstream: Upstream, data: bytes, status: int
) -> None:
    """Collections are seldom; until then its memory would grow what the gate takes."""
    upstream.reply = EVENT_STREAM + chunk(b"data: x\n\n") + LAST_CHUNK
    running = await gate()
    client = await running.connect()
    server = running.daemon._runner.server
    assert server is not None
    await until(lambda: len(server.connections) == 1)
    [connection] = server.connections
    left: list[weakref.ref[Any]] = [weakref.ref(connection), weakref.ref(connection.transport)]
    del connection
    gc.disable()
    try:
        assert (await client.request(data)).status == status
        client.disconnect()
        await until(lambda: all(each() is None for each in left))
    finally:
        gc.enable()
