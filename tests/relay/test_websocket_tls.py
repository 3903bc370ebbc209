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
    gate: StartGate, authority: Authority, _no_task_is_left: None
) -> AsyncIterator[OpenSecure]:
    """Opens a WebSocket by TLS: the gate and the two ends."""
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


async def test_frames_and_closes_pass_by_tls(secure: OpenSecure) -> None:
    running, client, far = await secure()
    for sender, taker in ((client, far), (far, client)):
        for payload in (b"", b"hello", b"x" * MEGABYTE):
            sender.send(payload, BINARY)
            await taker.expect(payload, BINARY)
    client.close(4000)
    assert (await far.close_frame()).code == 4000
    far.close(4000)
    assert (await client.close_frame()).code == 4000
    assert await client.ended() == "closed"
    assert (await running.settled())[0]["outcome"] == "ok"


@pytest.mark.parametrize("way", ["up", "down"])
async def test_side_that_answers_a_close_and_leaves_ends_it_well_by_tls(
    secure: OpenSecure, way: str
) -> None:
    running, client, far = await secure()
    sender, taker = (client, far) if way == "up" else (far, client)
    sender.close()
    await taker.close_frame()
    taker.close()
    taker.wire.close()
    await sender.close_frame()
    assert await sender.ended() == "closed"
    assert (await running.settled())[0]["outcome"] == "ok"


async def test_tls_that_was_closed_twice_holds_nothing(secure: OpenSecure) -> None:
    """asyncio forgets then what it had."""
    _, client, _ = await secure()
    client.wire.transport.close()
    client.wire.transport.close()
    assert unsent_bytes(client.wire.transport) == 0


async def test_what_was_sent_before_a_break_arrives_by_tls(secure: OpenSecure) -> None:
    running, client, far = await secure()
    client.wire.pause_reading()
    for number in range(200):
        far.send(b"x" * 1000 + b"%d" % number)
    far.wire.close()
    client.wire.resume_reading()
    for number in range(200):
        await client.expect(b"x" * 1000 + b"%d" % number)
    assert await client.read_until_end() == b""
    assert (await running.settled())[0]["outcome"] == "aborted"


@pytest.mark.parametrize("way", ["up", "down"])
async def test_side_that_does_not_read_pauses_the_other_by_tls(
    secure: OpenSecure, way: str
) -> None:
    _, client, far = await secure()
    sender, taker = (client, far) if way == "up" else (far, client)
    taker.wire.pause_reading()
    # By TLS no limit of 0 is ever kept.
    sender.wire.transport.set_write_buffer_limits(high=1)
    piece = frame(b"x" * 60_000, BINARY, mask=MASK if way == "up" else b"")
    sent = await send_until_stalled(sender.wire, piece)
    assert sent < FLOOD
    taker.wire.resume_reading()
    for _ in range(sent // len(piece)):
        await taker.expect(b"x" * 60_000, BINARY)


async def test_drain_by_tls_ends_with_going_away(secure: OpenSecure) -> None:
    running, client, far = await secure(DRAIN_TIMEOUT=0)
    draining = asyncio.create_task(running.daemon.drain())
    for side in (client, far):
        assert (await side.close_frame()).code == 1001
        side.close(1001)
    async with soon():
        await draining
    assert (await running.settled())[0]["reason"] == "draining"


async def test_client_whose_frames_are_not_sound_is_ended_by_tls(secure: OpenSecure) -> None:
    """TLS has no half of an end, so the client has a moment to leave."""
    running, client, far = await secure()
    client.send(b"x", reserved=1)
    assert (await client.close_frame()).code == 1002
    assert (await far.close_frame()).code == 1001
    far.close(1001)
    assert (await running.settled())[0]["reason"] == "bad_request"
    assert await client.read_until_end() == b""


async def test_client_that_leaves_takes_upstream_along_by_tls(secure: OpenSecure) -> None:
    running, client, far = await secure()
    client.wire.reset()
    await running.wait_until(in_flight=0)
    assert await far.read_until_end() == b""
    assert (await running.settled())[0]["outcome"] == "client_left"
