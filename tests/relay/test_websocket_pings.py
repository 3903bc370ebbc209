"""Pings of the gate's own on a WebSocket whose sides are silent."""

import asyncio

import pytest

from tests.conftest import StartGate
from tests.support.http import chat, response
from tests.support.upstream import Upstream
from tests.support.waiting import within
from tests.support.websocket import (
    MASK,
    PING,
    PONG,
    TEXT,
    Frame,
    WebSocketEnd,
    frame,
    open_websocket,
)

INTERVAL_S = 0.1


async def ping_of_the_gate(end: WebSocketEnd) -> bytes:
    """The payload of the next frame, a ping."""
    got = await end.frame()
    assert (got.opcode, len(got.payload)) == (PING, 8)
    return got.payload


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_silent_side_is_pinged_and_its_pong_does_not_pass(
    gate: StartGate, upstream: Upstream, direction: str
) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=INTERVAL_S)
    client, server = await open_websocket(running, upstream)
    silent, other = (client, server) if direction == "down" else (server, client)
    # A side that talks is not pinged.
    payload = await _talk_until_pinged(silent, other)
    silent.send(payload, PONG)
    # A second one answers nothing, and so passes.
    silent.send(payload, PONG)
    silent.send(b"mine", PONG)
    silent.send(b"text")
    frames: list[Frame] = []
    while len(frames) < 3:
        # A side that heard nothing for an interval, on a busy machine, is pinged too.
        if (got := await other.frame()).opcode != PING:
            frames.append(got)
    assert frames == [Frame(PONG, payload), Frame(PONG, b"mine"), Frame(TEXT, b"text")]


async def _talk_until_pinged(silent: WebSocketEnd, other: WebSocketEnd) -> bytes:
    """Talk at one end until the other has been pinged; returns the ping's payload."""
    while True:
        other.send(b"talk")
        got = await silent.frame()
        if got.opcode == PING:
            while (await silent.frame()).opcode != TEXT:
                pass
            return got.payload
        assert got == Frame(TEXT, b"talk")
        await asyncio.sleep(INTERVAL_S / 10)


async def test_each_side_has_pings_of_its_own(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=INTERVAL_S)
    client, server = await open_websocket(running, upstream)
    one, other = await ping_of_the_gate(client), await ping_of_the_gate(server)
    assert one != other
    # Another end's payload is not the answer to a ping.
    client.send(other, PONG)
    while (got := await server.frame()).opcode != PONG:
        assert got == Frame(PING, other)
    assert got.payload == other


async def test_pings_go_on_while_a_side_is_silent(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=INTERVAL_S)
    client, _ = await open_websocket(running, upstream)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with within(10):
        payloads = {await ping_of_the_gate(client) for _ in range(4)}
    assert len(payloads) == 1
    assert loop.time() - began > 3 * INTERVAL_S


async def test_pings_and_pongs_of_the_ends_cross(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=60)
    client, server = await open_websocket(running, upstream)
    for sender, receiver in ((client, server), (server, client)):
        for opcode in (PING, PONG):
            sender.send(b"12345678", opcode)
            assert await receiver.frame() == Frame(opcode, b"12345678")


async def test_ping_never_splits_a_frame(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=INTERVAL_S)
    client, server = await open_websocket(running, upstream)
    data = frame(b'{"type":"response.output_text.delta","delta":"' + b"x" * 200)
    await server.wire.send_all(data[:100])
    received = b""
    while not received.endswith(data[:100]):
        received += await client.wire.read_some()
    # The other side is pinged, this one is not.
    for _ in range(3):
        await ping_of_the_gate(server)
    server.wire.send(data[100:])
    assert await client.wire.read_some(len(data) - 100) == data[100:]


async def test_ping_may_go_between_the_frames_of_a_message(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=INTERVAL_S)
    client, server = await open_websocket(running, upstream)
    server.send(b"one", final=False)
    while (await client.frame()).opcode != TEXT:
        pass
    await ping_of_the_gate(client)


async def test_interval_zero_disables_pings(gate: StartGate, upstream: Upstream) -> None:
    read_timeout_s = 0.5
    running = await gate(SSE_KEEPALIVE_INTERVAL=0, UPSTREAM_READ_TIMEOUT=read_timeout_s)
    client, server = await open_websocket(running, upstream)
    asking = await running.send(chat())
    await (await upstream.call()).respond(response())
    await asking.response()
    await asyncio.sleep(1.5 * read_timeout_s)
    client.send(b"hello")
    assert (await server.frame()).raw == frame(b"hello", mask=MASK)


async def test_no_ping_follows_a_close_frame(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(SSE_KEEPALIVE_INTERVAL=INTERVAL_S)
    client, server = await open_websocket(running, upstream)
    client.close()
    while (await server.frame()).opcode == PING:
        pass
    await asyncio.sleep(3 * INTERVAL_S)
    server.close()
    assert await server.read_until_end() == b""
