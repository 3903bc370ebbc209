"""WebSockets through the gate: the handshake's admission, frames, backpressure, log."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rustygate.core.clients import hash_key
from tests.conftest import StartGate
from tests.support.flood import send_until_stalled
from tests.support.gate import Log
from tests.support.http import CLIENT_KEY, chat, get, response
from tests.support.upstream import Upstream
from tests.support.waiting import A_SECOND_S, soon
from tests.support.websocket import (
    BINARY,
    CLOSE,
    COMPRESSION,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Frame,
    WebSocketEnd,
    accept_handshake,
    close_payload,
    frame,
    handshake,
    handshake_response,
    open_websocket,
)
from tests.support.websocket_turns import create, next_event

MEGABYTE = 1 << 20


# Admission.


async def test_idle_websocket_holds_no_slot(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(CONCURRENCY_LIMIT=1)
    await open_websocket(running, upstream)
    await open_websocket(running, upstream)
    await running.wait_until(in_flight=0)
    asking = await running.send(chat())
    call = await upstream.call()
    assert running.snapshot()["in_flight"] == 1
    await call.respond(response())
    assert (await asking.response()).status == 200


async def test_handshake_holds_a_slot_until_upstream_agrees(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1)
    first = await running.send(handshake())
    call = await upstream.call()
    second = await running.send(handshake())
    await running.wait_until(in_flight=1, waiters=1)
    call.send(handshake_response(call.head))
    assert (await first.head()).status == 101
    call = await upstream.call()
    call.send(handshake_response(call.head))
    assert (await second.head()).status == 101
    await running.wait_until(in_flight=0, waiters=0, held_bytes=0)


async def test_websockets_cost_no_request(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(RATE_LIMIT="0.001", RATE_LIMIT_BURST=1)
    for _ in range(3):
        client, server = await open_websocket(running, upstream)
    client.send(create())
    assert (await next_event(server))["type"] == "response.create"
    client.send(create())
    assert (await next_event(client))["error"]["code"] == "rate_limit_exceeded"


async def test_handshake_is_refused_while_no_request_is_left(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(RATE_LIMIT="0.001", RATE_LIMIT_BURST=1)
    asking = await running.send(get())
    await (await upstream.call()).respond(response())
    await asking.response()
    got = await running.request(handshake())
    assert (got.status, got.reason) == (429, "queue_timeout")


async def test_refused_handshake_costs_a_request(gate: StartGate, upstream: Upstream) -> None:
    """Else any request could pass as a handshake that upstream ignores."""
    running = await gate(RATE_LIMIT="0.001", RATE_LIMIT_BURST=1)
    client = await running.send(handshake())
    await (await upstream.call()).respond(response())
    assert (await client.response()).status == 200
    got = await running.request(handshake())
    assert (got.status, got.reason) == (429, "queue_timeout")


async def test_websockets_cost_their_client_no_request(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    path = tmp_path / "clients.toml"
    path.write_text(
        f'[client.app]\nkey_sha256 = "{hash_key(CLIENT_KEY)}"\n'
        "requests_per_second = 0.001\nburst = 1\n"
    )
    running = await gate(CLIENTS_FILE=path)
    for _ in range(3):
        client, server = await open_websocket(running, upstream)
    client.send(create())
    assert (await next_event(server))["type"] == "response.create"
    client.send(create())
    assert "for client app" in (await next_event(client))["error"]["message"]


async def test_client_disconnect_in_the_queue_frees_its_place(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1)
    await running.send(chat())
    await upstream.call()
    waiting = await running.send(handshake())
    await running.wait_until(waiters=1)
    waiting.disconnect()
    await running.wait_until(waiters=0)
    assert len(upstream.calls) == 1


async def test_client_disconnect_during_the_handshake_ends_it_upstream(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(handshake())
    call = await upstream.call()
    client.disconnect()
    await call.ended(A_SECOND_S)
    await running.wait_until(in_flight=0)


# Frames.


PIECES: dict[str, list[tuple[bytes, int, bool]]] = {
    "text": [(b"hello", TEXT, True)],
    "not ASCII": [("\N{LATIN SMALL LETTER A WITH DIAERESIS}".encode(), TEXT, True)],
    "binary": [(bytes(range(256)), BINARY, True)],
    "empty": [(b"", TEXT, True), (b"", BINARY, True)],
    "large": [(b"x" * MEGABYTE, BINARY, True)],
    "fragments": [(b"a", TEXT, False), (b"", CONTINUATION, False), (b"b", CONTINUATION, True)],
    "ping": [(b"are you there?", PING, True)],
    "empty ping": [(b"", PING, True)],
    "pong": [(b"x" * 125, PONG, True)],
    "ping inside a message": [(b"a", TEXT, False), (b"p", PING, True), (b"b", CONTINUATION, True)],
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_frames_pass_unchanged(
    gate: StartGate, upstream: Upstream, direction: str, pieces: list[tuple[bytes, int, bool]]
) -> None:
    client, server = await open_websocket(await gate(), upstream)
    sender, receiver = (client, server) if direction == "up" else (server, client)
    for payload, opcode, final in pieces:
        sender.send(payload, opcode, final=final)
        assert await receiver.frame() == Frame(opcode, payload, final)


async def test_client_mask_passes_unchanged(gate: StartGate, upstream: Upstream) -> None:
    client, server = await open_websocket(await gate(), upstream)
    client.send(b"hello")
    assert (await server.frame()).raw == frame(b"hello", mask=MASK)


async def test_frame_that_arrives_byte_by_byte_passes(gate: StartGate, upstream: Upstream) -> None:
    client, server = await open_websocket(await gate(), upstream)
    for data, sender, receiver in (
        (frame(b"x" * 200, mask=MASK), client, server),
        (frame(b"y" * 200), server, client),
    ):
        for byte in data:
            await sender.wire.send_all(bytes([byte]))
        assert (await receiver.frame()).raw == data


async def test_start_of_a_payload_passes_before_its_end(
    gate: StartGate, upstream: Upstream
) -> None:
    client, server = await open_websocket(await gate(), upstream)
    data = frame(b"x" * 100_000)
    server.wire.send(data[:50_000])
    async with soon():
        assert len(await client.wire.read_some()) > 0
    server.wire.send(data[50_000:])


@pytest.mark.parametrize("count", [1, 50])
async def test_frames_that_arrive_with_the_handshake_are_not_lost(
    gate: StartGate, upstream: Upstream, count: int
) -> None:
    early = [b"x" * 3000 + b"%d" % number for number in range(count)]
    request = handshake() + b"".join(frame(text, mask=MASK) for text in early)
    client = await (await gate()).send(request)
    call = await upstream.call()
    call.send(handshake_response(call.head), *map(frame, early))
    assert (await client.head()).status == 101
    client_end, server = (
        WebSocketEnd(client.wire, masks=True),
        WebSocketEnd(call.wire, masks=False),
    )
    for text in early:
        await client_end.expect(text)
        await server.expect(text)


async def test_whole_conversation_can_arrive_with_the_handshake(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(handshake())
    call = await upstream.call()
    call.send(handshake_response(call.head), frame(b"only"), frame(close_payload(1000), CLOSE))
    call.close()
    assert (await client.head()).status == 101
    client_end = WebSocketEnd(client.wire, masks=True)
    await client_end.expect(b"only")
    assert (await client_end.close_frame()).code == 1000
    assert await client_end.ended() == "closed"
    assert (await running.settled())[0]["outcome"] == "ok"


async def test_silent_websocket_stays_open(gate: StartGate, upstream: Upstream) -> None:
    """Three other requests time out meanwhile."""
    running = await gate(UPSTREAM_READ_TIMEOUT=0.5)
    client, server = await open_websocket(running, upstream)
    for _ in range(3):
        assert (await running.request(get())).status == 504
    client.send(b"still here")
    await server.expect(b"still here")
    server.send(b"me too")
    await client.expect(b"me too")


async def test_compressed_frames_pass_unchanged(gate: StartGate, upstream: Upstream) -> None:
    client, server = await open_websocket(await gate(), upstream, compressed=True)
    for sender, receiver in ((client, server), (server, client)):
        sender.send(b"\xaaV\xca\xff", TEXT, reserved=4)
        assert await receiver.frame() == Frame(TEXT, b"\xaaV\xca\xff", reserved=4)


async def test_compression_is_declined_if_upstream_declines_it(
    gate: StartGate, upstream: Upstream
) -> None:
    client, call = await accept_handshake(await gate(), upstream, request=handshake(COMPRESSION))
    assert call.head["sec-websocket-extensions"] == "permessage-deflate"
    assert "sec-websocket-extensions" not in await client.head()


async def test_concurrent_websockets_do_not_mix(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    pairs = [await open_websocket(running, upstream) for _ in range(50)]
    await running.wait_until(in_flight=0)
    for number, (client, server) in enumerate(pairs):
        client.send(b"up %d" % number)
        server.send(b"down %d" % number)
    for number, (client, server) in enumerate(pairs):
        await server.expect(b"up %d" % number)
        await client.expect(b"down %d" % number)


texts = st.tuples(st.just(TEXT), st.text().map(str.encode))
binaries = st.tuples(st.just(BINARY), st.binary(max_size=2000) | st.just(b"\xff" * 70_000))
messages = st.lists(st.tuples(st.booleans(), texts | binaries), max_size=12)


async def test_any_messages_arrive(gate: StartGate, upstream: Upstream) -> None:
    # On a busy machine, all the examples take longer than the interval.
    running = await gate(SSE_KEEPALIVE_INTERVAL=0)
    client, server = await open_websocket(running, upstream)
    loop = asyncio.get_running_loop()

    async def exchange(sent: list[tuple[bool, tuple[int, bytes]]]) -> None:
        for up, (opcode, payload) in sent:
            (client if up else server).send(payload, opcode)
        for up, (opcode, payload) in sent:
            await (server if up else client).expect(payload, opcode)

    @settings(max_examples=40)
    @given(messages)
    def law(sent: list[tuple[bool, tuple[int, bytes]]]) -> None:
        asyncio.run_coroutine_threadsafe(exchange(sent), loop).result()

    await asyncio.to_thread(law)


# Backpressure.


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_side_that_does_not_read_pauses_the_other(
    gate: StartGate, upstream: Upstream, direction: str
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    sender, receiver = (client, server) if direction == "up" else (server, client)
    piece = frame(b"x" * 60_000, BINARY, mask=MASK if direction == "up" else b"")
    receiver.wire.pause_reading()
    sent = await send_until_stalled(sender.wire, piece)
    assert sent < 16 * MEGABYTE
    # The other direction stays open.
    receiver.send(b"meanwhile")
    await sender.expect(b"meanwhile")
    receiver.wire.resume_reading()
    for _ in range(sent // len(piece)):
        await receiver.expect(b"x" * 60_000, BINARY)


async def test_client_that_does_not_read_the_handshake_response_pauses_upstream(
    gate: StartGate, upstream: Upstream
) -> None:
    client = await (await gate()).connect(receive_buffer=4096)
    client.wire.pause_reading()
    client.send(handshake())
    call = await upstream.call()
    piece = frame(b"x" * 60_000, BINARY)
    call.send(handshake_response(call.head), piece * 10)
    sent = 10 * len(piece) + await send_until_stalled(call.wire, piece)
    assert sent < 16 * MEGABYTE
    client.wire.resume_reading()
    await client.head()
    client_end = WebSocketEnd(client.wire, masks=True)
    for _ in range(sent // len(piece)):
        await client_end.expect(b"x" * 60_000, BINARY)


async def test_client_reset_is_noticed_while_its_reading_is_paused(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    server.wire.pause_reading()
    await send_until_stalled(client.wire, frame(b"x" * 60_000, BINARY, mask=MASK))
    client.wire.reset()
    await running.wait_until(in_flight=0)
    assert (await running.settled())[0]["outcome"] == "client_left"


# Log.


async def test_websocket_logs_one_line(gate: StartGate, upstream: Upstream, log: Log) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    client.send(b"a secret of the client")
    await server.expect(b"a secret of the client")
    server.send(b"a secret of upstream")
    await client.expect(b"a secret of upstream")
    client.close(4000, "a secret reason")
    await server.close_frame()
    server.close(4000)
    await client.close_frame()
    [line] = await running.settled()
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/realtime", 101)
    assert (line["model"], line["outcome"], line["attempts"]) == ("gpt-realtime", "ok", 1)
    assert line["bytes"] == len(frame(b"a secret of upstream")) + 4
    assert line["first_byte_ms"] is not None
    assert "secret" not in log.text
