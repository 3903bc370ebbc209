"""Connections are reused on both sides; HTTP/1.0 clients are served."""

import pytest

from tests.conftest import StartGate
from tests.support.http import (
    CHAT,
    EVENT_STREAM,
    LAST_CHUNK,
    chat,
    chunk,
    get,
    post,
    request,
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


SECOND = post(b'{"second": true}')
CUTS = (0, 1, 50, len(SECOND) - 1, len(SECOND))

WAITING = {
    "without a body": (get(), b""),
    "with a body": (post(b'{"first": 1}'), b'{"first": 1}'),
    "chunked": (
        request("POST", CHAT, "Transfer-Encoding: chunked") + chunk(b"{}") + LAST_CHUNK,
        b"{}",
    ),
}


@pytest.mark.parametrize(("first", "body"), WAITING.values(), ids=WAITING)
@pytest.mark.parametrize("cut", CUTS)
async def test_request_arrives_in_parts_behind_one_that_waits(
    gate: StartGate, upstream: Upstream, first: bytes, body: bytes, cut: int
) -> None:
    """Freeing the head of a request that waits does not touch other requests."""
    running = await gate(CONCURRENCY_LIMIT=1)
    await running.send(get("/v1/holder"))
    holder = await upstream.call()
    client = await running.send(first + SECOND[:cut])
    await running.wait_until(waiters=1)
    client.send(SECOND[cut:])
    await holder.respond(response())
    for expected in (body, b'{"second": true}'):
        call = await upstream.call()
        assert await call.read_rest() == expected
        await call.respond(response(b"for %b" % expected))
        assert (await client.response()).body == b"for %b" % expected


@pytest.mark.parametrize("cut", CUTS)
async def test_request_arrives_in_parts_behind_a_stream(
    gate: StartGate, upstream: Upstream, cut: int
) -> None:
    client = await (await gate()).send(chat(stream=True) + SECOND[:cut])
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: x\n\n"))
    await client.head()
    client.send(SECOND[cut:])
    await call.respond(LAST_CHUNK)
    assert await client.read_rest() == b"data: x\n\n"
    call = await upstream.call()
    assert await call.read_rest() == b'{"second": true}'
    await call.respond(response())
    assert (await client.response()).status == 200


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
