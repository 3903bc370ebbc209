"""Hostile HTTP: what no honest client sends is refused or crosses harmlessly, and the gate lives.

A refused request leaves nothing upstream, no byte of itself in the log, and no harm to the next.
The shapes of smuggled requests are those of RFC 9112, 11.2, and of the literature since.
"""

import asyncio
import json
import re
import ssl
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import StartGate
from tests.support.client import Client
from tests.support.gate import IDLE, Gate, Log
from tests.support.http import (
    CHAT,
    CLIENT_KEY,
    LAST_CHUNK,
    chunk,
    get,
    post,
    request,
    response,
)
from tests.support.upstream import Upstream

# Stands in hostile heads and bodies, and nowhere else.
MARK = "canary-of-the-request"
MARKED = f"X-Mark: {MARK}"

# What would be answered, if it were taken for a request of its own.
SMUGGLED = get("/v1/smuggled", MARKED)

BODY = json.dumps({"model": "gpt-4o", "user": MARK}).encode()
MULTIPART = "Content-Type: multipart/form-data; boundary=x"
MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def _no_byte_is_logged(log: Log) -> Iterator[None]:
    """Of no request, whatever became of it; and nothing is the gate's own fault."""
    yield
    assert MARK not in log.text
    assert "Traceback" not in log.text
    assert {line["outcome"] for line in log.exchanges} <= {"ok", "refused", "client_left"}


@pytest.fixture
async def running(gate: StartGate) -> Gate:
    return await gate()


def head_with(*lines: bytes, method: str = "POST") -> bytes:
    """An honest head and hostile lines."""
    return request(method, CHAT, MARKED).removesuffix(b"\r\n") + b"".join(lines) + b"\r\n"


def framed(*lines: bytes, body: bytes = b"") -> bytes:
    """A request whose framing is in doubt, and one that hides behind it."""
    return head_with(*(line + b"\r\n" for line in lines)) + body + SMUGGLED


def chunked(*body: bytes) -> bytes:
    return head_with(b"Transfer-Encoding: chunked\r\n") + b"".join(body)


def started(line: bytes, *lines: str) -> bytes:
    """A head that starts with that line."""
    return line + b"\r\n" + get("/", MARKED, *lines).split(b"\r\n", 1)[1]


async def byte_by_byte(client: Client, data: bytes) -> None:
    """Send as TCP may deliver it; stop when the other side has heard enough."""
    for byte in data:
        if client.wire.end is not None:
            return
        client.send(bytes([byte]))
        await asyncio.sleep(0)


async def is_refused_and_closed(client: Client) -> None:
    """One answer in the error shape, and the end."""
    got = await client.response()
    assert (got.status, got.reason) == (400, "bad_request")
    assert got.error["type"] == "invalid_request_error"
    assert MARK.encode() not in got.head.raw + got.body
    await client.ended()
    assert client.wire.received == got.head.raw + got.body


async def is_unharmed(running: Gate, upstream: Upstream) -> None:
    """Nothing is held any more, and the next request is served."""
    await running.wait_until(**IDLE)
    before = len(upstream.calls)
    upstream.reply = response(b"next")
    assert (await running.request(get("/v1/next"))).body == b"next"
    assert [call.target for call in upstream.calls[before:]] == ["/v1/next"]


# Heads.

FRAMINGS = {
    "length and chunked": framed(
        b"Content-Length: 5", b"Transfer-Encoding: chunked", body=LAST_CHUNK
    ),
    "chunked and length": framed(
        b"Transfer-Encoding: chunked", b"Content-Length: 5", body=LAST_CHUNK
    ),
    "two lengths": framed(b"Content-Length: 0", b"Content-Length: 5"),
    "the same length twice": framed(b"Content-Length: 2", b"Content-Length: 2", body=b"{}"),
    "list of lengths": framed(b"Content-Length: 2, 2", body=b"{}"),
    "length with a minus": framed(b"Content-Length: -1"),
    "length with a plus": framed(b"Content-Length: +2", body=b"{}"),
    "length in hex": framed(b"Content-Length: 0x2", body=b"{}"),
    "length with an underscore": framed(b"Content-Length: 1_0"),
    "length with a blank": framed(b"Content-Length: 1 0"),
    "length that is no number": framed(b"Content-Length: two", body=b"{}"),
    "length that is empty": framed(b"Content-Length:"),
    "length in other digits": framed("Content-Length: \u0662".encode(), body=b"{}"),
    "length beyond 64 bits": framed(b"Content-Length: 18446744073709551618", body=b"{}"),
    "length after a vertical tab": framed(b"Content-Length: \x0b2", body=b"{}"),
    "chunked, identity": framed(b"Transfer-Encoding: chunked, identity", body=LAST_CHUNK),
    "identity, chunked": framed(b"Transfer-Encoding: identity, chunked", body=LAST_CHUNK),
    "gzip, chunked": framed(b"Transfer-Encoding: gzip, chunked", body=LAST_CHUNK),
    "chunked, chunked": framed(b"Transfer-Encoding: chunked, chunked", body=LAST_CHUNK),
    "chunked twice": framed(*[b"Transfer-Encoding: chunked"] * 2, body=LAST_CHUNK),
    "comma, chunked": framed(b"Transfer-Encoding: ,chunked", body=LAST_CHUNK),
    "chunked, comma": framed(b"Transfer-Encoding: chunked,", body=LAST_CHUNK),
    "identity": framed(b"Transfer-Encoding: identity", body=LAST_CHUNK),
    "no coding": framed(b"Transfer-Encoding:", body=LAST_CHUNK),
    "no coding and a length": framed(b"Transfer-Encoding:", b"Content-Length: 0"),
    "xchunked": framed(b"Transfer-Encoding: xchunked", body=LAST_CHUNK),
    "chunked in quotes": framed(b'Transfer-Encoding: "chunked"', body=LAST_CHUNK),
    "chunked with a parameter": framed(b"Transfer-Encoding: chunked;q=1", body=LAST_CHUNK),
    "chunked after a vertical tab": framed(b"Transfer-Encoding: \x0bchunked", body=LAST_CHUNK),
    "chunked with a Kelvin sign": framed(
        "Transfer-Encoding: chun\u212aed".encode(), body=LAST_CHUNK
    ),
    "chunked, folded": framed(b"Transfer-Encoding:", b" chunked", body=LAST_CHUNK),
    "chunked before a colon with a blank": framed(b"Transfer-Encoding : chunked", body=LAST_CHUNK),
    "chunked in HTTP/1.0": framed(b"Transfer-Encoding: chunked", body=LAST_CHUNK).replace(
        b"HTTP/1.1", b"HTTP/1.0", 1
    ),
}

LINES = {
    "bare LF everywhere": get("/v1/x", MARKED).replace(b"\r\n", b"\n"),
    "bare LF between headers": head_with(b"X-A: 1\nX-B: 2\r\n"),
    "bare LF at the end": head_with(b"X-A: 1\r\n\n") + SMUGGLED,
    "bare CR in a value": head_with(b"X-A: 1\rX-B: 2\r\n"),
    "CR CR LF": head_with(b"X-A: 1\r\r\n"),
    "blank before the colon": head_with(b"X-A : 1\r\n"),
    "tab before the colon": head_with(b"X-A\t: 1\r\n"),
    "no colon": head_with(b"X-A\r\n"),
    "no name": head_with(b": 1\r\n"),
    "blank in the name": head_with(b"X A: 1\r\n"),
    "blank before the first name": started(b"GET /v1/x HTTP/1.1\r\n X-A: 1"),
    "folded": head_with(b"X-A: 1\r\n 2\r\n"),
    "folded with a tab": head_with(b"X-A: 1\r\n\t2\r\n"),
    "folded key": b"GET /v1/x HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer\r\n "
    + CLIENT_KEY.encode()
    + b"\r\n\r\n",
    "NUL in a value": head_with(b"X-A: 1\x002\r\n"),
    "NUL in a name": head_with(b"X\x00A: 1\r\n"),
    "NUL in the target": started(b"GET /v1/\x00 HTTP/1.1"),
    "NUL in the method": started(b"GE\x00T /v1/x HTTP/1.1"),
    "control character in a value": head_with(b"X-A: \x01\r\n"),
    "DEL in a value": head_with(b"X-A: \x7f\r\n"),
    "umlaut in a name": head_with("X-\u00c4: 1\r\n".encode()),
    "two hosts": head_with(b"Host: other\r\n"),
    "no host": b"GET /v1/x HTTP/1.1\r\nX-Mark: " + MARK.encode() + b"\r\n\r\n",
    "two content types": head_with(*[b"Content-Type: application/json\r\n"] * 2),
    "CR in the target": started(b"GET /v1/x\r HTTP/1.1"),
    "blank in the target": started(b"GET /v1/x y HTTP/1.1"),
    "bytes above ASCII in the target": started(b"GET /v1/\xff HTTP/1.1"),
    "umlaut in the target": started("GET /v1/\u00e4 HTTP/1.1".encode()),
    "target without a slash": started(b"GET v1/models HTTP/1.1"),
    "target with no scheme": started(b"GET ://gate/v1/x HTTP/1.1"),
    "target with a broken host": started(b"GET http://[::1/v1/x HTTP/1.1"),
    "target with a broken port": started(b"GET http://gate:99999999/v1/x HTTP/1.1"),
    "tabs between the parts": started(b"GET\t/v1/x\tHTTP/1.1"),
    "unknown method": started(b"FROB /v1/x HTTP/1.1"),
    "method in small letters": started(b"get /v1/x HTTP/1.1"),
    "HTTP/0.9": b"GET /v1/x\r\n\r\n",
    "HTTP/0.9 by name": started(b"GET /v1/x HTTP/0.9"),
    "HTTP/1.2": started(b"GET /v1/x HTTP/1.2"),
    "HTTP/2.0": started(b"GET /v1/x HTTP/2.0"),
    "HTTP/3.0": started(b"GET /v1/x HTTP/3.0"),
    "HTTP/11": started(b"GET /v1/x HTTP/11"),
    "version in small letters": started(b"GET /v1/x http/1.1"),
    "old WebSocket": head_with(b"Sec-WebSocket-Key1: x\r\n"),
}


def client_hello() -> bytes:
    """What a client says that takes the gate's port for a TLS one."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=MARK).do_handshake()
    return sent.read()


STRANGERS = {
    "TLS": client_hello(),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + MARK.encode(),
    "SSH": b"SSH-2.0-" + MARK.encode() + b"\r\n",
    "Redis": b"*2\r\n$4\r\nAUTH\r\n$21\r\n" + MARK.encode() + b"\r\n",
    "SMTP": b"EHLO " + MARK.encode() + b"\r\n",
    "an answer": response(MARK.encode(), MARKED),
    "all bytes": bytes(range(256)) + MARK.encode(),
    "zeros": bytes(1000) + MARK.encode(),
}

HEADS = FRAMINGS | LINES | STRANGERS

HUGE = {
    "header": head_with(b"X-A: " + b"a" * MEGABYTE + b"\r\n"),
    "name": head_with(b"a" * MEGABYTE + b": 1\r\n"),
    "10,000 headers": head_with(*(b"X-%d: 1\r\n" % number for number in range(10_000))),
    "10,000 times one header": head_with(*[b"X-A: 1\r\n"] * 10_000),
    "target": started(b"GET /v1/" + b"a" * MEGABYTE + b" HTTP/1.1"),
    "query": started(b"GET /v1/x?" + b"a" * MEGABYTE + b" HTTP/1.1"),
    "method": started(b"G" * MEGABYTE + b" /v1/x HTTP/1.1"),
    "version": started(b"GET /v1/x HTTP/1." + b"1" * MEGABYTE),
    "trailer": chunked(b"0\r\nX-T: " + b"x" * MEGABYTE + b"\r\n\r\n"),
}


@pytest.mark.parametrize("data", HEADS.values(), ids=HEADS)
async def test_head_that_is_not_http_is_refused(
    running: Gate, upstream: Upstream, data: bytes
) -> None:
    await is_refused_and_closed(await running.send(data))
    client = await running.connect()
    await byte_by_byte(client, data)
    await is_refused_and_closed(client)
    assert upstream.wires == []
    await is_unharmed(running, upstream)


@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE)
async def test_huge_head_is_refused(running: Gate, upstream: Upstream, data: bytes) -> None:
    await is_refused_and_closed(await running.send(data))
    assert upstream.wires == []
    await is_unharmed(running, upstream)


@pytest.mark.parametrize(
    "data",
    [head_with(b"X-A: " + b"a" * 30_000 + b"\r\n", method="GET"), get("/v1/" + "x" * 30_000)],
    ids=["header", "target"],
)
async def test_large_head_is_served(running: Gate, upstream: Upstream, data: bytes) -> None:
    upstream.reply = response()
    assert (await running.request(data)).status == 200
    assert len(upstream.calls[0].head.raw) > 30_000


async def test_head_may_pause_anywhere(running: Gate, upstream: Upstream) -> None:
    """Other clients are served meanwhile."""
    upstream.reply = response()
    client = await running.connect()
    for byte in post(BODY, MARKED):
        client.send(bytes([byte]))
        assert (await running.request(get("/health"))).status == 200
    assert (await client.response()).status == 200
    assert upstream.wires[0].received.endswith(BODY)


async def test_head_that_never_ends_holds_up_nobody(running: Gate, upstream: Upstream) -> None:
    clients = [await running.send(post(BODY, MARKED)[:cut]) for cut in range(1, 100)]
    await is_unharmed(running, upstream)
    assert {bytes(client.wire.received) for client in clients} == {b""}


async def test_empty_lines_before_a_request_do_not_count(
    running: Gate, upstream: Upstream
) -> None:
    """RFC 9112, 2.2."""
    upstream.reply = response()
    assert (await running.request(b"\r\n\r\n" + get())).status == 200
    assert len(upstream.calls) == 1


async def test_garbage_behind_a_request_does_not_harm_it(
    running: Gate, upstream: Upstream
) -> None:
    client = await running.send(get("/v1/x"))
    call = await upstream.call()
    client.send(b"\0garbage " + MARK.encode() + b"\r\n\r\n")
    await running.request(get("/health"))
    await call.respond(response(b"whole"))
    assert (await client.response()).body == b"whole"
    assert (await client.response()).reason == "bad_request"
    await client.ended()
    await is_unharmed(running, upstream)


async def test_body_of_a_get_is_no_request(running: Gate, upstream: Upstream) -> None:
    upstream.reply = response()
    client = await running.send(request("GET", "/v1/x", body=SMUGGLED))
    assert (await client.response()).status == 200
    [call] = upstream.calls
    assert call.head["content-length"] == str(len(SMUGGLED))
    assert upstream.wires[0].received.endswith(SMUGGLED)


# Targets.


@pytest.mark.parametrize(
    "target",
    [
        "/v1/..",
        "/v1/.",
        "/v1/../admin",
        "/v1/./models",
        "/v1/x/../../admin",
        "/v1/models/..?a=b",
        "/v1//../admin",
        "/v1/%2e%2e/admin",
        "/v1/%2E%2e/admin",
        "/v1/.%2e/admin",
        "/v1/%2e./admin",
        "/v1/%2e/models",
        "/v1/%2e%2e",
        "/v1/%2e%2e%2fadmin",
        "/v1/..%2fadmin",
        "/v1/x%2F..%2F..%2Fadmin",
        "/v1/x%2f%2e%2e%2fadmin",
        "/v1/..%5cadmin",
        "/v1/x%5c%2e%2e%5cadmin",
        "/v1/..\\admin",
        "/v1\\..\\admin",
        "/v1/x\\y",
        "http://gate/v1/../admin",
        "http://gate/v1/%2e%2e/admin",
        "/v1/models#/../x",
        "/v1/models?a#b",
    ],
)
async def test_target_that_may_leave_the_base_is_refused(
    running: Gate, upstream: Upstream, target: str
) -> None:
    client = await running.connect()
    got = await client.request(get(target, MARKED))
    assert (got.status, got.reason) == (400, "bad_request")
    assert upstream.wires == []
    assert (await client.request(get("/health"))).status == 200
    await is_unharmed(running, upstream)


@pytest.mark.parametrize(
    "target",
    [
        # Decoded once, as upstream does, these are no dot segments.
        "/v1/%252e%252e/admin",
        "/v1/..%252fadmin",
        "/v1/%25%32%65%25%32%65/x",
        "/v1/%c0%ae%c0%ae/x",
        "/v1/...",
        "/v1/..x/.y/z..",
        "/v1/x?to=../../admin&%2e%2e/",
        # Nor are these a line's end, a string's, or a query.
        "/v1/x%0d%0aX-Injected:%201",
        "/v1/x%0D%0A%0D%0AGET%20/v1/y%20HTTP/1.1",
        "/v1/x?a=%0d%0aAuthorization:%20Bearer%20x",
        "/v1/x%00y",
        "/v1/x%3fa=b%23c",
        "/v1/%",
        "/v1/%zz%e2%82",
    ],
)
async def test_encoded_target_stays_encoded(
    running: Gate, upstream: Upstream, target: str
) -> None:
    upstream.reply = response()
    assert (await running.request(get(target))).status == 200
    [call] = upstream.calls
    assert call.head.start == f"GET {target} HTTP/1.1"
    assert {name for name, _ in call.head.fields} == {"host", "authorization"}
    assert (await running.settled())[0]["path"] == target.partition("?")[0]


@pytest.mark.parametrize("target", ["gate:443", "/v1/models"])
async def test_connect_opens_no_tunnel(running: Gate, upstream: Upstream, target: str) -> None:
    client = await running.send(started(f"CONNECT {target} HTTP/1.1".encode()))
    assert (await client.head()).status == 405
    assert upstream.wires == []
    await is_unharmed(running, upstream)


# Bodies.

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
async def test_odd_body_crosses_untouched(running: Gate, upstream: Upstream, body: bytes) -> None:
    client = await running.send(post(body))
    call = await upstream.call()
    assert await call.read_rest() == body
    await call.respond(response())
    assert (await client.response()).status == 200
    await is_unharmed(running, upstream)


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
    "more data than said": b"1\r\nxy\r\n",
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
    """Whether the gate sees it with the head, or waits for it."""
    await is_refused_and_closed(await running.send(chunked(chunk(BODY), bad, SMUGGLED)))
    client = await running.send(chunked(chunk(BODY)))
    await running.wait_until(held_bytes=len(BODY))
    await byte_by_byte(client, bad + SMUGGLED)
    await is_refused_and_closed(client)
    assert upstream.wires == []
    await is_unharmed(running, upstream)


@bad_chunk
async def test_upload_with_a_bad_chunk_is_refused_and_never_ended(
    running: Gate, upstream: Upstream, bad: bytes
) -> None:
    """Upstream can tell what it got from a whole body."""
    head = request("POST", "/v1/files", MULTIPART, "Transfer-Encoding: chunked", MARKED)
    client = await running.send(head, chunk(BODY))
    call = await upstream.call()
    await call.expect_body(BODY)
    await byte_by_byte(client, bad + SMUGGLED)
    await is_refused_and_closed(client)
    await call.ended()
    assert not call.wire.received.endswith(LAST_CHUNK)
    assert b"smuggled" not in call.wire.received
    await is_unharmed(running, upstream)


async def test_bad_chunk_of_a_request_sent_ahead_is_refused_in_turn(
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
    got = await client.response()
    assert (got.status, got.reason) == (400, "bad_request")
    await client.ended()
    assert len(upstream.calls) == 1
    await is_unharmed(running, upstream)


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
async def test_odd_chunks_leave_no_trace(running: Gate, upstream: Upstream, body: bytes) -> None:
    client = await running.send(chunked(body))
    call = await upstream.call()
    assert await call.read_rest() == b"{}"
    assert call.head["content-length"] == "2"
    assert "x-t" not in call.head
    await call.respond(response())
    assert (await client.response()).status == 200
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("length", [MEGABYTE + 1, 2**63, 2**64 - 1], ids=str)
async def test_announced_body_that_is_too_large_is_refused_unread(
    gate: StartGate, upstream: Upstream, length: int
) -> None:
    running = await gate(MAX_BODY_SIZE=MEGABYTE)
    got = await running.request(head_with(b"Content-Length: %d\r\n" % length))
    assert (got.status, got.reason) == (413, "body_too_large")
    assert got.head["connection"] == "close"
    assert upstream.wires == []
    await is_unharmed(running, upstream)


async def test_chunk_that_announces_all_there_is_takes_no_memory(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(MAX_BODY_SIZE=MEGABYTE)
    client = await running.send(chunked(b"f" * 16 + b"\r\n", BODY))
    await running.wait_until(held_bytes=len(BODY))
    client.send(b"x" * MEGABYTE)
    got = await client.response()
    assert (got.status, got.reason) == (413, "body_too_large")
    await is_unharmed(running, upstream)


@pytest.mark.parametrize(
    "said", [b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n"], ids=repr
)
async def test_body_that_ends_before_its_end_is_not_sent(
    running: Gate, upstream: Upstream, said: bytes
) -> None:
    framed = chunk(BODY) if b"chunked" in said else BODY
    client = await running.send(head_with(said), framed)
    await running.wait_until(held_bytes=len(BODY))
    client.wire.half_close()
    await client.ended()
    assert client.wire.received == b""
    assert upstream.wires == []
    await is_unharmed(running, upstream)


@pytest.mark.parametrize("said", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_upload_that_ends_before_its_end_is_never_ended(
    running: Gate, upstream: Upstream, said: str
) -> None:
    framed = chunk(BODY) if "chunked" in said else BODY
    client = await running.send(request("POST", "/v1/files", MULTIPART, said), framed)
    call = await upstream.call()
    await call.expect_body(BODY)
    client.wire.half_close()
    await call.ended()
    assert call.wire.received.endswith(framed)
    assert client.wire.received == b""
    await is_unharmed(running, upstream)


async def test_more_than_the_announced_body_is_a_request_of_its_own(
    running: Gate, upstream: Upstream
) -> None:
    """Here and upstream alike: nothing of it rides on the first one's connection."""
    client = await running.send(head_with(b"Content-Length: 2\r\n") + b"{}")
    call = await upstream.call()
    client.send(b"{}" + SMUGGLED)
    await call.respond(response(b"whole"))
    assert (await client.response()).body == b"whole"
    assert (await client.response()).reason == "bad_request"
    assert len(upstream.calls) == 1
    await is_unharmed(running, upstream)


# Anything.

WORDS = [
    *(b"GET ", b"POST ", b"/v1/x", b"/v1/../", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r\n\r\n"),
    *(
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"\0",
        b"%2e",
        b"?",
        b"#",
        b"\xff",
        b"{}",
        b"[[",
    ),
    *(b"Host: gate\r\n", b"Content-Length: ", b"Transfer-Encoding: ", b"chunked", b"identity"),
    *(b"Connection: ", b"close", b"keep-alive", b"upgrade", b"Upgrade: websocket\r\n"),
    *(b"Expect: 100-continue\r\n", b"Content-Type: application/json\r\n", b"0", b"2", b"-1", b"f"),
    *(get("/v1/x"), post(), chunked(chunk(b"{}"), LAST_CHUNK), chunked(), LAST_CHUNK),
]
NOISE = st.lists(st.sampled_from(WORDS) | st.binary(max_size=8), max_size=30).map(b"".join)


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """Noise, or an honest request with noise in it, cut somewhere."""
    honest = draw(
        st.sampled_from([b"", get("/v1/x"), post(BODY), chunked(chunk(BODY), LAST_CHUNK)])
    )
    at = draw(st.integers(0, len(honest)))
    data = honest[:at] + draw(NOISE) + honest[at + draw(st.integers(0, 3)) :]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(pieces())
async def test_gate_survives_anything(
    running: Gate, upstream: Upstream, pieces: list[bytes]
) -> None:
    """It answers, waits or closes, but never with an error of its own, and serves the next."""
    upstream.reply = response(b"")
    client, other = await running.connect(), await running.connect()
    for piece in pieces:
        client.send(piece)
        await asyncio.sleep(0)
    for _ in range(3):
        assert (await other.request(get("/health"))).status == 200
    if client.wire.end is None:
        client.wire.half_close()
    await client.ended()
    assert not re.search(rb"HTTP/1\.[01] 5\d\d", client.wire.received)
    await running.wait_until(**IDLE)
    assert running.log.errors == []
    client.disconnect()
    other.disconnect()
