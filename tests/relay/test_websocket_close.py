"""How WebSockets end: by Close frames, by a lost connection, by a drain."""

import asyncio

import pytest

from rustygate.relay import websocket
from tests.conftest import StartGate
from tests.support.flood import send_until_stalled
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
    "none": (None, ""),
    "going away": (1001, "bye"),
    "an application's": (4000, "session \N{LATIN SMALL LETTER E WITH ACUTE}xpired"),
    "the last": (4999, "r" * 123),
    "error": (1011, "server error"),
}


@pytest.mark.parametrize(("code", "reason"), CLOSES.values(), ids=CLOSES)
@pytest.mark.parametrize("way", ["up", "down"])
async def test_close_codes_and_reasons_pass(
    gate: StartGate, upstream: Upstream, way: str, code: int | None, reason: str
) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    sender, taker = (client, far) if way == "up" else (far, client)
    sender.close(code, reason)
    assert await taker.frame() == Frame(CLOSE, close_payload(code, reason))
    taker.close(code, reason)
    assert await sender.frame() == Frame(CLOSE, close_payload(code, reason))
    assert await client.ended() == "closed"
    await far.ended()
    assert (await running.settled())[0]["outcome"] == "ok"


@pytest.mark.parametrize("way", ["up", "down"])
async def test_what_is_sent_before_the_answering_close_passes(
    gate: StartGate, upstream: Upstream, way: str
) -> None:
    client, far = await open_websocket(await gate(), upstream)
    sender, taker = (client, far) if way == "up" else (far, client)
    sender.close()
    await taker.close_frame()
    taker.send(b"one more")
    taker.send(b"", PONG)
    taker.close()
    await sender.expect(b"one more")
    await sender.expect(b"", PONG)
    await sender.close_frame()


@pytest.mark.parametrize("way", ["up", "down"])
async def test_what_is_sent_after_a_close_does_not_pass(
    gate: StartGate, upstream: Upstream, way: str
) -> None:
    client, far = await open_websocket(await gate(), upstream)
    sender, taker = (client, far) if way == "up" else (far, client)
    sender.close()
    sender.send(b"too late")
    await taker.close_frame()
    taker.close()
    await sender.close_frame()
    assert await taker.read_until_end() == b""


@pytest.mark.parametrize("way", ["up", "down"])
async def test_close_that_is_not_answered_ends_all_the_same(
    gate: StartGate, upstream: Upstream, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT_S", 0.1)
    running = await gate()
    client, far = await open_websocket(running, upstream)
    sender, taker = (client, far) if way == "up" else (far, client)
    sender.close()
    await taker.close_frame()
    assert (await sender.read_until_end(), await taker.read_until_end()) == (b"", b"")
    assert (await running.settled())[0]["outcome"] == "ok"


@pytest.mark.parametrize("way", ["up", "down"])
async def test_side_that_leaves_instead_of_answering_a_close_ends_it(
    gate: StartGate, upstream: Upstream, way: str
) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    sender, taker = (client, far) if way == "up" else (far, client)
    sender.close()
    await taker.close_frame()
    taker.wire.close()
    assert await sender.read_until_end() == b""
    assert (await running.settled())[0]["outcome"] == "ok"


# Lost connections.


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("sent", [b"", frame(b"whole"), frame(b"half")[:-2]], ids=repr)
async def test_upstream_that_breaks_off_cuts_the_client(
    gate: StartGate, upstream: Upstream, sent: bytes, how: str
) -> None:
    """What came before arrives; a Close frame would look like a good end."""
    running = await gate()
    client, far = await open_websocket(running, upstream)
    await far.wire.send_all(sent)
    if sent:
        async with soon():
            assert await client.wire.read_some() == sent
    far.wire.close() if how == "close" else far.wire.reset()
    assert await client.read_until_end() == b""
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "upstream_disconnected")
    assert line["bytes"] == len(sent)


async def test_what_upstream_sent_before_it_broke_off_arrives(
    gate: StartGate, upstream: Upstream
) -> None:
    client, far = await open_websocket(await gate(), upstream)
    client.wire.pause_reading()
    for number in range(200):
        far.send(b"x" * 1000 + b"%d" % number)
    far.wire.close()
    client.wire.resume_reading()
    for number in range(200):
        await client.expect(b"x" * 1000 + b"%d" % number)
    assert await client.read_until_end() == b""


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_client_that_leaves_takes_upstream_along(
    gate: StartGate, upstream: Upstream, how: str
) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    client.wire.close() if how == "close" else client.wire.reset()
    assert await far.read_until_end() == b""
    await running.wait_until(in_flight=0)
    [line] = await running.settled()
    assert (line["outcome"], line["status"]) == ("client_left", 101)


async def test_client_that_leaves_while_it_does_not_read_takes_upstream_along(
    gate: StartGate, upstream: Upstream
) -> None:
    """What it was owed still stands in the gate then."""
    running = await gate()
    client, far = await open_websocket(running, upstream)
    client.wire.pause_reading()
    await send_until_stalled(far.wire, frame(b"x" * 60_000, BINARY))
    client.wire.half_close()
    await running.wait_until(in_flight=0)
    await far.ended()


# Drain.


async def test_drain_lets_a_websocket_finish(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    draining = asyncio.create_task(running.daemon.drain())
    client.send(b"hello")
    await far.expect(b"hello")
    client.close()
    await far.close_frame()
    far.close()
    await client.close_frame()
    await draining
    assert (await running.settled())[0]["outcome"] == "ok"


async def test_drain_ends_with_going_away(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(DRAIN_TIMEOUT=0)
    client, far = await open_websocket(running, upstream)
    draining = asyncio.create_task(running.daemon.drain())
    for side in (client, far):
        assert (await side.close_frame()).code == 1001
        side.close(1001)
        side.wire.close()
    async with soon():
        await draining
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "draining")


async def test_drain_does_not_wait_for_who_stays(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "DISCONNECT_TIMEOUT_S", 0.1)
    running = await gate(DRAIN_TIMEOUT=0)
    client, far = await open_websocket(running, upstream)
    far.wire.send(frame(b"half")[:-2])
    async with soon():
        await client.wire.read_some()
        await running.daemon.drain()
    # In the middle of a frame there is no place for a Close frame.
    assert await client.read_until_end() == b""
    assert (await far.close_frame()).code == 1001


async def test_drain_meets_a_websocket_that_is_being_ended(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(DRAIN_TIMEOUT=0)
    client, far = await open_websocket(running, upstream)
    client.send(b"\xff")
    assert (await client.close_frame()).code == 1007
    assert (await far.close_frame()).code == 1001
    draining = asyncio.create_task(running.daemon.drain())
    client.wire.close()
    far.wire.close()
    async with soon():
        await draining
    assert await client.read_until_end() == b""
    assert (await running.settled())[0]["outcome"] == "aborted"


async def test_draining_gate_opens_none(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.connect()
    upstream.reply = response()
    await client.request(get())
    await running.daemon.drain()
    got = await client.request(handshake())
    assert (got.status, got.reason) == (503, "draining")
