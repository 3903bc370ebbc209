"""How WebSockets end: by Close frames, by a lost connection, by a drain."""

import asyncio

import pytest

from rustygate.relay import websocket
from tests.conftest import StartGate
from tests.support.flood import send_until_stalled
from tests.support.gate import one_process
from tests.support.http import (
    get,
    response,
)
from tests.support.upstream import Upstream
from tests.support.waiting import soon
from tests.support.websocket import (
    BINARY,
    CLOSE,
    PONG,
    Frame,
    close_payload,
    frame,
    handshake,
    open_websocket,
)

MEGABYTE = 1 << 20


# Close frames.


CLOSES = {
    "normal": (1000, ""),
    "no code": (None, ""),
    "going away": (1001, "bye"),
    "private use": (4000, "session \N{LATIN SMALL LETTER E WITH ACUTE}xpired"),
    "highest code": (4999, "r" * 123),
    "error": (1011, "server error"),
}


@pytest.mark.parametrize(("code", "reason"), CLOSES.values(), ids=CLOSES)
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_close_codes_and_reasons_pass(
    gate: StartGate, upstream: Upstream, direction: str, code: int | None, reason: str
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    sender, receiver = (client, server) if direction == "up" else (server, client)
    sender.close(code, reason)
    assert await receiver.frame() == Frame(CLOSE, close_payload(code, reason))
    receiver.close(code, reason)
    assert await sender.frame() == Frame(CLOSE, close_payload(code, reason))
    assert await client.ended() == "closed"
    await server.ended()
    assert (await running.settled())[0]["outcome"] == "ok"


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_frames_before_the_responding_close_frame_pass(
    gate: StartGate, upstream: Upstream, direction: str
) -> None:
    client, server = await open_websocket(await gate(), upstream)
    sender, receiver = (client, server) if direction == "up" else (server, client)
    sender.close()
    await receiver.close_frame()
    receiver.send(b"one more")
    receiver.send(b"", PONG)
    receiver.close()
    await sender.expect(b"one more")
    await sender.expect(b"", PONG)
    await sender.close_frame()


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_frames_after_a_close_frame_do_not_pass(
    gate: StartGate, upstream: Upstream, direction: str
) -> None:
    client, server = await open_websocket(await gate(), upstream)
    sender, receiver = (client, server) if direction == "up" else (server, client)
    sender.close()
    sender.send(b"too late")
    await receiver.close_frame()
    receiver.close()
    await sender.close_frame()
    assert await receiver.read_until_end() == b""


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_unanswered_close_frame_ends_both_sides_after_a_timeout(
    gate: StartGate, upstream: Upstream, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT_S", 0.1)
    running = await gate()
    client, server = await open_websocket(running, upstream)
    sender, receiver = (client, server) if direction == "up" else (server, client)
    sender.close()
    await receiver.close_frame()
    assert (await sender.read_until_end(), await receiver.read_until_end()) == (b"", b"")
    assert (await running.settled())[0]["outcome"] == "ok"


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_disconnect_after_a_close_frame_ends_both_sides(
    gate: StartGate, upstream: Upstream, direction: str
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    sender, receiver = (client, server) if direction == "up" else (server, client)
    sender.close()
    await receiver.close_frame()
    receiver.wire.close()
    assert await sender.read_until_end() == b""
    assert (await running.settled())[0]["outcome"] == "ok"


@one_process
async def test_close_frame_before_a_reset_passes(gate: StartGate, upstream: Upstream) -> None:
    """A write of the gate meets the reset before the gate has read the frame."""
    running = await gate()
    client, server = await open_websocket(running, upstream)
    client.send(b"hello")
    client.wire.wait_until_received()
    server.close(1008, "session expired")
    server.wire.wait_until_received()
    server.wire.end_at_once("reset")
    assert await client.frame() == Frame(CLOSE, close_payload(1008, "session expired"))
    assert (await running.settled())[0]["outcome"] == "ok"


# Lost connections.


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("sent", [b"", frame(b"whole"), frame(b"half")[:-2]], ids=repr)
async def test_upstream_disconnect_cuts_the_client(
    gate: StartGate, upstream: Upstream, sent: bytes, how: str
) -> None:
    """Earlier data arrives; a Close frame would look like a clean end."""
    running = await gate()
    client, server = await open_websocket(running, upstream)
    await server.wire.send_all(sent)
    if sent:
        async with soon():
            assert await client.wire.read_some() == sent
    server.wire.close() if how == "close" else server.wire.reset()
    assert await client.read_until_end() == b""
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "upstream_disconnected")
    assert line["bytes"] == len(sent)


async def test_frames_before_an_upstream_disconnect_arrive(
    gate: StartGate, upstream: Upstream
) -> None:
    client, server = await open_websocket(await gate(), upstream)
    client.wire.pause_reading()
    for number in range(200):
        server.send(b"x" * 1000 + b"%d" % number)
    server.wire.close()
    client.wire.resume_reading()
    for number in range(200):
        await client.expect(b"x" * 1000 + b"%d" % number)
    assert await client.read_until_end() == b""


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_client_disconnect_ends_the_upstream_side(
    gate: StartGate, upstream: Upstream, how: str
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    client.wire.close() if how == "close" else client.wire.reset()
    assert await server.read_until_end() == b""
    await running.wait_until(in_flight=0)
    [line] = await running.settled()
    assert (line["outcome"], line["status"]) == ("client_left", 101)


async def test_disconnect_of_a_client_that_does_not_read_ends_the_upstream_side(
    gate: StartGate, upstream: Upstream
) -> None:
    """Unsent data is still in the gate's buffers then."""
    running = await gate()
    client, server = await open_websocket(running, upstream)
    client.wire.pause_reading()
    await send_until_stalled(server.wire, frame(b"x" * 60_000, BINARY))
    client.wire.half_close()
    await running.wait_until(in_flight=0)
    await server.ended()


# Drain.


async def test_drain_lets_a_websocket_finish(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    draining = asyncio.create_task(running.daemon.drain())
    client.send(b"hello")
    await server.expect(b"hello")
    client.close()
    await server.close_frame()
    server.close()
    await client.close_frame()
    await draining
    assert (await running.settled())[0]["outcome"] == "ok"


async def test_drain_sends_close_code_1001(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(DRAIN_TIMEOUT=0)
    client, server = await open_websocket(running, upstream)
    draining = asyncio.create_task(running.daemon.drain())
    for side in (client, server):
        assert (await side.close_frame()).code == 1001
        side.close(1001)
        side.wire.close()
    async with soon():
        await draining
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "draining")


async def test_drain_does_not_wait_for_a_side_that_stays_connected(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "DISCONNECT_TIMEOUT_S", 0.1)
    running = await gate(DRAIN_TIMEOUT=0)
    client, server = await open_websocket(running, upstream)
    server.wire.send(frame(b"half")[:-2])
    async with soon():
        await client.wire.read_some()
        await running.daemon.drain()
    # A Close frame cannot be sent inside another frame.
    assert await client.read_until_end() == b""
    assert (await server.close_frame()).code == 1001


async def test_drain_during_the_end_of_a_websocket(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(DRAIN_TIMEOUT=0)
    client, server = await open_websocket(running, upstream)
    client.send(b"\xff")
    assert (await client.close_frame()).code == 1007
    assert (await server.close_frame()).code == 1001
    draining = asyncio.create_task(running.daemon.drain())
    client.wire.close()
    server.wire.close()
    async with soon():
        await draining
    assert await client.read_until_end() == b""
    assert (await running.settled())[0]["outcome"] == "aborted"


async def test_draining_gate_refuses_handshakes(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.connect()
    upstream.reply = response()
    await client.request(get())
    await running.daemon.drain()
    got = await client.request(handshake())
    assert (got.status, got.reason) == (503, "draining")
