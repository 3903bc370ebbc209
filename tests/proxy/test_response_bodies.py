"""Response bodies and their framing are forwarded unchanged."""

import gzip
import json

import pytest

from tests.conftest import StartGate
from tests.support.http import (
    CONTINUE,
    LAST_CHUNK,
    chat,
    chunk,
    get,
    request,
    response,
    response_head,
)
from tests.support.upstream import Upstream


async def test_content_length_is_kept(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(get())
    call = await upstream.call()
    call.send(response_head("Content-Length: 10", "Content-Type: text/plain"), b"01234")
    head = await client.head()
    assert head["content-length"] == "10"
    assert "transfer-encoding" not in head
    await client.expect_body(b"01234")
    await call.respond(b"56789")
    assert await client.read_rest() == b"56789"


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "in pieces"])
async def test_chunked_stays_chunked(gate: StartGate, upstream: Upstream, whole: bool) -> None:
    client = await (await gate()).send(get())
    call = await upstream.call()
    head = response_head("Transfer-Encoding: chunked", "Content-Type: application/json")
    call.send(head, chunk(b'{"a"'), b"" if not whole else chunk(b": 1}") + LAST_CHUNK)
    assert (await client.head())["transfer-encoding"] == "chunked"
    await client.expect_body(b'{"a"') if not whole else None
    await call.respond(b"" if whole else chunk(b": 1}") + LAST_CHUNK)
    assert (await client.read_rest()).endswith(b": 1}")


async def test_body_that_ends_with_the_connection_becomes_chunked(
    gate: StartGate, upstream: Upstream
) -> None:
    client = await (await gate()).send(get())
    call = await upstream.call()
    call.send(response_head("Content-Type: text/plain"), b"all of it")
    call.close()
    received = await client.response()
    assert received.head["transfer-encoding"] == "chunked"
    assert received.body == b"all of it"


async def test_chunk_extensions_and_trailers_are_dropped(
    gate: StartGate, upstream: Upstream
) -> None:
    head = response_head("Transfer-Encoding: chunked")
    upstream.reply = head + b"3;name=value\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"
    received = await (await gate()).request(get())
    assert received.body == b"abc"


async def test_interim_responses_are_skipped(gate: StartGate, upstream: Upstream) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    upstream.reply = CONTINUE + hints + response(b"final")
    assert (await (await gate()).request(get())).body == b"final"


@pytest.mark.parametrize(
    ("method", "reply", "length"),
    [
        ("HEAD", response_head("Content-Length: 1234", "Content-Type: x/y"), "1234"),
        ("HEAD", response_head("Transfer-Encoding: chunked", "Content-Type: x/y"), None),
        ("GET", response_head(status="204 No Content"), None),
        ("GET", response_head("ETag: x", status="304 Not Modified"), None),
        ("DELETE", response_head("Content-Length: 0"), "0"),
    ],
    ids=["HEAD", "HEAD of a stream", "204", "304", "empty"],
)
async def test_response_without_a_body(
    gate: StartGate, upstream: Upstream, method: str, reply: bytes, length: str | None
) -> None:
    upstream.reply = reply
    client = await (await gate()).connect()
    received = await client.request(request(method, "/v1/x"))
    assert received.body == b""
    assert received.head.all("content-length") == ([] if length is None else [length])
    upstream.reply = response(b"next")
    assert (await client.request(get())).body == b"next"


@pytest.mark.parametrize(
    ("method", "reply", "body"),
    [
        ("HEAD", response(b"{}"), b""),
        ("GET", response_head("Transfer-Encoding: chunked", status="204 x") + LAST_CHUNK, b""),
        ("GET", response(b"{}", status="304 Not Modified"), b""),
        ("POST", response(b"12") + b"345", b"12"),
        ("POST", response_head("Transfer-Encoding: chunked") + LAST_CHUNK + b"345", b""),
    ],
    ids=["HEAD", "204", "304", "beyond the length", "after the last chunk"],
)
async def test_data_after_a_complete_response_is_ignored(
    gate: StartGate, upstream: Upstream, method: str, reply: bytes, body: bytes
) -> None:
    """RFC 9112, 6.3, says where a response ends, whatever follows."""
    upstream.reply = reply
    client = await (await gate()).connect()
    received = await client.request(request(method, "/v1/x"))
    assert (received.status, received.body) == (int(reply.split()[1]), body)
    upstream.reply = response(b"next")
    assert (await client.request(get())).body == b"next"


@pytest.mark.parametrize("framed", ["length", "chunked"])
async def test_compressed_body_is_forwarded_unchanged(
    gate: StartGate, upstream: Upstream, framed: str
) -> None:
    body = gzip.compress(json.dumps({"text": "a" * 1000}).encode())
    lines = ["Content-Type: application/json", "Content-Encoding: gzip"]
    if framed == "length":
        upstream.reply = response(body, *lines)
    else:
        head = response_head(*lines, "Transfer-Encoding: chunked")
        upstream.reply = head + chunk(body) + LAST_CHUNK
    received = await (await gate()).request(chat("Accept-Encoding: gzip"))
    assert (received.body, received.head["content-encoding"]) == (body, "gzip")


async def test_no_content_type_is_added(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(get())
    call = await upstream.call()
    await call.respond(response(b"x"))
    assert "content-type" not in (await client.response()).head
    client.send(get())
    call = await upstream.call()
    call.send(response_head("Content-Length: 2"), b"x")
    assert "content-type" not in await client.head()
    await call.respond(b"y")
    await client.read_rest()
