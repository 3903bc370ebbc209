"""How a connection from a client handles its requests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from rustygate.aiohttp_internals.server import Runner, ServerConnection, free_head
from tests.support.waiting import soon, until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

REQUEST = b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = REQUEST[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@asynccontextmanager
async def connected(handler: Handler, **options: float) -> AsyncIterator[Streams]:
    """A connection to a server with that handler."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler, name="all")
    runner = Runner(application, ServerConnection, prefix="/v1/", fallback="all", **options)
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
