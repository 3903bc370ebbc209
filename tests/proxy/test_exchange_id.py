"""Every response has an id, that of its log line if there is one, and no `Server` of ours."""

import pytest

from tests.conftest import StartGate
from tests.support.gate import Gate, one_process
from tests.support.http import EVENT_STREAM, LAST_CHUNK, Head, chat, chunk, get, post, response
from tests.support.upstream import Upstream
from tests.support.websocket import accept_handshake, handshake

APP = "https://app.example"
EARLY = {"CONCURRENCY_LIMIT": 1, "QUEUE_KEEPALIVE_AFTER": 0.05}


async def assert_names_its_exchange(running: Gate, head: Head, number: int = 0) -> None:
    lines = await running.settled(number + 1)
    assert head["x-rustygate-id"] == lines[number]["id"]
    assert "server" not in head


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (get(), 200),
        (b"HEAD /v1/models HTTP/1.1\r\nHost: gate\r\n\r\n", 200),
        (b"GET /v1/models HTTP/1.0\r\nHost: gate\r\n\r\n", 200),
        (get("/v1/../x"), 400),
        (get("/v2/x"), 404),
        (get("/v1/models", "X-RustyGate-Priority: first"), 400),
        (get("/v1/models", "Origin: https://evil.example"), 403),
        (get("/v1/models", "Sec-WebSocket-Key: x", "Upgrade: websocket", "Connection: u"), 200),
        (handshake("Sec-WebSocket-Version: 12"), 400),
        (b"TRACE /v1/models HTTP/1.1\r\nHost: gate\r\n\r\n", 405),
        (post(b"x" * 20, target="/v1/x"), 413),
        (
            f"OPTIONS /v1/x HTTP/1.1\r\nHost: gate\r\nOrigin: {APP}\r\n"
            "Access-Control-Request-Method: POST\r\n\r\n".encode(),
            204,
        ),
    ],
)
async def test_response_has_the_exchange_id(
    gate: StartGate, upstream: Upstream, sent: bytes, status: int
) -> None:
    upstream.reply = response(b"")
    running = await gate(MAX_BODY_SIZE=10, CORS_ALLOW_ORIGINS=APP)
    got = await running.request(sent)
    assert got.status == status
    await assert_names_its_exchange(running, got.head)


async def test_error_for_an_unreachable_upstream_has_the_exchange_id(gate: StartGate) -> None:
    running = await gate(OPENAI_BASE_URL="http://127.0.0.1:9/v1", UPSTREAM_CONNECT_TIMEOUT=0.1)
    got = await running.request(get())
    assert got.status == 502
    await assert_names_its_exchange(running, got.head)


async def test_stream_has_the_exchange_id(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    head = await client.head()
    call.send(LAST_CHUNK)
    await client.read_rest()
    await assert_names_its_exchange(running, head)


async def test_early_head_has_the_exchange_id(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(**EARLY)
    holder = await running.send(get())
    first = await upstream.call()
    client = await running.send(chat(stream=True))
    head = await client.head()
    await first.respond(response())
    await holder.response()
    call = await upstream.call()
    call.send(EVENT_STREAM, LAST_CHUNK)
    await client.read_rest()
    await assert_names_its_exchange(running, head, 1)


async def test_websocket_has_the_exchange_id(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, _ = await accept_handshake(running, upstream)
    head = await client.head()
    assert head.status == 101
    client.disconnect()
    await assert_names_its_exchange(running, head)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (get("/health"), 200),
        (b"HEAD /livez HTTP/1.1\r\nHost: gate\r\n\r\n", 200),
        (post(b"", target="/health"), 405),
        (
            f"OPTIONS /ready HTTP/1.1\r\nHost: gate\r\nOrigin: {APP}\r\n"
            "Access-Control-Request-Method: GET\r\n\r\n".encode(),
            204,
        ),
        (get("/ready"), 200),
        (get("/metrics"), 403),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /v1/x HTTP/1.1\r\nBroken\r\n\r\n", 400),
        (b"GET /v1/\xc3\xa4 HTTP/1.1\r\nHost: gate\r\n\r\n", 400),
    ],
)
async def test_response_to_any_other_request_has_an_id(
    gate: StartGate, sent: bytes, status: int
) -> None:
    running = await gate(CORS_ALLOW_ORIGINS=APP)
    heads = []
    for _ in range(2):
        client = await running.send(sent)
        heads.append(await client.head())
    for head in heads:
        assert (head.status, "server" in head) == (status, False)
    assert heads[0]["x-rustygate-id"] != heads[1]["x-rustygate-id"]


async def test_rejected_request_has_the_id_of_its_log_line(gate: StartGate) -> None:
    running = await gate()
    got = await running.request(b"GET /v1/x HTTP/1.1\r\nBroken\r\n\r\n")
    line = next(line for line in running.log.text.splitlines() if "request rejected" in line)
    assert got.head["x-rustygate-id"] in line


@one_process
async def test_response_above_the_connection_limit_has_an_id(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(CONNECTION_LIMIT=1)
    client = await running.send(get())
    call = await upstream.call()
    heads = [await (await running.send(get())).head() for _ in range(2)]
    for head in heads:
        assert (head.status, "server" in head) == (503, False)
    assert heads[0]["x-rustygate-id"] != heads[1]["x-rustygate-id"]
    await call.respond(response())
    await client.response()


async def test_upstreams_server_header_passes(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(b"{}", "Server: cloudflare")
    got = await (await gate()).request(get())
    assert got.head["server"] == "cloudflare"
