"""WebSockets through the gate: their opening, every frame both ways, and how they end."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest
import websockets
from aiohttp import ClientSession, WSMsgType, web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rustygate.relay import websocket
from rustygate.system.tls import unsent_bytes
from tests.conftest import StartGate
from tests.support.certificates import Authority
from tests.support.gate import Gate, Log
from tests.support.http import (
    CLIENT_KEY,
    LAST_CHUNK,
    UPSTREAM_KEY,
    chat,
    chunk,
    get,
    response,
    response_head,
)
from tests.support.upstream import Call, Upstream, loopback_socket, url_of
from tests.support.waiting import A_SECOND_S, soon
from tests.support.websocket import (
    BINARY,
    CLIENT_NONCE,
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
    accept_key,
    close_payload,
    frame,
    handshake,
    handshake_response,
    open_websocket,
)
from tests.support.wire import Wire

KEY_PROTOCOL = "openai-insecure-api-key."
MEGABYTE = 1 << 20


# The opening.


async def test_opening_goes_up_as_a_request_does(gate: StartGate, upstream: Upstream) -> None:
    lines = [
        "User-Agent: MyApp/1.0",
        "OpenAI-Beta: realtime=v1",
        "X-Repeated: one",
        "X-Repeated: two",
        "Cookie: session=1",
        "X-Forwarded-For: 10.0.0.1",
        "Sec-Fetch-Mode: websocket",
        "X-RustyGate-Client: search",
    ]
    running = await gate(OPENAI_PROJECT_ID="proj-1")
    client, call = await accept_handshake(running, upstream, request=handshake(*lines))
    assert (await client.head()).status == 101
    assert call.head.start == "GET /v1/realtime?model=gpt-realtime HTTP/1.1"
    nonce = call.head["sec-websocket-key"]
    assert nonce != CLIENT_NONCE
    assert sorted(call.head.fields) == sorted(
        [
            ("authorization", f"Bearer {UPSTREAM_KEY}"),
            ("connection", "Upgrade"),
            ("host", upstream.url.removeprefix("http://").removesuffix("/v1")),
            ("openai-beta", "realtime=v1"),
            ("openai-project", "proj-1"),
            ("sec-websocket-key", nonce),
            ("sec-websocket-version", "13"),
            ("upgrade", "websocket"),
            ("user-agent", "MyApp/1.0"),
            ("x-repeated", "one"),
            ("x-repeated", "two"),
        ]
    )


async def test_answer_comes_down_as_others_do(gate: StartGate, upstream: Upstream) -> None:
    lines = ["x-request-id: req_1", "Set-Cookie: a=b", "Date: now", "Server: cloudflare"]
    client, _ = await accept_handshake(await gate(), upstream, *lines)
    head = await client.head()
    assert head.start == "HTTP/1.1 101 Switching Protocols"
    timing = head["server-timing"]
    assert timing.startswith("queue;dur=")
    assert sorted(head.fields) == sorted(
        [
            ("connection", "Upgrade"),
            ("date", "now"),
            ("sec-websocket-accept", accept_key(CLIENT_NONCE)),
            ("server", "cloudflare"),
            ("server-timing", timing),
            ("upgrade", "websocket"),
            ("x-request-id", "req_1"),
            ("x-rustygate-attempts", "1"),
            ("x-rustygate-queued-ms", "0"),
        ]
    )


async def test_client_is_not_answered_before_upstream_agrees(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(handshake())
    call = await upstream.call()
    assert bytes(client.wire.received) == b""
    assert running.snapshot()["in_flight"] == 1
    call.send(handshake_response(call.head))
    assert (await client.head()).status == 101


async def test_any_path_may_be_a_websocket(gate: StartGate, upstream: Upstream) -> None:
    for target in ("/v1/responses", "/v1/other/path?a=%2F"):
        client, call = await accept_handshake(
            await gate(), upstream, request=handshake(target=target)
        )
        assert ((await client.head()).status, call.target) == (101, target)


@pytest.mark.parametrize(
    ("offered", "sent", "chosen", "told"),
    [
        ("realtime", "realtime", "realtime", "realtime"),
        ("a, b", "a, b", "b", "b"),
        ("a, b", "a, b", None, None),
        (
            f"realtime, {KEY_PROTOCOL}{CLIENT_KEY}, openai-beta.realtime-v1",
            f"realtime, {KEY_PROTOCOL}{UPSTREAM_KEY}, openai-beta.realtime-v1",
            "realtime",
            "realtime",
        ),
        (
            f"{KEY_PROTOCOL}{CLIENT_KEY}",
            f"{KEY_PROTOCOL}{UPSTREAM_KEY}",
            f"{KEY_PROTOCOL}{UPSTREAM_KEY}",
            f"{KEY_PROTOCOL}{CLIENT_KEY}",
        ),
    ],
    ids=["one", "the second", "none", "beside a key", "the key"],
)
async def test_subprotocols_cross_but_keys_are_exchanged(
    gate: StartGate,
    upstream: Upstream,
    offered: str,
    sent: str,
    chosen: str | None,
    told: str | None,
) -> None:
    lines = [] if chosen is None else [f"Sec-WebSocket-Protocol: {chosen}"]
    asked = handshake(f"Sec-WebSocket-Protocol: {offered}")
    client, call = await accept_handshake(await gate(), upstream, *lines, request=asked)
    assert call.head["sec-websocket-protocol"] == sent
    assert (await client.head()).all("sec-websocket-protocol") == ([] if told is None else [told])
    assert CLIENT_KEY.encode() not in call.wire.received


@pytest.mark.parametrize(
    "request_",
    [
        get("/v1/realtime", "Connection: Upgrade", "Upgrade: h2c"),
        get("/v1/realtime", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        handshake("Upgrade: websocket, h2c"),
        handshake().replace(b"GET", b"POST"),
        handshake().replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["another protocol", "no Connection", "a choice", "POST", "HTTP/1.0"],
)
async def test_other_upgrades_are_stripped(
    gate: StartGate, upstream: Upstream, request_: bytes
) -> None:
    upstream.reply = response(b"plain")
    got = await (await gate()).request(request_)
    assert (got.status, got.body) == (200, b"plain")
    names = {name for name, _ in upstream.calls[0].head.fields}
    assert names == {"host", "authorization"}


@pytest.mark.parametrize(
    "request_",
    [
        handshake("Sec-WebSocket-Version: 8"),
        get("/v1/x", "Connection: Upgrade", "Upgrade: websocket"),
        handshake("Sec-WebSocket-Key: c2hvcnQ="),
        handshake("Sec-WebSocket-Key: \xe4"),
        handshake("Sec-WebSocket-Protocol: a b"),
        handshake("Content-Length: 2") + b"{}",
        handshake("Transfer-Encoding: chunked") + LAST_CHUNK,
    ],
    ids=["version", "nothing", "short key", "odd key", "odd protocol", "body", "chunked body"],
)
async def test_malformed_opening_is_refused(
    gate: StartGate, upstream: Upstream, request_: bytes
) -> None:
    got = await (await gate()).request(request_)
    assert (got.status, got.reason) == (400, "bad_request")
    assert got.head["sec-websocket-version"] == "13"
    assert upstream.calls == []


async def test_connection_of_a_refused_opening_serves_on(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response(b"next")
    client = await (await gate()).connect()
    assert (await client.request(handshake("Sec-WebSocket-Version: 8"))).status == 400
    assert (await client.request(get())).body == b"next"


async def test_page_that_is_not_listed_opens_none(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(CORS_ALLOW_ORIGINS="http://localhost:3000")
    got = await running.request(handshake("Origin: https://elsewhere.example"))
    assert (got.status, got.reason) == (403, "origin_not_allowed")
    assert upstream.calls == []
    asked = handshake("Origin: http://localhost:3000")
    client, call = await accept_handshake(running, upstream, request=asked)
    assert (await client.head()).status == 101
    assert "origin" not in call.head


async def test_websocket_elsewhere_is_not_found(gate: StartGate, upstream: Upstream) -> None:
    got = await (await gate()).request(handshake(target="/realtime"))
    assert (got.status, got.reason) == (404, "not_found")
    assert upstream.calls == []


@pytest.mark.parametrize(
    "status",
    [
        "200 OK",
        "302 Found",
        "401 Unauthorized",
        "403 Forbidden",
        "426 Upgrade Required",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "503 Service Unavailable",
    ],
)
async def test_refusal_of_upstream_passes_whole(
    gate: StartGate, upstream: Upstream, status: str
) -> None:
    body = b'{"error":  {"message": "no", "code": "insufficient_quota"}}'
    lines = ["Content-Type: application/json", "Retry-After: 7", "Location: /elsewhere"]
    upstream.reply = response(body, *lines, status=status)
    running = await gate()
    client = await running.connect()
    got = await client.request(handshake())
    assert (got.head.start, got.body, got.reason) == (f"HTTP/1.1 {status}", body, None)
    assert (got.head["retry-after"], got.head["location"]) == ("7", "/elsewhere")
    assert len(upstream.calls) == 1
    assert (await client.request(get())).body == body
    assert (await running.settled(2))[0]["outcome"] == "ok"


async def test_refusal_that_streams_is_streamed(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(handshake())
    call = await upstream.call()
    call.send(response_head("Transfer-Encoding: chunked", status="403 No"), chunk(b"first"))
    assert (await client.head()).status == 403
    await client.expect_body(b"first")
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


async def test_upstream_that_is_busy_is_tried_again(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(handshake())
    call = await upstream.call()
    body = b'{"error": {"code": "rate_limit_exceeded"}}'
    await call.respond(response(body, "retry-after-ms: 1", status="429 Too Many Requests"))
    call = await upstream.call()
    call.send(handshake_response(call.head))
    head = await client.head()
    assert (head.status, head["x-rustygate-attempts"]) == (101, "2")


@pytest.mark.parametrize(
    "lines",
    [
        ["Sec-WebSocket-Accept: x"],
        [f"Sec-WebSocket-Accept: {accept_key(CLIENT_NONCE)}"],
        ["Sec-WebSocket-Protocol: unasked"],
        ["Sec-WebSocket-Extensions: permessage-deflate"],
        ["Upgrade: h2c"],
        ["Upgrade: "],
        ["Connection: close"],
    ],
    ids=["proof", "another's proof", "protocol", "extension", "upgrade", "no upgrade", "close"],
)
async def test_agreement_that_does_not_fit_is_an_error(
    gate: StartGate, upstream: Upstream, lines: list[str]
) -> None:
    running = await gate()
    client, call = await accept_handshake(running, upstream, *lines)
    got = await client.response()
    assert (got.status, got.reason) == (502, "upstream_disconnected")
    await call.ended(A_SECOND_S)
    assert len(upstream.calls) == 1
    assert (await running.settled())[0]["outcome"] == "upstream_error"


async def test_agreement_to_what_was_no_opening_is_an_error(
    gate: StartGate, upstream: Upstream
) -> None:
    client = await (await gate()).send(get())
    call = await upstream.call()
    call.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    assert (await client.response()).reason == "upstream_disconnected"


async def test_upstream_that_cannot_be_reached_is_tried_again(
    gate: StartGate, upstream: Upstream
) -> None:
    sock = loopback_socket()
    running = await gate(OPENAI_BASE_URL=url_of(sock), RATE_LIMIT="0.001", RATE_LIMIT_BURST=1)
    got = await running.request(handshake())
    assert (got.status, got.reason) == (502, "upstream_unreachable")
    assert (await running.settled())[0]["attempts"] == 3
    sock.close()


async def test_upstream_that_leaves_unanswered_is_tried_again(
    gate: StartGate, upstream: Upstream
) -> None:
    client = await (await gate()).send(handshake())
    (await upstream.call()).close()
    call = await upstream.call()
    call.send(handshake_response(call.head))
    assert (await client.head())["x-rustygate-attempts"] == "2"


async def test_upstream_that_does_not_answer_is_given_up(
    gate: StartGate, upstream: Upstream
) -> None:
    got = await (await gate(UPSTREAM_READ_TIMEOUT=0.2)).request(handshake())
    assert (got.status, got.reason) == (504, "upstream_timeout")


async def test_pooled_connection_may_become_a_websocket(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(get())
    first = await upstream.call()
    await first.respond(response())
    await client.response()
    socket, far = await open_websocket(running, upstream)
    assert far.wire is first.wire
    socket.send(b"hello")
    await far.expect(b"hello")


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

FLOOD = 24 * MEGABYTE


async def taken_from(wire: Wire, piece: bytes, stalled_s: float = 0.3) -> int:
    """How much of a flood is taken before it stalls, or all of it."""
    sent = 0
    while sent < FLOOD:
        try:
            async with asyncio.timeout(stalled_s):
                await wire.send_all(piece)
        except TimeoutError:
            break
        sent += len(piece)
    return sent


@pytest.mark.parametrize("way", ["up", "down"])
async def test_side_that_does_not_read_pauses_the_other(
    gate: StartGate, upstream: Upstream, way: str
) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    sender, taker = (client, far) if way == "up" else (far, client)
    piece = frame(b"x" * 60_000, BINARY, mask=MASK if way == "up" else b"")
    taker.wire.pause_reading()
    sent = await taken_from(sender.wire, piece)
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
    sent = 10 * len(piece) + await taken_from(call.wire, piece)
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
    await taken_from(client.wire, frame(b"x" * 60_000, BINARY, mask=MASK))
    client.wire.reset()
    await running.wait_until(in_flight=0)
    assert (await running.settled())[0]["outcome"] == "client_left"


# Ends in good order.


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


# Breaks.


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
    await taken_from(far.wire, frame(b"x" * 60_000, BINARY))
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


# What is not sound.


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "reserved bit": ({"payload": b"x", "reserved": 2}, 1002, "bad_request"),
    "compression that was not agreed upon": (
        {"payload": b"x", "reserved": 4},
        1002,
        "bad_request",
    ),
    "unknown opcode": ({"payload": b"x", "opcode": 5}, 1002, "bad_request"),
    "long ping": ({"payload": b"x" * 126, "opcode": PING}, 1002, "bad_request"),
    "fragmented ping": ({"payload": b"x", "opcode": PING, "final": False}, 1002, "bad_request"),
    "continuation of nothing": ({"payload": b"x", "opcode": CONTINUATION}, 1002, "bad_request"),
    "no UTF-8": ({"payload": b"\xff"}, 1007, "bad_request"),
    "too large": ({"payload": b"x", "length": 16 * MEGABYTE + 1}, 1009, "body_too_large"),
    "absurdly large": ({"payload": b"x", "length": 2**63 - 1}, 1009, "body_too_large"),
    "code 1006": ({"payload": close_payload(1006), "opcode": CLOSE}, 1002, "bad_request"),
    "code 1005": ({"payload": close_payload(1005), "opcode": CLOSE}, 1002, "bad_request"),
    "half a code": ({"payload": b"\x03", "opcode": CLOSE}, 1002, "bad_request"),
}


@pytest.mark.parametrize(("bad", "code", "reason"), BAD.values(), ids=BAD)
async def test_client_whose_frames_are_not_sound_is_told_why(
    gate: StartGate, upstream: Upstream, bad: dict[str, Any], code: int, reason: str
) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    other, other_far = await open_websocket(running, upstream)
    client.send(b"before")
    client.send(**bad)
    client.send(b"after")
    await far.expect(b"before")
    told = await client.close_frame()
    assert told.code == code
    assert told.reason.startswith("rustygate: ")
    assert (await far.close_frame()).code == 1001
    assert (await client.ended(), await far.ended()) == ("closed", "closed")
    client.wire.close()
    far.wire.close()
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", reason)
    other.send(b"untouched")
    await other_far.expect(b"untouched")


async def test_client_that_does_not_mask_is_told_why(gate: StartGate, upstream: Upstream) -> None:
    client, far = await open_websocket(await gate(), upstream)
    client.wire.send(frame(b"bare"))
    assert (await client.close_frame()).code == 1002
    assert (await far.close_frame()).code == 1001


@pytest.mark.parametrize(("bad", "code", "reason"), BAD.values(), ids=BAD)
async def test_upstream_whose_frames_are_not_sound_is_told_why(
    gate: StartGate, upstream: Upstream, bad: dict[str, Any], code: int, reason: str
) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    far.send(**bad)
    assert (await far.close_frame()).code == code
    told = await client.close_frame()
    assert (told.code, told.reason[:11]) == (1011, "rustygate: ")
    client.wire.close()
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "upstream_disconnected")


async def test_large_message_is_taken_to_its_end_before_the_connection_is(
    gate: StartGate, upstream: Upstream
) -> None:
    """A client that sends first and reads later still learns why."""
    client, _ = await open_websocket(await gate(), upstream)
    size = 17 * MEGABYTE
    client.send(b"x" * size)
    assert (await client.close_frame()).code == 1009


async def test_flood_of_fragments_ends(gate: StartGate, upstream: Upstream) -> None:
    client, far = await open_websocket(await gate(), upstream)
    client.send(b"", final=False)
    client.wire.send(frame(b"", CONTINUATION, mask=MASK, final=False) * 70_000)
    assert (await client.close_frame()).code == 1009
    assert (await far.frame()).opcode == TEXT


async def test_largest_message_passes(gate: StartGate, upstream: Upstream) -> None:
    client, far = await open_websocket(await gate(), upstream)
    largest = b"x" * (16 * MEGABYTE)
    client.send(largest)
    await far.expect(largest)
    far.send(largest)
    await client.expect(largest)


async def test_side_in_the_middle_of_a_frame_is_cut_without_a_close(
    gate: StartGate, upstream: Upstream
) -> None:
    client, far = await open_websocket(await gate(), upstream)
    far.wire.send(frame(b"half")[:-2])
    async with soon():
        assert await client.wire.read_some() == frame(b"half")[:-2]
    client.send(b"\xff")
    assert await client.read_until_end() == b""
    assert (await far.close_frame()).code == 1001


async def test_other_side_may_have_been_reset_unnoticed(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client, far = await open_websocket(running, upstream)
    client.wire.pause_reading()
    await taken_from(far.wire, frame(b"x" * 60_000, BINARY))
    bad = frame(b"a" * 50 + b"\xff", mask=MASK)
    client.wire.send(bad[:20])
    async with soon():
        await far.wire.read_some()
    far.wire.reset()
    client.wire.send(bad[20:])
    assert (await running.settled())[0]["reason"] == "bad_request"


@pytest.mark.parametrize("noise", [b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000])
async def test_noise_of_a_client_is_refused(
    gate: StartGate, upstream: Upstream, noise: bytes
) -> None:
    client, _ = await open_websocket(await gate(), upstream)
    client.wire.send(noise)
    assert (await client.close_frame()).code == 1002


# By TLS, on both hops.

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
    sent = await taken_from(sender.wire, piece)
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


# The log.


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


# Real clients and a real server.


@pytest.fixture
async def echo(_no_task_is_left: None) -> AsyncIterator[str]:
    """A server of aiohttp's that sends back what it gets; its value is the base URL."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("realtime",), max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/v1/realtime", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


SAID: list[str | bytes] = ["hello", "", b"\x00\xff", b"", "\N{GRINNING FACE}" * 100_000]


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_websockets_package_talks_through_the_gate(
    gate: StartGate, echo: str, compression: str | None
) -> None:
    running = await gate(OPENAI_BASE_URL=echo)
    url = f"{running.url}/v1/realtime".replace("http", "ws", 1)
    async with (
        soon(),
        websockets.connect(
            url, compression=compression, subprotocols=[websockets.Subprotocol("realtime")]
        ) as socket,
    ):
        assert socket.subprotocol == "realtime"
        assert len(socket.protocol.extensions) == (compression is not None)
        for message in SAID:
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping(b"x"))
        await socket.close(4001, "done")
        # What aiohttp answers to any code.
        assert socket.close_code == 1000
    assert (await running.settled())[0]["outcome"] == "ok"


@pytest.mark.parametrize("compress", [15, 0])
async def test_aiohttp_talks_through_the_gate(gate: StartGate, echo: str, compress: int) -> None:
    running = await gate(OPENAI_BASE_URL=echo)
    async with (
        soon(),
        ClientSession() as session,
        session.ws_connect(
            f"{running.url}/v1/realtime", compress=compress, max_msg_size=0
        ) as socket,
    ):
        assert bool(socket.compress) == bool(compress)
        for message in SAID:
            await (
                socket.send_str(message)
                if isinstance(message, str)
                else socket.send_bytes(message)
            )
            assert (await socket.receive()).data == message
        await socket.close(code=4001)
    assert (await running.settled())[0]["outcome"] == "ok"


async def test_websockets_package_is_told_why_it_is_refused(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response(b"no", "x-own: 1", status="403 Forbidden")
    running = await gate()
    with pytest.raises(websockets.InvalidStatus) as raised:
        await websockets.connect(f"{running.url}/v1/realtime".replace("http", "ws", 1))
    refused = raised.value.response
    assert (refused.status_code, refused.body, refused.headers["x-own"]) == (403, b"no", "1")


async def test_websockets_package_can_tell_a_break(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    connecting = asyncio.create_task(
        _connect(f"{running.url}/v1/realtime".replace("http", "ws", 1))
    )
    call = await upstream.call()
    call.send(handshake_response(call.head))
    socket = await connecting
    call.close()
    with pytest.raises(websockets.ConnectionClosedError):
        await socket.recv()
    assert socket.close_code == 1006


async def _connect(url: str) -> websockets.ClientConnection:
    return await websockets.connect(url)


async def test_openai_s_sdk_talks_through_the_gate(
    gate: StartGate, upstream: Upstream, async_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    running = await gate()

    async def serve() -> Call:
        call = await upstream.call()
        call.send(handshake_response(call.head))
        far = WebSocketEnd(call.wire, masks=False)
        asked = json.loads((await far.frame()).payload)
        far.send(json.dumps({"type": "session.updated", "session": asked["session"]}).encode())
        await far.close_frame()
        far.close()
        return call

    serving = asyncio.create_task(serve())
    async with soon(), async_client(running).realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        event = await connection.recv()
    assert event.type == "session.updated"
    call = await serving
    assert call.target == "/v1/realtime?model=gpt-realtime"
    assert call.head["authorization"] == f"Bearer {UPSTREAM_KEY}"
    [line] = await running.settled()
    assert (line["outcome"], line["model"]) == ("ok", "gpt-realtime")
