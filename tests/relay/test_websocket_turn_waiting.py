"""While a turn in a WebSocket waits: what passes, what is kept, and clients that leave."""

import asyncio
from time import monotonic

import pytest

from rustygate.relay import websocket_turns
from tests.conftest import StartGate
from tests.support.flood import send_until_stalled
from tests.support.http import get
from tests.support.metrics import Scrape
from tests.support.upstream import Upstream
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Frame,
    frame,
    open_websocket,
)
from tests.support.websocket_messages import Deflater
from tests.support.websocket_turns import (
    ONE_SLOT,
    ONE_TURN,
    OpenSocket,
    create,
    create_response,
    created,
    done,
    free_slot,
    hold_turn,
    next_event,
    open_responses,
)

# What passes while a turn waits.


async def test_control_frames_and_audio_pass_a_held_turn(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    await hold_turn(running, client, server)
    audio = b'{"type":"input_audio_buffer.append","audio":"AAAA"}'
    client.send(b"ping", PING)
    client.send(audio)
    client.send(b"pong", PONG)
    assert await server.frame() == Frame(PING, b"ping")
    await server.expect(audio)
    assert await server.frame() == Frame(PONG, b"pong")
    server.send(b"ping back", PING)
    assert await client.frame() == Frame(PING, b"ping back")
    await free_slot(client, server)
    assert (await next_event(server))["event_id"] == "held"


async def test_other_messages_wait_behind_a_held_turn(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    await hold_turn(running, client, server)
    behind = [b'{"type":"session.update"}', b'{"type":"conversation.item.delete"}', b"\xff"]
    for text in behind:
        client.send(text, BINARY if text == b"\xff" else TEXT)
    # It passes the others, which have arrived before it.
    client.send(b"", PING)
    assert (await server.frame()).opcode == PING
    assert running.snapshot()["held_bytes"] > sum(map(len, behind))
    await free_slot(client, server)
    assert (await next_event(server))["event_id"] == "held"
    for text in behind:
        assert (await server.frame()).payload == text
    assert running.snapshot()["held_bytes"] == 0


@pytest.mark.parametrize("refused", [False, True])
async def test_compressed_messages_pass_byte_for_byte_after_waiting(
    gate: StartGate, upstream: Upstream, refused: bool
) -> None:
    """A turn that is refused behind them makes no difference to them."""
    # The second turn is due after 2 s, the third after 4 s.
    running = await gate(RATE_LIMIT=0.5, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=3)
    client, server = await open_websocket(running, upstream, compressed=True)
    deflater = Deflater()
    texts = [create("first"), create("held"), b'{"type":"session.update","session":{}}']
    texts += [create("refused")] if refused else []
    frames = [frame(deflater.compress(text), mask=MASK, reserved=4) for text in texts]
    client.wire.send(b"".join(frames))
    for sent in frames[:3]:
        assert (await server.frame()).raw == sent
    if refused:
        assert (await next_event(client))["error"]["event_id"] == "refused"
    after = frame(deflater.compress(b"after"), mask=MASK, reserved=4)
    client.wire.send(after)
    last = await server.frame()
    assert (last.raw == after) is not refused
    assert not refused or last == Frame(TEXT, b"after")


async def test_admitted_turn_does_not_split_a_message_that_passes(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    await hold_turn(running, client, server)
    audio = b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 1000 + b'"}'
    data = frame(audio, mask=MASK)
    await client.wire.send_all(data[:500])
    assert await server.wire.read_some() == data[:500]
    await free_slot(client, server)
    await running.wait_until(in_flight=1, waiters=0)
    client.wire.send(data[500:])
    client.send(b"behind")
    rest = len(data) - 500
    assert await server.wire.read_some(rest) == data[500:]
    assert (await next_event(server))["event_id"] == "held"
    await server.expect(b"behind")


async def test_error_event_does_not_split_a_message_of_upstream(realtime: OpenSocket) -> None:
    _, client, server = await realtime(**ONE_TURN)
    client.send(create())
    await next_event(server)
    server.send(b"one", final=False)
    assert await client.frame() == Frame(TEXT, b"one", final=False)
    client.send(create("refused"))
    client.send(b"", PING)
    assert (await server.frame()).opcode == PING
    server.send(b"", PING)
    server.send(b"two", CONTINUATION)
    server.send(b"three")
    assert (await client.frame()).opcode == PING
    await client.expect(b"two", CONTINUATION)
    assert (await next_event(client))["error"]["event_id"] == "refused"
    await client.expect(b"three")


# A client that leaves, and one that sends too much.


@pytest.mark.parametrize("how", ["close frame", "close", "reset"])
async def test_client_disconnect_releases_the_messages_that_wait(
    realtime: OpenSocket, how: str
) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    other = await running.send(get())
    await running.wait_until(in_flight=1)
    client.send(create("held"))
    client.send(b"behind")
    await running.wait_until(waiters=1)
    if how == "close frame":
        client.close()
        # Nothing that was held passes before it.
        assert (await server.close_frame()).code == 1000
    else:
        client.wire.close() if how == "close" else client.wire.reset()
    await running.wait_until(waiters=0, held_bytes=0)
    server.wire.close()
    other.disconnect()
    turn = next(line for line in await running.settled(3) if line["method"] == "WS")
    assert (turn["outcome"], turn["status"], turn["attempts"]) == ("client_left", None, 0)


@pytest.mark.parametrize("how", ["close frame", "reset"])
async def test_each_turn_that_waits_is_logged_when_its_client_leaves(
    gate: StartGate, upstream: Upstream, how: str
) -> None:
    running = await gate(RATE_LIMIT=0.1, RATE_LIMIT_BURST=1)
    client, server = await open_responses(running, upstream, "X-RustyGate-Client: app")
    sent = monotonic()
    for model in ("gpt-5", "gpt-5", "gpt-4o", "o3"):
        client.send(create_response(model=model))
    await next_event(server)
    server.send(created())
    await client.expect(created())
    await running.wait_until(waiters=3)
    await asyncio.sleep(0.1)
    client.close() if how == "close frame" else client.wire.reset()
    await running.wait_until(waiters=0, in_flight=0, held_bytes=0)
    server.wire.close()
    settled = await running.settled(5)
    assert settled[-1]["method"] == "GET"
    lines = {line["id"].partition(".")[2]: line for line in settled}
    for number, model in (("2", "gpt-5"), ("3", "gpt-4o"), ("4", "o3")):
        turn = lines[number]
        assert (turn["model"], turn["outcome"], turn["attempts"]) == (model, "client_left", 0)
        assert 100 <= turn["queued_ms"] <= turn["total_ms"] <= 1000 * (monotonic() - sent) + 1
    assert (lines["1"]["attempts"], lines["1"]["queued_ms"]) == (1, 0)
    scrape = await Scrape.of(running)
    left = {"client": "app", "status": "(none)", "outcome": "client_left"}
    assert scrape.sum("rustygate_exchanges_total", model="gpt-5", **left) == 2
    assert scrape.sum("rustygate_exchanges_total", model="(unknown)", **left) == 2
    waited = scrape.sum("rustygate_client_queue_seconds_total", client="app")
    assert 0.3 <= waited <= 3 * (monotonic() - sent)


async def test_client_disconnect_frees_the_slot_of_its_turn(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    client.send(create())
    await next_event(server)
    assert running.snapshot()["in_flight"] == 1
    client.wire.reset()
    await running.wait_until(in_flight=0)
    turn = (await running.settled(2))[0]
    assert (turn["id"][-2:], turn["outcome"], turn["attempts"]) == (".1", "client_left", 1)


async def test_close_frame_of_the_client_frees_the_slot_of_its_turn(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    client.send(create())
    await next_event(server)
    client.close()
    await server.close_frame()
    await running.wait_until(in_flight=0)
    [turn] = await running.settled()
    assert turn["outcome"] == "client_left"
    # Events that come too late belong to no turn.
    server.send(created())
    server.send(done())
    server.close()
    for text in (created(), done()):
        await client.expect(text)
    await client.close_frame()
    await running.settled(2)


async def test_turn_that_ends_after_the_close_frame_is_whole(realtime: OpenSocket) -> None:
    running, client, server = await realtime()
    client.send(create())
    await next_event(server)
    client.close()
    await server.close_frame()
    server.wire.send(frame(done(tokens=(1, 2))) + frame(b"", CLOSE))
    await client.expect(done(tokens=(1, 2)))
    await client.close_frame()
    turn, _ = await running.settled(2)
    assert (turn["outcome"], turn["tokens_out"]) == ("ok", 2)


async def test_close_frame_of_upstream_ends_the_turns(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    await hold_turn(running, client, server)
    server.close(1011)
    assert (await client.close_frame()).code == 1011
    await running.wait_until(in_flight=0, waiters=0, held_bytes=0)
    for line in await running.settled(2):
        assert (line["outcome"], line["reason"]) == ("aborted", "upstream_disconnected")
    client.send(create("late"))
    client.close(1011)
    assert (await server.close_frame()).code == 1011
    assert (await running.settled(3))[-1]["method"] == "GET"


@pytest.mark.parametrize("limit", ["gate", "socket"])
async def test_client_that_sends_too_much_behind_a_turn_is_not_read(
    realtime: OpenSocket, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"QUEUE_BYTES": 300_000} if limit == "gate" else {}
    if limit == "socket":
        monkeypatch.setattr(websocket_turns, "HELD_LIMIT", 300_000)
    running, client, server = await realtime(**ONE_SLOT, **settings)
    await hold_turn(running, client, server)
    piece = frame(b"x" * 60_000, mask=MASK)
    sent = await send_until_stalled(client.wire, piece)
    assert sent < 16 << 20
    # One read more than the limit, at most.
    assert 300_000 < running.snapshot()["held_bytes"] < 700_000
    await free_slot(client, server)
    assert (await next_event(server))["event_id"] == "held"
    for _ in range(sent // len(piece)):
        await server.expect(b"x" * 60_000)


async def test_client_reset_is_noticed_while_too_much_waits(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT, QUEUE_BYTES=100_000)
    await hold_turn(running, client, server)
    await send_until_stalled(client.wire, frame(b"x" * 60_000, mask=MASK))
    client.wire.reset()
    await running.wait_until(waiters=0, in_flight=0, held_bytes=0)


async def test_turn_that_does_not_fit_into_queue_bytes_is_refused(realtime: OpenSocket) -> None:
    running, client, server = await realtime(QUEUE_BYTES=100_000)
    client.send(create(instructions="x" * 2_000_000))
    error = (await next_event(client))["error"]
    assert "QUEUE_BYTES" in error["message"]
    assert running.snapshot()["held_bytes"] == 0
    client.send(b"next")
    await server.expect(b"next")
    assert (await running.settled())[0]["reason"] == "queue_full"


async def test_largest_turn_passes(realtime: OpenSocket) -> None:
    running, client, server = await realtime()
    text = create(instructions="x" * ((16 << 20) - 100))
    client.send(text)
    await server.expect(text)
    assert running.snapshot()["held_bytes"] == 0
