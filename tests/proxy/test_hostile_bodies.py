"""Malformed bodies are refused; unusual ones are forwarded unchanged."""

import pytest

from tests.conftest import StartGate
from tests.support.gate import Gate
from tests.support.hostile import (
    BODY,
    MARK,
    MARKED,
    MEGABYTE,
    MULTIPART,
    SMUGGLED,
    check_refused_and_closed,
    check_unharmed,
    chunked,
    head_with,
    send_byte_by_byte,
)
from tests.support.http import (
    LAST_CHUNK,
    chunk,
    get,
    post,
    request,
    response,
)
from tests.support.upstream import Upstream
from tests.support.waiting import A_SECOND_S, within

pytestmark = pytest.mark.usefixtures("no_request_byte_is_logged")


ODD_BODIES = {
    "no JSON": MARK.encode(),
    "arrays, 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects, 100,000 deep": b'{"model":' * 100_000 + b"1" + b"}" * 100_000,
    "deep and never closed": b'{"a":[' * 100_000,
    "lone surrogate": b'{"model": "\\ud800\\udfff\\ud800", "user": "\\udc00"}',
    "surrogates in UTF-8": b'{"model": "\xed\xa0\x80"}',
    "5,000 digits": b'{"max_tokens": ' + b"9" * 5000 + b"}",
    "infinite": b'{"model": 1e999, "n": -1e999, "temperature": NaN}',
    "no object": b'"model"',
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "gpt-4o"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"model": "gpt-4o"}',
    "control characters": b'{"model": "a\\nb\\u0000\\u001b[31m", "user": "\0"}',
    "one name twice": b'{"model": "a", "model": ["b"], "stream": true, "stream": 0}',
    "not whole": b'{"model": "gpt-4',
    "huge name": b'{"model": "' + b"m" * MEGABYTE + b'"}',
    "only blanks": b" " * 1000,
    "another request": SMUGGLED,
    "last chunk": LAST_CHUNK + SMUGGLED,
}


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES)
async def test_unusual_body_is_forwarded_unchanged(
    running: Gate, upstream: Upstream, body: bytes
) -> None:
    client = await running.send(post(body))
    call = await upstream.call()
    assert await call.read_rest() == body
    await call.respond(response())
    assert (await client.response()).status == 200
    await check_unharmed(running, upstream)


BAD_CHUNKS = {
    "minus": b"-1\r\nx",
    "plus": b"+1\r\nx",
    "prefix": b"0x1\r\nx",
    "underscore": b"1_0\r\nx",
    "blank before": b" 1\r\nx",
    "blank behind": b"1 \r\nx",
    "no number": b"zz\r\n",
    "no size": b"\r\nx",
    "beyond 64 bits": b"1" + b"0" * 15 + b"2\r\nx",
    "17 digits": b"f" * 17 + b"\r\nx",
    "bare LF behind the size": b"1\nx\r\n",
    "bare LF behind the data": b"1\r\nx\n",
    "bare LF in an extension": b"1;a\nb\r\nx\r\n",
    "bare CR in an extension": b"1;a\rb\r\nx\r\n",
    "NUL in an extension": b"1;a=\0\r\nx\r\n",
    "line's end in a quoted extension": b'1;a="\r\n"\r\nx\r\n',
    "nothing behind the data": b"1\r\nx1\r\n",
    "more data than the chunk size": b"1\r\nxy\r\n",
    "blank in a trailer's name": b"0\r\nX T: 1\r\n\r\n",
    "folded trailer": b"0\r\nX-T: 1\r\n 2\r\n\r\n",
    "framing in a trailer": b"0\r\nContent-Length: 5\r\n\r\n",
    "no CRLF behind the last chunk": b"0\r\nGET /v1/x HTTP/1.1\r\n\r\n",
}
bad_chunk = pytest.mark.parametrize("bad", BAD_CHUNKS.values(), ids=BAD_CHUNKS)


@bad_chunk
async def test_body_with_a_bad_chunk_is_refused(
    running: Gate, upstream: Upstream, bad: bytes
) -> None:
    """Whether the chunk arrives with the head or later."""
    await check_refused_and_closed(await running.send(chunked(chunk(BODY), bad, SMUGGLED)))
    client = await running.send(chunked(chunk(BODY)))
    await running.wait_until(held_bytes=len(BODY))
    await send_byte_by_byte(client, bad + SMUGGLED)
    await check_refused_and_closed(client)
    assert upstream.wires == []
    await check_unharmed(running, upstream)


@bad_chunk
async def test_upload_with_a_bad_chunk_is_refused_and_left_incomplete(
    gate: StartGate, upstream: Upstream, bad: bytes
) -> None:
    """Upstream can tell that the body is incomplete."""
    running = await gate(MAX_BUFFERED_BODY=0)
    head = request("POST", "/v1/files", MULTIPART, "Transfer-Encoding: chunked", MARKED)
    client = await running.send(head, chunk(BODY))
    call = await upstream.call()
    await call.expect_body(BODY)
    await send_byte_by_byte(client, bad + SMUGGLED)
    await check_refused_and_closed(client)
    await call.ended()
    assert not call.wire.received.endswith(LAST_CHUNK)
    assert b"smuggled" not in call.wire.received
    await check_unharmed(running, upstream)


async def test_bad_chunk_of_a_pipelined_request_is_refused_in_order(
    running: Gate, upstream: Upstream
) -> None:
    client = await running.send(get("/v1/x"))
    call = await upstream.call()
    client.send(chunked(chunk(BODY)))
    await running.request(get("/health"))
    client.send(b"zz\r\n")
    await running.request(get("/health"))
    await call.respond(response(b"whole"))
    assert (await client.response()).body == b"whole"
    received = await client.response()
    assert (received.status, received.reason) == (400, "bad_request")
    await client.ended()
    assert len(upstream.calls) == 1
    await check_unharmed(running, upstream)


@pytest.mark.parametrize(
    "body",
    [
        b"2;name=value\r\n{}\r\n" + LAST_CHUNK,
        b'2;name="a;b"\r\n{}\r\n' + LAST_CHUNK,
        b"0" * 100 + b"2\r\n{}\r\n" + LAST_CHUNK,
        b"1\r\n{\r\n1\r\n}\r\n000\r\n\r\n",
        b"2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\nX-T: 1\r\n\r\n",
    ],
    ids=["extension", "quoted extension", "zeros", "many chunks", "trailers"],
)
async def test_unusual_chunks_are_normalized(
    running: Gate, upstream: Upstream, body: bytes
) -> None:
    client = await running.send(chunked(body))
    call = await upstream.call()
    assert await call.read_rest() == b"{}"
    assert call.head["content-length"] == "2"
    assert "x-t" not in call.head
    await call.respond(response())
    assert (await client.response()).status == 200
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("length", [MEGABYTE + 1, 2**63, 2**64 - 1], ids=str)
async def test_body_with_a_too_large_length_is_refused_unread(
    gate: StartGate, upstream: Upstream, length: int
) -> None:
    running = await gate(MAX_BODY_SIZE=MEGABYTE)
    client = await running.send(head_with(b"Content-Length: %d\r\n" % length))
    received = await client.response()
    assert (received.status, received.reason) == (413, "body_too_large")
    assert received.head["connection"] == "close"
    async with within(A_SECOND_S):
        assert await client.wire.ended() == "closed"
    assert upstream.wires == []
    await check_unharmed(running, upstream)


async def test_huge_chunk_size_takes_no_memory(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(MAX_BODY_SIZE=MEGABYTE)
    client = await running.send(chunked(b"f" * 16 + b"\r\n", BODY))
    await running.wait_until(held_bytes=len(BODY))
    client.send(b"x" * MEGABYTE)
    received = await client.response()
    assert (received.status, received.reason) == (413, "body_too_large")
    await check_unharmed(running, upstream)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n"], ids=repr
)
async def test_incomplete_body_is_not_sent(
    running: Gate, upstream: Upstream, framing: bytes
) -> None:
    framed = chunk(BODY) if b"chunked" in framing else BODY
    client = await running.send(head_with(framing), framed)
    await running.wait_until(held_bytes=len(BODY))
    client.wire.half_close()
    await client.ended()
    assert client.wire.received == b""
    assert upstream.wires == []
    await check_unharmed(running, upstream)


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_incomplete_upload_stays_incomplete(
    gate: StartGate, upstream: Upstream, framing: str
) -> None:
    running = await gate(MAX_BUFFERED_BODY=0)
    framed = chunk(BODY) if "chunked" in framing else BODY
    client = await running.send(request("POST", "/v1/files", MULTIPART, framing), framed)
    call = await upstream.call()
    await call.expect_body(BODY)
    client.wire.half_close()
    await call.ended()
    assert call.wire.received.endswith(framed)
    assert client.wire.received == b""
    await check_unharmed(running, upstream)


async def test_data_after_the_body_is_a_request_of_its_own(
    running: Gate, upstream: Upstream
) -> None:
    """None of it reaches upstream on the first request's connection."""
    client = await running.send(head_with(b"Content-Length: 2\r\n") + b"{}")
    call = await upstream.call()
    client.send(b"{}" + SMUGGLED)
    await call.respond(response(b"whole"))
    assert (await client.response()).body == b"whole"
    assert (await client.response()).reason == "bad_request"
    assert len(upstream.calls) == 1
    await check_unharmed(running, upstream)
