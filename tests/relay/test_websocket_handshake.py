"""WebSocket handshakes through the gate: what crosses, and what is refused."""

import pytest

from tests.conftest import StartGate
from tests.support.http import (
    CLIENT_KEY,
    LAST_CHUNK,
    UPSTREAM_KEY,
    chunk,
    get,
    response,
    response_head,
)
from tests.support.upstream import Upstream, loopback_socket, url_of
from tests.support.waiting import A_SECOND_S
from tests.support.websocket import (
    CLIENT_NONCE,
    accept_handshake,
    accept_key,
    handshake,
    handshake_response,
    open_websocket,
)

KEY_PROTOCOL = "openai-insecure-api-key."


async def test_handshake_headers_go_upstream_like_those_of_other_requests(
    gate: StartGate, upstream: Upstream
) -> None:
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


async def test_handshake_response_headers_come_down_like_those_of_other_responses(
    gate: StartGate, upstream: Upstream
) -> None:
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
            ("x-rustygate-id", head["x-rustygate-id"]),
            ("x-rustygate-queued-ms", "0"),
        ]
    )


async def test_client_gets_no_response_before_upstream_accepts(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(handshake())
    call = await upstream.call()
    assert bytes(client.wire.received) == b""
    assert running.snapshot()["in_flight"] == 1
    call.send(handshake_response(call.head))
    assert (await client.head()).status == 101


async def test_any_path_can_be_a_websocket(gate: StartGate, upstream: Upstream) -> None:
    for target in ("/v1/responses", "/v1/other/path?a=%2F"):
        client, call = await accept_handshake(
            await gate(), upstream, request=handshake(target=target)
        )
        assert ((await client.head()).status, call.target) == (101, target)


@pytest.mark.parametrize(
    ("offered", "sent", "chosen", "returned"),
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
    ids=["one", "the second", "none", "with a key", "the key"],
)
async def test_subprotocols_pass_and_keys_are_replaced(
    gate: StartGate,
    upstream: Upstream,
    offered: str,
    sent: str,
    chosen: str | None,
    returned: str | None,
) -> None:
    lines = [] if chosen is None else [f"Sec-WebSocket-Protocol: {chosen}"]
    client_handshake = handshake(f"Sec-WebSocket-Protocol: {offered}")
    client, call = await accept_handshake(await gate(), upstream, *lines, request=client_handshake)
    assert call.head["sec-websocket-protocol"] == sent
    assert (await client.head()).all("sec-websocket-protocol") == (
        [] if returned is None else [returned]
    )
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
    ids=["another protocol", "no Connection", "two protocols", "POST", "HTTP/1.0"],
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
    ids=["version", "no key", "short key", "invalid key", "bad protocol", "body", "chunked body"],
)
async def test_malformed_handshake_is_refused(
    gate: StartGate, upstream: Upstream, request_: bytes
) -> None:
    got = await (await gate()).request(request_)
    assert (got.status, got.reason) == (400, "bad_request")
    assert got.head["sec-websocket-version"] == "13"
    assert upstream.calls == []


async def test_connection_serves_requests_after_a_refused_handshake(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response(b"next")
    client = await (await gate()).connect()
    assert (await client.request(handshake("Sec-WebSocket-Version: 8"))).status == 400
    assert (await client.request(get())).body == b"next"


async def test_handshake_from_an_origin_that_is_not_listed_is_refused(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(CORS_ALLOW_ORIGINS="http://localhost:3000")
    got = await running.request(handshake("Origin: https://elsewhere.example"))
    assert (got.status, got.reason) == (403, "origin_not_allowed")
    assert upstream.calls == []
    client_handshake = handshake("Origin: http://localhost:3000")
    client, call = await accept_handshake(running, upstream, request=client_handshake)
    assert (await client.head()).status == 101
    assert "origin" not in call.head


async def test_websocket_outside_v1_is_not_found(gate: StartGate, upstream: Upstream) -> None:
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
async def test_error_from_upstream_passes_complete(
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
    outcome = "ok" if got.status < 400 else "upstream_error"
    assert (await running.settled(2))[0]["outcome"] == outcome


async def test_error_from_upstream_streams(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(handshake())
    call = await upstream.call()
    call.send(response_head("Transfer-Encoding: chunked", status="403 No"), chunk(b"first"))
    assert (await client.head()).status == 403
    await client.expect_body(b"first")
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


async def test_handshake_that_waited_for_admission_is_completed(
    gate: StartGate, upstream: Upstream
) -> None:
    """Its headers are needed for the response. Those of other requests are freed meanwhile."""
    running = await gate(CONCURRENCY_LIMIT=1)
    first = await running.send(get())
    holder = await upstream.call()
    client = await running.send(handshake())
    await running.wait_until(waiters=1)
    await holder.respond(response())
    assert (await first.response()).status == 200
    call = await upstream.call()
    call.send(handshake_response(call.head))
    assert (await client.head()).status == 101


async def test_rate_limited_handshake_is_retried(gate: StartGate, upstream: Upstream) -> None:
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
        ["Sec-WebSocket-Protocol: not-offered"],
        ["Sec-WebSocket-Extensions: permessage-deflate"],
        ["Upgrade: h2c"],
        ["Upgrade: "],
        ["Connection: close"],
    ],
    ids=["accept", "client's accept", "protocol", "extension", "upgrade", "no upgrade", "close"],
)
async def test_mismatched_101_is_a_502(
    gate: StartGate, upstream: Upstream, lines: list[str]
) -> None:
    running = await gate()
    client, call = await accept_handshake(running, upstream, *lines)
    got = await client.response()
    assert (got.status, got.reason) == (502, "upstream_disconnected")
    await call.ended(A_SECOND_S)
    assert len(upstream.calls) == 1
    assert (await running.settled())[0]["outcome"] == "upstream_error"


async def test_101_for_an_ordinary_request_is_a_502(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(get())
    call = await upstream.call()
    call.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    assert (await client.response()).reason == "upstream_disconnected"


async def test_handshake_with_unreachable_upstream_costs_nothing(
    gate: StartGate, upstream: Upstream
) -> None:
    sock = loopback_socket()
    running = await gate(
        OPENAI_BASE_URL=url_of(sock),
        RATE_LIMIT="0.001",
        RATE_LIMIT_BURST=1,
        UPSTREAM_CONNECT_TIMEOUT=0.1,
    )
    for _ in range(2):
        got = await running.request(handshake())
        assert (got.status, got.reason) == (502, "upstream_unreachable")
    assert [line["attempts"] for line in await running.settled(2)] == [1, 1]
    sock.close()


async def test_handshake_without_a_response_is_retried(
    gate: StartGate, upstream: Upstream
) -> None:
    client = await (await gate()).send(handshake())
    (await upstream.call()).close()
    call = await upstream.call()
    call.send(handshake_response(call.head))
    assert (await client.head())["x-rustygate-attempts"] == "2"


async def test_handshake_times_out(gate: StartGate, upstream: Upstream) -> None:
    got = await (await gate(UPSTREAM_READ_TIMEOUT=0.2)).request(handshake())
    assert (got.status, got.reason) == (504, "upstream_timeout")


async def test_pooled_connection_can_become_a_websocket(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(get())
    first = await upstream.call()
    await first.respond(response())
    await client.response()
    socket, server = await open_websocket(running, upstream)
    assert server.wire is first.wire
    socket.send(b"hello")
    await server.expect(b"hello")
