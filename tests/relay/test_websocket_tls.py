"""WebSockets over TLS on both hops."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from rustygate.system.tls import unsent_bytes
from tests.conftest import StartGate
from tests.support.certificates import Authority
from tests.support.flood import FLOOD, send_until_stalled
from tests.support.gate import Gate
from tests.support.upstream import Upstream
from tests.support.waiting import soon
from tests.support.websocket import (
    BINARY,
    MASK,
    WebSocketEnd,
    frame,
    handshake,
    handshake_response,
)

MEGABYTE = 1 << 20


OpenSecure = Callable[..., Awaitable[tuple[Gate, WebSocketEnd, WebSocketEnd]]]


@pytest.fixture
async def secure(
    gate: StartGate, authority: Authority, _no_task_left: None
) -> AsyncIterator[OpenSecure]:
    """Opens a WebSocket over TLS; returns the gate and the two ends."""
    upstream = Upstream()
    await upstream.start(authority.server_context("127.0.0.1"))
    trusted = {"SSL_CERT_FILE": authority.file, **authority.issue("127.0.0.1")}

    async def open(**settings: object) -> tuple[Gate, WebSocketEnd, WebSocketEnd]:
        base_url = upstream.url.replace("http", "https")
        running = await gate(OPENAI_BASE_URL=base_url, **trusted, **settings)
        client = await running.connect(tls=authority.client_context())
        client.send(handshake())
        call = await upstream.call()
        call.send(handshake_response(call.head))
        assert (await client.head()).status == 101
        return running, WebSocketEnd(client.wire, masks=True), WebSocketEnd(call.wire, masks=False)

    yield open
    await upstream.stop()


async def test_frames_and_close_frames_pass_over_tls(secure: OpenSecure) -> None:
    running, client, server = await secure()
    for sender, receiver in ((client, server), (server, client)):
        for payload in (b"", b"hello", b"x" * MEGABYTE):
            sender.send(payload, BINARY)
            await receiver.expect(payload, BINARY)
    client.close(4000)
    assert (await server.close_frame()).code == 4000
    server.close(4000)
    assert (await client.close_frame()).code == 4000
    assert await client.ended() == "closed"
    assert (await running.settled())[0]["outcome"] == "ok"


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_close_frame_and_disconnect_end_cleanly_over_tls(
    secure: OpenSecure, direction: str
) -> None:
    running, client, server = await secure()
    sender, receiver = (client, server) if direction == "up" else (server, client)
    sender.close()
    await receiver.close_frame()
    receiver.close()
    receiver.wire.close()
    await sender.close_frame()
    assert await sender.ended() == "closed"
    assert (await running.settled())[0]["outcome"] == "ok"


async def test_tls_transport_closed_twice_has_no_unsent_bytes(secure: OpenSecure) -> None:
    """asyncio's transport then has no buffers to ask for."""
    _, client, _ = await secure()
    client.wire.transport.close()
    client.wire.transport.close()
    assert unsent_bytes(client.wire.transport) == 0


async def test_frames_before_a_disconnect_arrive_over_tls(secure: OpenSecure) -> None:
    running, client, server = await secure()
    client.wire.pause_reading()
    for number in range(200):
        server.send(b"x" * 1000 + b"%d" % number)
    server.wire.close()
    client.wire.resume_reading()
    for number in range(200):
        await client.expect(b"x" * 1000 + b"%d" % number)
    assert await client.read_until_end() == b""
    assert (await running.settled())[0]["outcome"] == "aborted"


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_side_that_does_not_read_pauses_the_other_over_tls(
    secure: OpenSecure, direction: str
) -> None:
    _, client, server = await secure()
    sender, receiver = (client, server) if direction == "up" else (server, client)
    receiver.wire.pause_reading()
    # With TLS, a limit of 0 is never kept.
    sender.wire.transport.set_write_buffer_limits(high=1)
    piece = frame(b"x" * 60_000, BINARY, mask=MASK if direction == "up" else b"")
    sent = await send_until_stalled(sender.wire, piece)
    assert sent < FLOOD
    receiver.wire.resume_reading()
    for _ in range(sent // len(piece)):
        await receiver.expect(b"x" * 60_000, BINARY)


async def test_drain_sends_close_code_1001_over_tls(secure: OpenSecure) -> None:
    running, client, server = await secure(DRAIN_TIMEOUT=0)
    draining = asyncio.create_task(running.daemon.drain())
    for side in (client, server):
        assert (await side.close_frame()).code == 1001
        side.close(1001)
    async with soon():
        await draining
    assert (await running.settled())[0]["reason"] == "draining"


async def test_client_violation_ends_both_sides_over_tls(secure: OpenSecure) -> None:
    """TLS cannot close one direction only, so the client gets a moment to disconnect."""
    running, client, server = await secure()
    client.send(b"x", reserved=1)
    assert (await client.close_frame()).code == 1002
    assert (await server.close_frame()).code == 1001
    server.close(1001)
    assert (await running.settled())[0]["reason"] == "bad_request"
    assert await client.read_until_end() == b""


async def test_client_disconnect_ends_the_upstream_side_over_tls(secure: OpenSecure) -> None:
    running, client, server = await secure()
    client.wire.reset()
    await running.wait_until(in_flight=0)
    assert await server.read_until_end() == b""
    assert (await running.settled())[0]["outcome"] == "client_left"
