"""How a connection from a client handles its requests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from rustygate.aiohttp_internals.server import Runner, ServerConnection, free_head
from tests.support.waiting import soon, until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

REQUEST = b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
UPGRADE = REQUEST[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
# As Java's HttpClient sends it with each request.
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"


class Turns(ServerConnection):
    """A connection whose requests wait until the test gives them their turn."""

    __slots__ = ("heads", "partial_heads", "turns")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.heads = 0
        self.partial_heads: list[bytes] = []
        self.turns: list[asyncio.Future[None]] = []

    def wait_for_turn(self) -> "asyncio.Future[None]":
        self.turns.append(asyncio.get_running_loop().create_future())
        return self.turns[-1]

    def on_head(self) -> None:
        self.heads += 1

    def on_partial_head(self, data: bytes) -> None:
        self.partial_heads.append(data)

    @property
    def parsed(self) -> int:
        """How many heads were parsed, of requests that are not handled yet."""
        return len(self._messages)


class Sent(asyncio.Transport):
    """A client's transport that keeps what the connection sends."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += bytes(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


@asynccontextmanager
async def turns(handler: Handler) -> AsyncIterator[tuple[Turns, Sent]]:
    """A connection in memory, which awaits its first request."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler, name="all")
    runner = Runner(application, Turns, prefix="/v1/", fallback="all")
    await runner.setup()
    assert runner.server is not None
    connection = runner.server()
    assert isinstance(connection, Turns)
    connection.connection_made(sent := Sent())
    await until(lambda: connection.is_idle)
    try:
        yield connection, sent
    finally:
        connection.connection_lost(None)
        await runner.cleanup()


@asynccontextmanager
async def connected(
    handler: Handler, connection_type: type[ServerConnection] = ServerConnection, **options: float
) -> AsyncIterator[Streams]:
    """A connection to a server with that handler."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler, name="all")
    runner = Runner(application, connection_type, prefix="/v1/", fallback="all", **options)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await runner.cleanup()


async def exchange(streams: Streams) -> None:
    reader, writer = streams
    writer.write(REQUEST)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")


async def test_requests_of_a_connection_run_in_one_task() -> None:
    tasks = set()

    async def handler(request: web.Request) -> web.Response:
        tasks.add(asyncio.current_task())
        return web.Response(status=204)

    async with soon(), connected(handler) as streams:
        await exchange(streams)
        await exchange(streams)
        assert len(tasks) == 1


async def test_idle_connection_is_closed_even_after_a_long_request() -> None:
    """The timer fires within the request, and must start again after it."""
    timer_fired = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        asyncio.get_running_loop().call_later(0.05, timer_fired.set)
        await timer_fired.wait()
        return web.Response(status=204)

    async with soon(), connected(handler, keepalive_timeout=0.02) as streams:
        await exchange(streams)
        assert await streams[0].read() == b""


async def test_rest_of_a_body_that_the_handler_left_is_read() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=204)

    async with soon(), connected(handler) as streams:
        reader, writer = streams
        writer.write(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.write(b"345")
        await exchange(streams)


async def test_connection_ends_if_the_rest_of_a_body_does_not_come() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=204)

    async with soon(), connected(handler, lingering_time=0.02) as (reader, writer):
        writer.write(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12")
        assert (await reader.read()).startswith(b"HTTP/1.1 204")


async def test_declined_upgrade_behind_a_request_whose_head_was_freed() -> None:
    """The parser must be kept, since it waits for the answer to the upgrade."""
    began = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        if not began.is_set():
            began.set()
            await until(lambda: bool(request.protocol._messages))
            free_head(request)
        return web.Response(status=204)

    async with soon(), connected(handler) as streams:
        reader, writer = streams
        writer.write(REQUEST)
        await began.wait()
        writer.write(UPGRADE)
        for _ in range(2):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        await exchange(streams)


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read() + request.raw_path.encode())


class Answering(ServerConnection):
    """A connection that answers what it rejects."""

    def error_response(
        self, request: web.BaseRequest, error: BaseException | None
    ) -> web.StreamResponse:
        response = web.Response(status=400)
        response.force_close()
        return response


@pytest.mark.parametrize("start", [REQUEST, POST], ids=["GET", "POST"])
async def test_upgrade_that_is_not_known_is_ignored(start: bytes) -> None:
    body = b"abc" if start is POST else b""
    async with soon(), connected(echo) as (reader, writer):
        for cut in (0, 10, len(start) - 2, len(start[:-2] + H2C)):
            data = start[:-2] + H2C + body
            writer.write(data[:cut])
            await writer.drain()
            writer.write(data[cut:])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(body + b"/v1/x")) == body + b"/v1/x"


@pytest.mark.parametrize("start", [REQUEST[:-2] + H2C, POST[:-2] + H2C + b"abc"])
async def test_request_behind_an_unknown_upgrade_is_rejected(start: bytes) -> None:
    """The parser drops it, so a later response would pass for its own."""
    async with soon(), connected(echo, Answering) as (reader, writer):
        writer.write(start + REQUEST)
        responses = await reader.read()
        assert responses.startswith(b"HTTP/1.1 200")
        assert responses.count(b"HTTP/1.1 400") == 1


@pytest.mark.parametrize(
    ("start", "count"),
    [
        (b"\r\n\r\n" + REQUEST[:-2] + H2C, 1),
        (REQUEST * 2 + REQUEST[:-2] + H2C, 3),
        (REQUEST[:-2] + b"Transfer-Encoding: chunked\r\n" + H2C + b"0\r\n\r\n", 1),
    ],
    ids=["after empty lines", "pipelined", "chunked"],
)
async def test_unknown_upgrade_with_nothing_behind_it_is_ignored(start: bytes, count: int) -> None:
    async with soon(), connected(echo, Answering) as (reader, writer):
        for data, number in ((start, count), (REQUEST, 1)):
            writer.write(data)
            for _ in range(number):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                assert await reader.readexactly(len(b"/v1/x")) == b"/v1/x"


async def test_head_is_parsed_when_its_request_may_begin() -> None:
    async with soon(), turns(echo) as (connection, sent):
        connection.data_received(REQUEST)
        await until(lambda: bool(connection.turns))
        assert (connection.heads, connection.parsed) == (1, 0)
        assert not connection.is_idle
        connection.turns[0].set_result(None)
        await until(lambda: connection.is_idle)
        assert sent.data.endswith(b"\r\n\r\n/v1/x")
        assert not connection.partial_heads


async def test_what_arrives_before_the_turn_follows_the_head() -> None:
    async with soon(), turns(echo) as (connection, sent):
        connection.data_received(POST + b"a")
        connection.data_received(b"b")
        await until(lambda: bool(connection.turns))
        assert connection.parsed == 1
        connection.data_received(b"c")
        connection.turns[0].set_result(None)
        await until(lambda: connection.is_idle)
        assert sent.data.endswith(b"\r\n\r\nabc/v1/x")


async def test_each_request_of_one_piece_of_data_has_its_turn() -> None:
    async with soon(), turns(echo) as (connection, sent):
        connection.data_received(REQUEST + REQUEST.replace(b"x", b"y", 1) + b"GET /v1")
        for answered in range(2):
            await until(lambda: bool(connection.turns))
            assert sent.data.count(b"HTTP/1.1 200 OK") == answered
            connection.turns.pop().set_result(None)
        await until(lambda: connection.is_idle)
        assert sent.data.index(b"/v1/x") < sent.data.index(b"/v1/y")


@pytest.mark.parametrize("start", [REQUEST[:-1], b"\r\n\r\n" + REQUEST[:-1], b"\r\n\r\n"])
async def test_incomplete_head_takes_no_turn(start: bytes) -> None:
    async with soon(), turns(echo) as (connection, sent):
        connection.data_received(start)
        assert connection.partial_heads == [start]
        assert connection.is_idle
        assert connection.heads == 0
        connection.data_received(b"\n" if start.endswith(b"x\r\n\r") else REQUEST)
        await until(lambda: bool(connection.turns))
        connection.turns[0].set_result(None)
        await until(lambda: connection.is_idle)
        assert sent.data.endswith(b"\r\n\r\n/v1/x")
        assert len(connection.turns) == 1


async def test_request_that_waits_for_its_turn_is_answered_by_a_closing_connection() -> None:
    async with soon(), turns(echo) as (connection, sent):
        connection.data_received(REQUEST)
        connection.close()
        assert connection.parsed == 1
        connection.data_received(REQUEST)
        await until(lambda: bool(connection.turns))
        connection.turns[0].set_result(None)
        await until(lambda: sent.is_closed)
        assert sent.data.count(b"/v1/x") == 1


async def test_connection_whose_waiting_head_breaks_the_parser_closes() -> None:
    async with soon(), turns(echo) as (connection, sent):
        connection.data_received(REQUEST.replace(b"/v1/x", b"http://[::1]:80@/v1/x"))
        connection.close()
        assert connection.parsed == 1
        await until(lambda: bool(connection.turns))
        connection.turns[0].set_result(None)
        await until(lambda: sent.is_closed)


async def test_request_of_a_client_that_left_before_its_turn_never_begins() -> None:
    began = []

    async def handler(request: web.Request) -> web.Response:
        began.append(request)
        return web.Response()

    async with soon(), turns(handler) as (connection, sent):
        connection.data_received(REQUEST)
        await until(lambda: bool(connection.turns))
        connection.force_close()
        connection.turns[0].set_result(None)
        task = connection._task_handler
        assert task is not None
        await task
        assert (began, sent.data) == ([], b"")
        assert connection.partial_heads == []
