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
from tests.support.streams import NEVER, open_stream
from tests.support.upstream import Upstream


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_cut_at_a_boundary_sends_an_error_event_and_aborts(
    gate: StartGate, upstream: Upstream, how: str
) -> None:
    running = await gate()
    client, call = await open_stream(running, upstream, b"data: 1\n\n")
    call.close() if how == "close" else call.reset()
    event = await client.read_until_cut()
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    error = json.loads(event.removeprefix(b"data: "))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("upstream_error", "upstream_disconnected")
    [line] = await running.settled()
    assert (line["outcome"], line["status"], line["bytes"]) == ("aborted", 200, 9)


@pytest.mark.parametrize(
    "first", [b"data: 1\n\n: ping\n", b": ping\n", b"data: 1\n\n:\n"], ids=repr
)
async def test_cut_after_a_comment_sends_an_error_event(
    gate: StartGate, upstream: Upstream, first: bytes
) -> None:
    client, call = await open_stream(await gate(), upstream, first)
    call.close()
    assert (await client.read_until_cut()).startswith(b'data: {"error"')


@pytest.mark.parametrize("target", ["/v1/responses", "/v1/responses?stream=1"])
async def test_cut_of_a_responses_api_stream_sends_its_error_event(
    gate: StartGate, upstream: Upstream, target: str
) -> None:
    body = b'{"model": "gpt-5", "stream": true}'
    first = b"event: response.created\ndata: {}\n\n"
    request = post(body, target=target)
    client, call = await open_stream(await gate(), upstream, first, request=request)
    call.close()
    event = await client.read_until_cut()
    assert event.startswith(b"event: error\ndata: ")
    assert event.endswith(b"\n\n")
    error = json.loads(event.split(b"data: ", 1)[1])
    assert (error["type"], error["code"]) == ("error", "upstream_disconnected")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "first", [b"data: 1\n\nda", b"data: 1\n", b"data: 1\r\n\r", b"data: 1\n: ping\n"], ids=repr
)
async def test_cut_inside_an_event_only_aborts(
    gate: StartGate, upstream: Upstream, first: bytes, how: str
) -> None:
    running = await gate()
    client, call = await open_stream(running, upstream, first)
    call.close() if how == "close" else call.reset()
    assert await client.read_until_cut() == b""
    assert (await running.settled())[0]["outcome"] == "aborted"


@pytest.mark.parametrize(
    "bad", [b"nonsense\r\n", b"-1\r\n", b"\r\n", b"f" * 20 + b"\r\n", b"1\r\n23\r\n"], ids=repr
)
async def test_invalid_chunk_cuts_the_stream(
    gate: StartGate, upstream: Upstream, bad: bytes
) -> None:
    client, call = await open_stream(await gate(), upstream, b"data: 1\n\nda")
    call.send(bad)
    assert await client.read_until_cut() in (b"", b"2")


async def test_data_before_an_invalid_chunk_is_passed(gate: StartGate, upstream: Upstream) -> None:
    client, call = await open_stream(await gate(), upstream)
    call.send(chunk(b"data: second\n\n"), b"nonsense\r\n")
    assert (await client.read_until_cut()).startswith(b'data: second\n\ndata: {"error"')


async def test_cut_of_a_compressed_stream_only_aborts(gate: StartGate, upstream: Upstream) -> None:
    head = EVENT_STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    client, call = await open_stream(await gate(), upstream, b"\x1f\x8b\n\n", head=head)
    call.close()
    assert await client.read_until_cut() == b""


@pytest.mark.parametrize(
    ("head", "how"),
    [
        (response_head("Content-Length: 10", "Content-Type: application/json"), "close"),
        (response_head("Content-Length: 10", "Content-Type: application/json"), "reset"),
        (response_head("Transfer-Encoding: chunked"), "close"),
        (response_head("Transfer-Encoding: chunked"), "reset"),
        # Without framing, only a reset marks the end of the connection as a cut.
        (response_head(), "reset"),
    ],
    ids=[
        "length",
        "length, reset",
        "chunked",
        "chunked, reset",
        "until the connection closes, reset",
    ],
)
async def test_cut_response_is_never_ended_cleanly(
    gate: StartGate, upstream: Upstream, head: bytes, how: str
) -> None:
    running = await gate()
    client, call = await open_stream(running, upstream, b"part", request=get(), head=head)
    call.close() if how == "close" else call.reset()
    assert await client.read_until_cut() == b""
    assert (await running.settled())[0]["outcome"] == "aborted"


async def test_cut_response_is_a_reset_for_an_http_1_0_client(
    gate: StartGate, upstream: Upstream
) -> None:
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
async def test_cut_between_head_and_body_is_a_502(
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


async def test_read_timeout_cuts_the_stream(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=0.5)
    client, call = await open_stream(running, upstream)
    event = await client.read_until_cut()
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"
    await call.ended()


async def test_client_that_does_not_read_is_cut_as_well(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(SSE_CHANNEL_CAPACITY=1, SSE_KEEPALIVE_INTERVAL=NEVER)
    client, call = await open_stream(running, upstream)
    client.wire.pause_reading()
    call.close()
    await running.settled()
    client.wire.resume_reading()
    assert (await client.read_until_cut()).startswith(b"data: ")


async def test_request_after_a_cut_stream_is_served(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, call = await open_stream(running, upstream)
    call.close()
    await client.read_until_cut()
    upstream.reply = response(b"next")
    assert (await running.request(get())).body == b"next"
