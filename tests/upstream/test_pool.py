"""The connection pool: reused connections, stale ones, and data that was not requested."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from rustygate.aiohttp_internals.client import UpstreamConnection
from rustygate.downstream.request_body import RequestBody
from rustygate.system.tcp import poll
from rustygate.upstream import pool
from tests.conftest import StartGate
from tests.support.attempts import (
    close_or_reset,
    disconnect,
    end_before_request,
    expect_failure,
    expect_success,
    fill_pool,
    with_streamed_bodies,
)
from tests.support.certificates import Authority
from tests.support.gate import Gate, one_process
from tests.support.http import (
    CONTINUE,
    LAST_CHUNK,
    Response,
    chat,
    chunk,
    get,
    post,
    request,
    response,
)
from tests.support.upstream import Call, Upstream, tls_upstream, url_with_tls


@one_process
@pytest.mark.parametrize(
    "sent", [get(), chat(), request("DELETE", "/v1/x")], ids=["GET", "chat", "DELETE"]
)
async def test_stale_pooled_connection_is_replaced_at_once_and_not_counted(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    running = await gate(UPSTREAM_RETRIES=0)
    calls = await fill_pool(running, upstream, 2)
    end_before_request(monkeypatch, calls[:1], "close")
    client = await running.send(sent)
    fresh = await upstream.call()
    assert fresh.wire not in {call.wire for call in calls}
    await fresh.respond(response(b"fresh"))
    assert (await expect_success(running, client, 1, 3)).body == b"fresh"


async def test_all_pooled_connections_may_be_stale(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await gate(UPSTREAM_RETRIES=0)
    pooled = await fill_pool(running, upstream, 3)
    end_before_request(monkeypatch, pooled, "close")
    clients = [await running.send(chat()) for _ in pooled]
    for _ in pooled:
        await (await upstream.call()).respond(response())
    for client in clients:
        got = await client.response()
        assert (got.status, got.head["x-rustygate-attempts"]) == (200, "1")


async def test_pooled_connection_that_is_closing_is_replaced(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the request was sent over it."""
    is_reusable = UpstreamConnection.is_reusable

    def close_if_pooled(connection: UpstreamConnection) -> bool:
        if connection.request_count:
            assert connection.transport is not None
            connection.transport.close()
        return is_reusable(connection)

    running = await gate(UPSTREAM_RETRIES=0)
    await fill_pool(running, upstream)
    monkeypatch.setattr(UpstreamConnection, "is_reusable", close_if_pooled)
    upstream.reply = response(b"fresh")
    got = await expect_success(running, await running.send(chat()), 1, 2)
    assert got.body == b"fresh"


@pytest.mark.parametrize("retries", [0, 1])
async def test_disconnect_of_the_fresh_connection_counts_as_the_same_attempt(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    running = await gate(UPSTREAM_RETRIES=retries)
    end_before_request(monkeypatch, await fill_pool(running, upstream), "close")
    client = await running.send(get())
    for _ in range(1 + retries):
        await disconnect(upstream, "reset")
    await expect_failure(running, client, "upstream_disconnected", 1 + retries, 2)
    assert len(upstream.calls) == 1 + 1 + retries


@close_or_reset
async def test_partial_response_on_a_pooled_connection_is_not_retried(
    gate: StartGate, upstream: Upstream, how: str
) -> None:
    running = await gate()
    await fill_pool(running, upstream)
    client = await running.send(chat())
    await disconnect(upstream, how, b"HTTP/1.1 200")
    await expect_failure(running, client, "upstream_disconnected", 1, 2)
    assert len(upstream.calls) == 2


@with_streamed_bodies
async def test_streamed_body_on_a_pooled_connection_is_not_retried(
    gate: StartGate, upstream: Upstream, sent: bytes, settings: dict[str, object]
) -> None:
    running = await gate(**settings)
    await fill_pool(running, upstream)
    client = await running.send(sent)
    await disconnect(upstream, "reset")
    await expect_failure(running, client, "upstream_disconnected", 1, 2)
    assert len(upstream.calls) == 2


async def test_connection_closed_by_upstream_is_not_reused(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(UPSTREAM_RETRIES=0)
    [call] = await fill_pool(running, upstream)
    call.wire.half_close()
    await call.ended()
    upstream.reply = response()
    await expect_success(running, await running.send(chat()), 1, 2)
    assert (len(upstream.calls), len(upstream.wires)) == (2, 2)


sent_early_or_late = pytest.mark.parametrize(
    "late", [False, True], ids=["with the response", "later"]
)


async def response_after(
    running: Gate, upstream: Upstream, unrequested: bytes, late: bool
) -> Response:
    """The response to a request after upstream sent unrequested data, together with the previous
    response or after it."""
    client = await running.send(get())
    call = await upstream.call()
    await call.respond(response(), b"" if late else unrequested)
    assert (await client.response()).status == 200
    call.send(unrequested if late else b"")
    upstream.reply = response(b"requested")
    return await running.request(chat())


@sent_early_or_late
async def test_unrequested_response_is_never_passed_on(
    gate: StartGate, upstream: Upstream, late: bool
) -> None:
    unrequested = response(b"unrequested", status="408 Request Timeout")
    got = await response_after(await gate(), upstream, unrequested, late)
    assert got.body == b"requested"


@sent_early_or_late
@pytest.mark.parametrize(
    "partial",
    [
        b"H",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nX-Unrequested: ",
        b"HTTP/1.1 200 OK\r\nX-Unrequested: 1\r\n\r",
    ],
    ids=["one letter", "status line", "header name", "all but a newline"],
)
async def test_unrequested_partial_head_does_not_start_a_response(
    gate: StartGate, upstream: Upstream, partial: bytes, late: bool
) -> None:
    got = await response_after(await gate(), upstream, partial, late)
    assert (got.head.start, got.body) == ("HTTP/1.1 200 OK", b"requested")
    assert len(upstream.wires) == 2


@one_process
async def test_empty_lines_after_a_response_are_ignored(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response() + b"\r\n"
    running = await gate()
    for _ in range(3):
        assert (await running.request(get())).status == 200
    assert len(upstream.wires) == 1


@pytest.mark.parametrize(
    "values",
    [["x" * 60_000], ["x" * 8_000] * 7, ["x"] * 400, ["x" * 150] * 400],
    ids=["long", "several long", "many", "many and large"],
)
async def test_large_response_head_passes(
    gate: StartGate, upstream: Upstream, values: list[str]
) -> None:
    upstream.reply = response(b"{}", *[f"X-Large: {value}" for value in values])
    got = await (await gate()).request(chat())
    assert (got.status, got.head.all("x-large")) == (200, values)


def respond_and_reset(call: Call) -> None:
    """Upstream responds and resets the connection, before the gate can read the response."""
    call.send(response(b"too large", status="413 Too Large"))
    call.wire.wait_until_received()
    call.wire.end_at_once("reset")


def before_each_body(patch: pytest.MonkeyPatch, act: Callable[[], Awaitable[None]]) -> None:
    """Have this done after a request's head was sent, and before its body is."""
    pieces = RequestBody.__aiter__

    async def act_first(body: RequestBody) -> AsyncIterator[bytes | memoryview]:
        await act()
        async for piece in pieces(body):
            yield piece

    patch.setattr(RequestBody, "__aiter__", act_first)


@one_process
async def test_response_and_reset_within_a_body_over_tls(
    gate: StartGate, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write would meet the reset first, and with TLS the response would be lost."""
    async with tls_upstream(authority) as upstream:
        running = await gate(OPENAI_BASE_URL=url_with_tls(upstream), SSL_CERT_FILE=authority.file)

        async def act() -> None:
            respond_and_reset(await upstream.call())

        before_each_body(monkeypatch, act)
        got = await running.request(post(b"x" * (2 << 20)))
        assert (got.status, got.body) == (413, b"too large")


@one_process
async def test_response_and_reset_just_before_the_last_write(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write meets the reset, and the end of the body a transport that is closing. The response
    has not been read by then."""
    calls: list[Call] = []

    async def act() -> None:
        calls.append(await upstream.call())

    def look_too_early(transport: asyncio.BaseTransport, events: int) -> int:
        found = poll(transport, events)
        respond_and_reset(calls.pop())
        return found

    before_each_body(monkeypatch, act)
    monkeypatch.setattr(pool, "poll", look_too_early)
    expects = ["Transfer-Encoding: chunked", "Expect: 100-continue"]
    client = await (await gate()).send(request("POST", "/v1/files", *expects))
    assert (await client.head()).raw == CONTINUE
    got = await client.request(chunk(b"body") + LAST_CHUNK)
    assert (got.status, got.body) == (413, b"too large")
