"""WebSocket connections: messages, closing, faults."""

import asyncio
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from rustygate.simulator import Options
from rustygate.simulator.transport.websocket import MAX_MESSAGE_BYTES
from tests.support.simulator import KEY, Simulator, build_request, running_simulator
from tests.support.simulator_websocket import BEARER, CREATE, REALTIME, connect, receive_until
from tests.support.waiting import within


async def test_binary_messages_are_echoed_in_order(simulator: Simulator) -> None:
    data = bytes(range(256)) * 300
    async with connect(simulator, "/responses") as websocket:
        await websocket.send_json(CREATE)
        await websocket.send_bytes(data)
        await receive_until(websocket, "response.completed")
        assert await websocket.receive_bytes() == data


async def test_pings_are_answered_during_a_slow_response(simulator: Simulator) -> None:
    async with connect(simulator, "/responses", "tokens_per_second=0.001") as websocket:
        await websocket.send_json(CREATE)
        await receive_until(websocket, "response.output_text.delta")
        await websocket.ping(b"there?")
        pong = await websocket.receive()
    assert (pong.type, pong.data) == (WSMsgType.PONG, b"there?")


async def test_each_response_keeps_the_pace(simulator: Simulator) -> None:
    """The time before it does not count."""
    request = CREATE | {"max_output_tokens": 5}
    async with connect(simulator, "/responses", "tokens_per_second=20") as websocket:
        for _ in range(2):
            await asyncio.sleep(0.3)
            began = monotonic()
            async with within(2):
                await websocket.send_json(request)
                await receive_until(websocket, "response.incomplete")
            assert monotonic() - began > 0.19


async def test_compression_is_negotiated(simulator: Simulator) -> None:
    async with connect(simulator, compress=15) as websocket:
        assert websocket.compress == 15
        await receive_until(websocket, "session.created")
        await websocket.send_bytes(bytes(2_000_000))
        assert await websocket.receive_bytes() == bytes(2_000_000)


@pytest.mark.parametrize("compress", [0, 15], ids=["plain", "compressed"])
@pytest.mark.parametrize("text", [False, True], ids=["bytes", "text"])
async def test_message_above_the_limit_closes_with_1009(
    simulator: Simulator, compress: int, text: bool
) -> None:
    async with connect(simulator, "/responses", compress=compress) as websocket:
        send = websocket.send_str if text else websocket.send_bytes
        longest: Any = "x" * MAX_MESSAGE_BYTES if text else bytes(MAX_MESSAGE_BYTES)
        await send(longest)
        assert len((await websocket.receive()).data) > 100
        await send(longest + ("x" if text else b"x"))
        closed = await websocket.receive()
    assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1009)


async def test_invalid_utf8_closes_with_1007(simulator: Simulator) -> None:
    async with connect(simulator, "/responses") as websocket:
        await websocket.send_frame(b"\xff", WSMsgType.TEXT)
        closed = await websocket.receive()
    assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1007)


async def test_key_offered_as_subprotocol_is_accepted_but_never_selected(
    simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    offered = f"openai-insecure-api-key.{KEY}"
    for protocols, selected in (((offered,), None), ((offered, "realtime"), "realtime")):
        async with connect(simulator, headers={}, protocols=protocols) as websocket:
            assert websocket.protocol == selected
            await receive_until(websocket, "session.created")
    assert list((await simulator.stats())["keys"]) == ["...1234"]
    assert KEY not in caplog.text


async def test_unknown_subprotocol_is_not_selected(simulator: Simulator) -> None:
    async with connect(simulator, protocols=("dance",)) as websocket:
        assert websocket.protocol is None


@pytest.mark.parametrize("path", ["/v1/realtime?model=m", "/v1/responses"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_websocket_endpoint_without_upgrade_returns_400(
    simulator: Simulator, method: str, path: str
) -> None:
    assert (await simulator.send(build_request(method, path))).status == 400


@pytest.mark.parametrize(
    ("path", "simulate", "headers", "status"),
    [
        (REALTIME, "429", BEARER, 429),
        (REALTIME, "slow_down", BEARER, 429),
        ("/responses", "503", BEARER, 503),
        (REALTIME, "", {}, 401),
        ("/realtime?model=no-such", "", BEARER, 404),
        ("/realtime", "", BEARER, 400),
    ],
)
async def test_upgrade_is_rejected_with_a_status(
    simulator: Simulator, path: str, simulate: str, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        async with connect(simulator, path, simulate, headers=headers):
            pass
    assert error.value.status == status


async def test_sdk_raises_on_a_rejected_upgrade(simulator: Simulator) -> None:
    websockets = pytest.importorskip("websockets")
    async with simulator.sdk() as sdk:
        with pytest.raises(websockets.InvalidStatus, match="429"):
            async with sdk.realtime.connect(
                model="m", extra_headers={"X-Simulate": "insufficient_quota"}
            ):
                pass


async def test_upgrade_response_has_rate_limit_headers(simulator: Simulator) -> None:
    async with connect(simulator) as websocket:
        headers = websocket._response.headers
        assert headers["x-ratelimit-limit-requests"] == "500"
        assert "x-request-id" in headers


@pytest.mark.parametrize(
    ("path", "simulate", "event_count", "code"),
    [
        (REALTIME, "close=4001", 0, 4001),
        (REALTIME, "close=1011,cut=1", 1, 1011),
        ("/responses", "close=4001", 0, 4001),
        ("/responses", "close=4999,cut=3", 3, 4999),
    ],
)
async def test_close_fault_closes_with_its_code_after_the_requested_events(
    simulator: Simulator, path: str, simulate: str, event_count: int, code: int
) -> None:
    async with connect(simulator, path, simulate) as websocket:
        if path == "/responses" and event_count:
            await websocket.send_json(CREATE)
        events = [await websocket.receive() for _ in range(event_count)]
        closed = await websocket.receive()
    assert all(event.type is WSMsgType.TEXT for event in events)
    assert (closed.type, closed.data) == (WSMsgType.CLOSE, code)


@pytest.mark.parametrize(
    ("simulate", "event_count"), [("cut", 1), ("cut=4", 4), ("cut_inside=4", 4)]
)
async def test_cut_connection_sends_no_close_frame(
    simulator: Simulator, simulate: str, event_count: int
) -> None:
    async with connect(simulator, "/responses", simulate) as websocket:
        await websocket.send_json(CREATE)
        events = [await websocket.receive() for _ in range(event_count)]
        end = await websocket.receive()
    assert all(event.type is WSMsgType.TEXT for event in events)
    assert end.type in (WSMsgType.CLOSED, WSMsgType.ERROR)
    assert websocket.close_code == 1006
    assert (await simulator.stats())["severed"] == 1


@pytest.mark.parametrize(("simulate", "event_count"), [("stall=0", 0), ("stall=2", 2)])
async def test_stalled_connection_sends_no_more_and_ends_with_its_client(
    simulator: Simulator, simulate: str, event_count: int
) -> None:
    async with connect(simulator, "/responses", simulate) as websocket:
        await websocket.send_json(CREATE)
        for _ in range(event_count):
            assert (await websocket.receive()).type is WSMsgType.TEXT
        await websocket.ping()
        assert (await websocket.receive()).type is WSMsgType.PONG
        assert (await simulator.stats())["sockets_open"] == 1
    stats = await simulator.wait_for_stats(lambda stats: stats["sockets_open"] == 0)
    assert (stats["requests_open"], stats["left"], stats["severed"]) == (0, 0, 0)


@pytest.mark.parametrize(("code", "echo"), [(1000, 1000), (4321, 4321), (1001, 1000)])
async def test_close_by_the_client_is_not_counted_as_a_disconnect(
    simulator: Simulator, code: int, echo: int
) -> None:
    async with connect(simulator) as websocket:
        await receive_until(websocket, "session.created")
        await websocket.close(code=code)
        assert websocket.close_code == echo
    stats = await simulator.wait_for_stats(lambda stats: stats["requests_open"] == 0)
    assert (stats["by_status"], stats["left"]) == ({"101": 1}, 0)


async def test_aborted_connection_is_counted_as_a_disconnect(simulator: Simulator) -> None:
    async with connect(simulator, simulate="tokens_per_second=0.001") as websocket:
        await websocket.send_json({"type": "response.create"})
        await receive_until(websocket, "response.output_text.delta")
        assert websocket._response.connection is not None
        assert websocket._response.connection.transport is not None
        websocket._response.connection.transport.abort()
        stats = await simulator.wait_for_stats(lambda stats: stats["requests_open"] == 0)
    assert (stats["left"], stats["sockets_open"]) == (1, 0)


async def test_shutdown_does_not_wait_for_open_connections() -> None:
    async with AsyncExitStack() as client:
        async with running_simulator(Options()) as simulator:
            websocket = await client.enter_async_context(connect(simulator))
            await receive_until(websocket, "session.created")
        assert (await websocket.receive()).type in (WSMsgType.CLOSED, WSMsgType.ERROR)


async def test_output_tokens_are_counted_for_their_client(simulator: Simulator) -> None:
    async with connect(simulator, "/responses") as websocket:
        for _ in range(2):
            await websocket.send_json(CREATE | {"user": "ann"})
            await receive_until(websocket, "response.completed")
    stats = await simulator.stats()
    assert (stats["tokens_out"], stats["requests"]) == (2 * 48, 1)
    assert stats["clients"]["ann"]["tokens_out"] == 2 * 48
    assert stats["clients"]["ann"]["requests"] == 1
