"""Streams that upstream cuts: a client can always tell them from complete ones."""

import json

import pytest

from tests.conftest import StartGate
from tests.support.http import (
    EVENT_STREAM,
    chat,
    chunk,
    get,
    post,
    response,
    response_head,
)
from tests.support.streams import NEVER, opened
from tests.support.upstream import Upstream


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_break_at_a_boundary_is_told_and_cut(
    gate: StartGate, upstream: Upstream, how: str
) -> None:
    running = await gate()
    client, call = await opened(running, upstream, b"data: 1\n\n")
    call.close() if how == "close" else call.reset()
    told = await client.read_until_cut()
    assert told.startswith(b"data: ")
    assert told.endswith(b"\n\n")
    error = json.loads(told.removeprefix(b"data: "))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("upstream_error", "upstream_disconnected")
    [line] = await running.settled()
    assert (line["outcome"], line["status"], line["bytes"]) == ("aborted", 200, 9)


@pytest.mark.parametrize("target", ["/v1/responses", "/v1/responses?stream=1"])
async def test_break_of_a_response_has_the_form_of_its_events(
    gate: StartGate, upstream: Upstream, target: str
) -> None:
    body = b'{"model": "gpt-5", "stream": true}'
    first = b"event: response.created\ndata: {}\n\n"
    request = post(body, target=target)
    client, call = await opened(await gate(), upstream, first, request=request)
    call.close()
    told = await client.read_until_cut()
    assert told.startswith(b"event: error\ndata: ")
    assert told.endswith(b"\n\n")
    event = json.loads(told.split(b"data: ", 1)[1])
    assert (event["type"], event["code"]) == ("error", "upstream_disconnected")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("first", [b"data: 1\n\nda", b"data: 1\n", b"data: 1\r\n\r"], ids=repr)
async def test_break_inside_an_event_is_only_cut(
    gate: StartGate, upstream: Upstream, first: bytes, how: str
) -> None:
    running = await gate()
    client, call = await opened(running, upstream, first)
    call.close() if how == "close" else call.reset()
    assert await client.read_until_cut() == b""
    assert (await running.settled())[0]["outcome"] == "aborted"


@pytest.mark.parametrize(
    "bad", [b"nonsense\r\n", b"-1\r\n", b"\r\n", b"f" * 20 + b"\r\n", b"1\r\n23\r\n"], ids=repr
)
async def test_bad_chunk_in_an_answer_cuts(
    gate: StartGate, upstream: Upstream, bad: bytes
) -> None:
    client, call = await opened(await gate(), upstream, b"data: 1\n\nda")
    call.send(bad)
    assert await client.read_until_cut() in (b"", b"2")


async def test_what_came_with_a_bad_chunk_is_passed(gate: StartGate, upstream: Upstream) -> None:
    client, call = await opened(await gate(), upstream)
    call.send(chunk(b"data: second\n\n"), b"nonsense\r\n")
    assert (await client.read_until_cut()).startswith(b'data: second\n\ndata: {"error"')


async def test_break_of_a_compressed_stream_is_only_cut(
    gate: StartGate, upstream: Upstream
) -> None:
    head = EVENT_STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    client, call = await opened(await gate(), upstream, b"\x1f\x8b\n\n", head=head)
    call.close()
    assert await client.read_until_cut() == b""


@pytest.mark.parametrize(
    ("head", "how"),
    [
        (response_head("Content-Length: 10", "Content-Type: application/json"), "close"),
        (response_head("Content-Length: 10", "Content-Type: application/json"), "reset"),
        (response_head("Transfer-Encoding: chunked"), "close"),
        (response_head("Transfer-Encoding: chunked"), "reset"),
        # Here only a reset tells that the connection's end was not the body's.
        (response_head(), "reset"),
    ],
    ids=["length", "length, reset", "chunked", "chunked, reset", "until the end, reset"],
)
async def test_answer_that_breaks_off_is_cut(
    gate: StartGate, upstream: Upstream, head: bytes, how: str
) -> None:
    running = await gate()
    client, call = await opened(running, upstream, b"part", request=get(), head=head)
    call.close() if how == "close" else call.reset()
    assert await client.read_until_cut() == b""
    assert (await running.settled())[0]["outcome"] == "aborted"


async def test_http_1_0_client_can_tell_a_break_too(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(b"GET /v1/x HTTP/1.0\r\nHost: gate\r\n\r\n")
    call = await upstream.call()
    call.send(response_head("Transfer-Encoding: chunked"), chunk(b"abc"))
    await client.head()
    await client.expect_body(b"abc")
    call.close()
    assert await client.ended() == "reset"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "head",
    [
        EVENT_STREAM,
        response_head("Content-Length: 10"),
        response_head("Transfer-Encoding: chunked"),
    ],
    ids=["stream", "length", "chunked"],
)
async def test_break_between_head_and_body_is_an_error(
    gate: StartGate, upstream: Upstream, head: bytes, how: str
) -> None:
    running = await gate()
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    await call.read_rest()
    call.send(head)
    call.close() if how == "close" else call.reset()
    got = await client.response()
    assert (got.status, got.reason) == (502, "upstream_disconnected")
    assert len(upstream.calls) == 1
    assert (await running.settled())[0]["outcome"] == "upstream_error"


async def test_silence_in_a_stream_breaks_it_off(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=0.3)
    client, call = await opened(running, upstream)
    told = await client.read_until_cut()
    assert json.loads(told.removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"
    await call.ended()


async def test_client_that_does_not_read_the_break_is_cut_all_the_same(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(SSE_CHANNEL_CAPACITY=1, SSE_KEEPALIVE_INTERVAL=NEVER)
    client, call = await opened(running, upstream)
    client.wire.pause_reading()
    call.close()
    await running.settled()
    client.wire.resume_reading()
    assert (await client.read_until_cut()).startswith(b"data: ")


async def test_stream_after_a_cut_one_is_served(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, call = await opened(running, upstream)
    call.close()
    await client.read_until_cut()
    upstream.reply = response(b"next")
    assert (await running.request(get())).body == b"next"
