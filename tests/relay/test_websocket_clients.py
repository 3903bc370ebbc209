"""Real WebSocket clients, and a real server, through the gate."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import openai
import pytest
import websockets
from aiohttp import ClientSession, WSMsgType, web

from tests.conftest import StartGate
from tests.support.http import (
    UPSTREAM_KEY,
    response,
)
from tests.support.upstream import Call, Upstream
from tests.support.waiting import soon
from tests.support.websocket import (
    WebSocketEnd,
    handshake_response,
)


@pytest.fixture
async def echo(_no_task_left: None) -> AsyncIterator[str]:
    """An aiohttp server that echoes each message; the value is its base URL."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("realtime",), max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/v1/realtime", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


MESSAGES: list[str | bytes] = ["hello", "", b"\x00\xff", b"", "\N{GRINNING FACE}" * 100_000]


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_websockets_package_connects_through_the_gate(
    gate: StartGate, echo: str, compression: str | None
) -> None:
    running = await gate(OPENAI_BASE_URL=echo)
    url = f"{running.url}/v1/realtime".replace("http", "ws", 1)
    async with (
        soon(),
        websockets.connect(
            url, compression=compression, subprotocols=[websockets.Subprotocol("realtime")]
        ) as socket,
    ):
        assert socket.subprotocol == "realtime"
        assert len(socket.protocol.extensions) == (compression is not None)
        for message in MESSAGES:
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping(b"x"))
        await socket.close(4001, "done")
        # aiohttp responds to any code with this one.
        assert socket.close_code == 1000
    assert (await running.settled())[0]["outcome"] == "ok"


@pytest.mark.parametrize("compress", [15, 0])
async def test_aiohttp_connects_through_the_gate(
    gate: StartGate, echo: str, compress: int
) -> None:
    running = await gate(OPENAI_BASE_URL=echo)
    async with (
        soon(),
        ClientSession() as session,
        session.ws_connect(
            f"{running.url}/v1/realtime", compress=compress, max_msg_size=0
        ) as socket,
    ):
        assert bool(socket.compress) == bool(compress)
        for message in MESSAGES:
            await (
                socket.send_str(message)
                if isinstance(message, str)
                else socket.send_bytes(message)
            )
            assert (await socket.receive()).data == message
        await socket.close(code=4001)
    assert (await running.settled())[0]["outcome"] == "ok"


async def test_websockets_package_sees_the_refused_handshake(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response(b"no", "x-own: 1", status="403 Forbidden")
    running = await gate()
    with pytest.raises(websockets.InvalidStatus) as raised:
        await websockets.connect(f"{running.url}/v1/realtime".replace("http", "ws", 1))
    refused = raised.value.response
    assert (refused.status_code, refused.body, refused.headers["x-own"]) == (403, b"no", "1")


async def test_websockets_package_sees_a_cut_as_code_1006(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    connecting = asyncio.create_task(
        _connect(f"{running.url}/v1/realtime".replace("http", "ws", 1))
    )
    call = await upstream.call()
    call.send(handshake_response(call.head))
    socket = await connecting
    call.close()
    with pytest.raises(websockets.ConnectionClosedError):
        await socket.recv()
    assert socket.close_code == 1006


async def _connect(url: str) -> websockets.ClientConnection:
    return await websockets.connect(url)


async def test_openai_sdk_connects_through_the_gate(
    gate: StartGate, upstream: Upstream, async_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    running = await gate()

    async def serve() -> Call:
        call = await upstream.call()
        call.send(handshake_response(call.head))
        server = WebSocketEnd(call.wire, masks=False)
        update = json.loads((await server.frame()).payload)
        server.send(json.dumps({"type": "session.updated", "session": update["session"]}).encode())
        await server.close_frame()
        server.close()
        return call

    serving = asyncio.create_task(serve())
    async with soon(), async_client(running).realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        event = await connection.recv()
    assert event.type == "session.updated"
    call = await serving
    assert call.target == "/v1/realtime?model=gpt-realtime"
    assert call.head["authorization"] == f"Bearer {UPSTREAM_KEY}"
    [line] = await running.settled()
    assert (line["outcome"], line["model"]) == ("ok", "gpt-realtime")
