"""WebSocket connections: messages, closing, faults."""

from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from rustygate.simulator import Options
from rustygate.simulator.transport.websocket import LONGEST_MESSAGE
from tests.support.simulator import KEY, Site, request, running
from tests.support.simulator_websocket import BEARER, CREATE, REALTIME, connected, through


async def test_bytes_come_back_as_they_are_in_their_turn(site: Site) -> None:
    data = bytes(range(256)) * 300
    async with connected(site, "/responses") as socket:
        await socket.send_json(CREATE)
        await socket.send_bytes(data)
        await through(socket, "response.completed")
        assert await socket.receive_bytes() == data


async def test_pings_are_answered_while_a_response_takes_its_time(site: Site) -> None:
    async with connected(site, "/responses", "tokens_per_second=0.001") as socket:
        await socket.send_json(CREATE)
        await through(socket, "response.output_text.delta")
        await socket.ping(b"there?")
        pong = await socket.receive()
    assert (pong.type, pong.data) == (WSMsgType.PONG, b"there?")


async def test_messages_are_compressed_where_that_was_asked(site: Site) -> None:
    async with connected(site, compress=15) as socket:
        assert socket.compress == 15
        await through(socket, "session.created")
        await socket.send_bytes(bytes(2_000_000))
        assert await socket.receive_bytes() == bytes(2_000_000)


@pytest.mark.parametrize("compress", [0, 15], ids=["plain", "compressed"])
@pytest.mark.parametrize("text", [False, True], ids=["bytes", "text"])
async def test_longest_message_passes_and_a_longer_one_ends_with_1009(
    site: Site, compress: int, text: bool
) -> None:
    async with connected(site, "/responses", compress=compress) as socket:
        send = socket.send_str if text else socket.send_bytes
        whole: Any = "x" * LONGEST_MESSAGE if text else bytes(LONGEST_MESSAGE)
        await send(whole)
        assert len((await socket.receive()).data) > 100
        await send(whole + ("x" if text else b"x"))
        closed = await socket.receive()
    assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1009)


async def test_text_that_is_not_utf8_ends_with_1007(site: Site) -> None:
    async with connected(site, "/responses") as socket:
        await socket.send_frame(b"\xff", WSMsgType.TEXT)
        closed = await socket.receive()
    assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1007)


async def test_key_may_be_offered_as_a_protocol_and_is_never_chosen(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    offered = f"openai-insecure-api-key.{KEY}"
    for protocols, chosen in (((offered,), None), ((offered, "realtime"), "realtime")):
        async with connected(site, headers={}, protocols=protocols) as socket:
            assert socket.protocol == chosen
            await through(socket, "session.created")
    assert list((await site.stats())["keys"]) == ["...1234"]
    assert KEY not in caplog.text


async def test_protocol_nobody_knows_is_not_chosen(site: Site) -> None:
    async with connected(site, protocols=("dance",)) as socket:
        assert socket.protocol is None


@pytest.mark.parametrize("path", ["/v1/realtime?model=m", "/v1/responses"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_without_an_upgrade_there_is_nothing(site: Site, method: str, path: str) -> None:
    assert (await site.ask(request(method, path))).status == 400


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
async def test_upgrade_is_refused_with_a_status(
    site: Site, path: str, simulate: str, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        async with connected(site, path, simulate, headers=headers):
            pass
    assert error.value.status == status


async def test_sdk_raises_on_a_refused_upgrade(site: Site) -> None:
    websockets = pytest.importorskip("websockets")
    async with site.sdk() as sdk:
        with pytest.raises(websockets.InvalidStatus, match="429"):
            async with sdk.realtime.connect(
                model="m", extra_headers={"X-Simulate": "insufficient_quota"}
            ):
                pass


async def test_upgrade_carries_the_models_limits(site: Site) -> None:
    async with connected(site) as socket:
        headers = socket._response.headers
        assert headers["x-ratelimit-limit-requests"] == "500"
        assert "x-request-id" in headers


@pytest.mark.parametrize(
    ("path", "simulate", "seen", "code"),
    [
        (REALTIME, "close=4001", 0, 4001),
        (REALTIME, "close=1011,cut=1", 1, 1011),
        ("/responses", "close=4001", 0, 4001),
        ("/responses", "close=4999,cut=3", 3, 4999),
    ],
)
async def test_connection_is_closed_with_a_code_after_so_many_events(
    site: Site, path: str, simulate: str, seen: int, code: int
) -> None:
    async with connected(site, path, simulate) as socket:
        if path == "/responses" and seen:
            await socket.send_json(CREATE)
        events = [await socket.receive() for _ in range(seen)]
        closed = await socket.receive()
    assert all(event.type is WSMsgType.TEXT for event in events)
    assert (closed.type, closed.data) == (WSMsgType.CLOSE, code)


@pytest.mark.parametrize(("simulate", "seen"), [("cut", 1), ("cut=4", 4), ("cut_inside=4", 4)])
async def test_connection_is_cut_without_a_word(site: Site, simulate: str, seen: int) -> None:
    async with connected(site, "/responses", simulate) as socket:
        await socket.send_json(CREATE)
        events = [await socket.receive() for _ in range(seen)]
        end = await socket.receive()
    assert all(event.type is WSMsgType.TEXT for event in events)
    assert end.type in (WSMsgType.CLOSED, WSMsgType.ERROR)
    assert socket.close_code == 1006
    assert (await site.stats())["severed"] == 1


@pytest.mark.parametrize(("simulate", "seen"), [("stall=0", 0), ("stall=2", 2)])
async def test_stalled_connection_says_no_more_and_ends_with_its_client(
    site: Site, simulate: str, seen: int
) -> None:
    async with connected(site, "/responses", simulate) as socket:
        await socket.send_json(CREATE)
        for _ in range(seen):
            assert (await socket.receive()).type is WSMsgType.TEXT
        await socket.ping()
        assert (await socket.receive()).type is WSMsgType.PONG
        assert (await site.stats())["sockets_open"] == 1
    stats = await site.stats_until(lambda stats: stats["sockets_open"] == 0)
    assert (stats["requests_open"], stats["left"], stats["severed"]) == (0, 0, 0)


@pytest.mark.parametrize(("code", "echo"), [(1000, 1000), (4321, 4321), (1001, 1000)])
async def test_clients_closing_is_answered_and_no_leaving(
    site: Site, code: int, echo: int
) -> None:
    async with connected(site) as socket:
        await through(socket, "session.created")
        await socket.close(code=code)
        assert socket.close_code == echo
    stats = await site.stats_until(lambda stats: stats["requests_open"] == 0)
    assert (stats["by_status"], stats["left"]) == ({"101": 1}, 0)


async def test_client_that_is_gone_without_a_word_has_left(site: Site) -> None:
    async with connected(site, simulate="tokens_per_second=0.001") as socket:
        await socket.send_json({"type": "response.create"})
        await through(socket, "response.output_text.delta")
        assert socket._response.connection is not None
        assert socket._response.connection.transport is not None
        socket._response.connection.transport.abort()
        stats = await site.stats_until(lambda stats: stats["requests_open"] == 0)
    assert (stats["left"], stats["sockets_open"]) == (1, 0)


async def test_simulator_that_ends_waits_for_no_connection() -> None:
    async with AsyncExitStack() as client:
        async with running(Options()) as site:
            socket = await client.enter_async_context(connected(site))
            await through(socket, "session.created")
        assert (await socket.receive()).type in (WSMsgType.CLOSED, WSMsgType.ERROR)


async def test_tokens_said_are_counted_for_their_client(site: Site) -> None:
    async with connected(site, "/responses") as socket:
        for _ in range(2):
            await socket.send_json(CREATE | {"user": "ann"})
            await through(socket, "response.completed")
    stats = await site.stats()
    assert (stats["tokens_out"], stats["requests"]) == (4, 1)
    assert stats["clients"]["ann"]["tokens_out"] == 4
    assert stats["clients"]["ann"]["requests"] == 1
