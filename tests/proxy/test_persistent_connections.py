"""Connections are reused on both sides; HTTP/1.0 clients are served."""

import pytest

from tests.conftest import StartGate
from tests.support.http import (
    LAST_CHUNK,
    chat,
    chunk,
    get,
    response,
    response_head,
)
from tests.support.upstream import Upstream


async def test_client_connection_is_reused(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = lambda call: response(call.target.encode())
    client = await (await gate()).connect()
    for number in range(3):
        assert (await client.request(get(f"/v1/{number}"))).body == b"/v1/%d" % number


async def test_pipelined_requests_get_responses_in_order(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = lambda call: response(call.target.encode())
    client = await (await gate()).send(*[get(f"/v1/{number}") for number in range(3)])
    assert [(await client.response()).body for _ in range(3)] == [b"/v1/0", b"/v1/1", b"/v1/2"]


async def test_upstream_connection_is_reused(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate()
    for _ in range(3):
        await running.request(chat())
    assert (len(upstream.calls), len(upstream.wires)) == (3, 1)


@pytest.mark.parametrize("framed", ["length", "chunked", "connection"])
async def test_http_1_0_client_gets_its_response(
    gate: StartGate, upstream: Upstream, framed: str
) -> None:
    client = await (await gate()).send(b"GET /v1/x HTTP/1.0\r\nHost: gate\r\n\r\n")
    call = await upstream.call()
    assert call.head.start == "GET /v1/x HTTP/1.1"
    match framed:
        case "length":
            call.send(response(b"body"))
        case "chunked":
            call.send(response_head("Transfer-Encoding: chunked"), chunk(b"body"), LAST_CHUNK)
        case _:
            call.send(response_head(), b"body")
            call.close()
    received = await client.response()
    assert "transfer-encoding" not in received.head
    assert received.body == b"body"
    assert await client.ended() == "closed"
