"""WebSockets through the gate: admission, frames, backpressure, log and tokens."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import StartGate
from tests.support.flood import send_until_stalled
from tests.support.gate import Log
from tests.support.http import (
    chat,
    get,
)
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

MEGABYTE = 1 << 20


# Admission.


async def test_websocket_is_in_flight_until_it_ends(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(CONCURRENCY_LIMIT=1)
    client, far = await open_websocket(running, upstream)
    waiting = await running.send(handshake())
    await running.wait_until(in_flight=1, waiters=1)
    client.close()
    await far.close_frame()
    far.close()
    await client.close_frame()
    call = await upstream.call()
    call.send(handshake_response(call.head))
    assert (await waiting.head()).status == 101
    await running.wait_until(in_flight=1, waiters=0)


async def test_websocket_takes_a_unit_and_may_wait_in_vain(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(RATE_LIMIT="0.001", RATE_LIMIT_BURST=1)
    await open_websocket(running, upstream)
    got = await running.request(handshake())
    assert (got.status, got.reason) == (429, "queue_timeout")


async def test_client_that_leaves_the_queue_frees_its_place(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1)
    await open_websocket(running, upstream)
    waiting = await running.send(handshake())
    await running.wait_until(waiters=1)
    waiting.disconnect()
    await running.wait_until(waiters=0)
    assert len(upstream.calls) == 1


async def test_client_that_leaves_during_the_opening_takes_it_along(
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
    "umlaut": [("\N{LATIN SMALL LETTER A WITH DIAERESIS}".encode(), TEXT, True)],
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
@pytest.mark.parametrize("way", ["up", "down"])
async def test_frames_pass_as_they_are(
    gate: StartGate, upstream: Upstream, way: str, pieces: list[tuple[bytes, int, bool]]
) -> None:
    client, far = await open_websocket(await gate(), upstream)
    sender, taker = (client, far) if way == "up" else (far, client)
    for payload, opcode, final in pieces:
        sender.send(payload, opcode, final=final)
        assert await taker.frame() == Frame(opcode, payload, final)


async def test_mask_of_the_client_is_kept(gate: StartGate, upstream: Upstream) -> None:
    client, far = await open_websocket(await gate(), upstream)
    client.send(b"hello")
    assert (await far.frame()).raw == frame(b"hello", mask=MASK)


async def test_frame_that_comes_in_bytes_passes(gate: StartGate, upstream: Upstream) -> None:
    client, far = await open_websocket(await gate(), upstream)
    for data, sender, taker in (
        (frame(b"x" * 200, mask=MASK), client, far),
        (frame(b"y" * 200), far, client),
    ):
        for byte in data:
            await sender.wire.send_all(bytes([byte]))
        assert (await taker.frame()).raw == data


async def test_payload_does_not_wait_for_its_end(gate: StartGate, upstream: Upstream) -> None:
    client, far = await open_websocket(await gate(), upstream)
    data = frame(b"x" * 100_000)
    far.wire.send(data[:50_000])
    async with soon():
        assert len(await client.wire.read_some()) > 0
    far.wire.send(data[50_000:])


@pytest.mark.parametrize("count", [1, 50])
async def test_what_comes_with_the_agreement_is_not_lost(
    gate: StartGate, upstream: Upstream, count: int
) -> None:
    early = [b"x" * 3000 + b"%d" % number for number in range(count)]
    asked = handshake() + b"".join(frame(text, mask=MASK) for text in early)
    client = await (await gate()).send(asked)
    call = await upstream.call()
    call.send(handshake_response(call.head), *map(frame, early))
    assert (await client.head()).status == 101
    near, far = WebSocketEnd(client.wire, masks=True), WebSocketEnd(call.wire, masks=False)
    for text in early:
        await near.expect(text)
        await far.expect(text)


async def test_whole_conversation_may_come_with_the_agreement(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(handshake())
    call = await upstream.call()
    call.send(handshake_response(call.head), frame(b"only"), frame(close_payload(1000), CLOSE))
    call.close()
    assert (await client.head()).status == 101
    near = WebSocketEnd(client.wire, masks=True)
    await near.expect(b"only")
    assert (await near.close_frame()).code == 1000
    assert await near.ended() == "closed"
    assert (await running.settled())[0]["outcome"] == "ok"


async def test_silence_does_not_end_it(gate: StartGate, upstream: Upstream) -> None:
    """Others are given up meanwhile, one after the other."""
    running = await gate(UPSTREAM_READ_TIMEOUT=0.2)
    client, far = await open_websocket(running, upstream)
    for _ in range(3):
        assert (await running.request(get())).status == 504
    client.send(b"still here")
    await far.expect(b"still here")
    far.send(b"me too")
    await client.expect(b"me too")


async def test_compressed_frames_pass_as_they_are(gate: StartGate, upstream: Upstream) -> None:
    client, far = await open_websocket(await gate(), upstream, compressed=True)
    for sender, taker in ((client, far), (far, client)):
        sender.send(b"\xaaV\xca\xff", TEXT, reserved=4)
        assert await taker.frame() == Frame(TEXT, b"\xaaV\xca\xff", reserved=4)


async def test_compression_that_upstream_declines_is_declined(
    gate: StartGate, upstream: Upstream
) -> None:
    client, call = await accept_handshake(await gate(), upstream, request=handshake(COMPRESSION))
    assert call.head["sec-websocket-extensions"] == "permessage-deflate"
    assert "sec-websocket-extensions" not in await client.head()


async def test_many_at_once_do_not_mix(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    pairs = [await open_websocket(running, upstream) for _ in range(50)]
    assert running.snapshot()["in_flight"] == 50
    for number, (client, far) in enumerate(pairs):
        client.send(b"up %d" % number)
        far.send(b"down %d" % number)
    for number, (client, far) in enumerate(pairs):
        await far.expect(b"up %d" % number)
        await client.expect(b"down %d" % number)


texts = st.tuples(st.just(TEXT), st.text().map(str.encode))
binaries = st.tuples(st.just(BINARY), st.binary(max_size=2000) | st.just(b"\xff" * 70_000))
messages = st.lists(st.tuples(st.booleans(), texts | binaries), max_size=12)


async def test_whatever_is_said_arrives(gate: StartGate, upstream: Upstream) -> None:
    client, far = await open_websocket(await gate(), upstream)
    loop = asyncio.get_running_loop()

    async def say(said: list[tuple[bool, tuple[int, bytes]]]) -> None:
        for up, (opcode, payload) in said:
            (client if up else far).send(payload, opcode)
        for up, (opcode, payload) in said:
            await (far if up else client).expect(payload, opcode)

    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
    @given(messages)
    def law(said: list[tuple[bool, tuple[int, bytes]]]) -> None:
        asyncio.run_coroutine_threadsafe(say(said), loop).result()

    await asyncio.to_thread(law)


# Backpressure.


@pytest.mark.parametrize("way", ["up", "down"])
async def test_side_that_does_not_read_pauses_the_other(
    gate: StartGate, upstream: Upstream, way: str
) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    sender, taker = (client, far) if way == "up" else (far, client)
    piece = frame(b"x" * 60_000, BINARY, mask=MASK if way == "up" else b"")
    taker.wire.pause_reading()
    sent = await send_until_stalled(sender.wire, piece)
    assert sent < 12 * MEGABYTE
    # The other way is open.
    taker.send(b"meanwhile")
    await sender.expect(b"meanwhile")
    taker.wire.resume_reading()
    for _ in range(sent // len(piece)):
        await taker.expect(b"x" * 60_000, BINARY)


async def test_client_that_does_not_even_read_its_answer_pauses_upstream(
    gate: StartGate, upstream: Upstream
) -> None:
    client = await (await gate()).connect(receive_buffer=4096)
    client.wire.pause_reading()
    client.send(handshake())
    call = await upstream.call()
    piece = frame(b"x" * 60_000, BINARY)
    call.send(handshake_response(call.head), piece * 10)
    sent = 10 * len(piece) + await send_until_stalled(call.wire, piece)
    assert sent < 12 * MEGABYTE
    client.wire.resume_reading()
    await client.head()
    near = WebSocketEnd(client.wire, masks=True)
    for _ in range(sent // len(piece)):
        await near.expect(b"x" * 60_000, BINARY)


async def test_client_that_leaves_while_it_is_not_read_is_missed(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    far.wire.pause_reading()
    await send_until_stalled(client.wire, frame(b"x" * 60_000, BINARY, mask=MASK))
    client.wire.reset()
    await running.wait_until(in_flight=0)
    assert (await running.settled())[0]["outcome"] == "client_left"


# Log and tokens.


async def test_websocket_settles_with_one_line(
    gate: StartGate, upstream: Upstream, log: Log
) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    client.send(b"a secret of the client")
    await far.expect(b"a secret of the client")
    far.send(b"a secret of upstream")
    await client.expect(b"a secret of upstream")
    client.close(4000, "a secret reason")
    await far.close_frame()
    far.close(4000)
    await client.close_frame()
    [line] = await running.settled()
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/realtime", 101)
    assert (line["model"], line["outcome"], line["attempts"]) == ("gpt-realtime", "ok", 1)
    assert line["bytes"] == len(frame(b"a secret of upstream")) + 4
    assert line["first_byte_ms"] is not None
    assert "secret" not in log.text


async def test_tokens_of_a_conversation_add_up(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    done = b'{"type": "response.done", "response": {"usage": %b}, "event_id": "event_1"}'
    usage = b'{"total_tokens": 5, "input_tokens": 3, "output_tokens": 2}'
    far.send(b'{"type": "response.created", "response": {"usage": null}}')
    far.wire.send(frame(done % usage) * 2)
    far.send(done[:30], final=False)
    far.send((done % usage)[30:], CONTINUATION)
    far.close()
    while (await client.frame()).opcode != CLOSE:
        pass
    client.close()
    await far.close_frame()
    [line] = await running.settled()
    assert (line["tokens_in"], line["tokens_out"]) == (9, 6)


async def test_tokens_of_a_conversation_are_paid_for(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(TOKENS_PER_MINUTE=60, RATE_LIMIT_TIMEOUT=1)
    client, far = await open_websocket(running, upstream)
    far.send(b'{"response": {"usage": {"input_tokens": 30, "output_tokens": 30}}}')
    far.close()
    await client.frame()
    await client.close_frame()
    client.close()
    await running.settled()
    assert (await running.request(chat())).reason == "queue_timeout"
