"""Malformed heads are refused and the connection is closed.

The request smuggling cases come from RFC 9112, 11.2, and later literature.
"""

import ssl

import pytest

from tests.support.gate import Gate
from tests.support.hostile import (
    BODY,
    MARK,
    MARKED,
    MEGABYTE,
    SMUGGLED,
    check_refused_and_closed,
    check_unharmed,
    chunked,
    framed,
    head_with,
    send_byte_by_byte,
    with_start_line,
)
from tests.support.http import (
    CLIENT_KEY,
    LAST_CHUNK,
    get,
    post,
    request,
    response,
)
from tests.support.upstream import Upstream

pytestmark = pytest.mark.usefixtures("no_request_byte_is_logged")


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
    "length with a space": framed(b"Content-Length: 1 0"),
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
    "chunked before a colon with a space": framed(b"Transfer-Encoding : chunked", body=LAST_CHUNK),
    "chunked in HTTP/1.0": framed(b"Transfer-Encoding: chunked", body=LAST_CHUNK).replace(
        b"HTTP/1.1", b"HTTP/1.0", 1
    ),
}

HEADER_LINES = {
    "bare LF everywhere": get("/v1/x", MARKED).replace(b"\r\n", b"\n"),
    "bare LF between headers": head_with(b"X-A: 1\nX-B: 2\r\n"),
    "bare LF at the end": head_with(b"X-A: 1\r\n\n") + SMUGGLED,
    "bare CR in a value": head_with(b"X-A: 1\rX-B: 2\r\n"),
    "CR CR LF": head_with(b"X-A: 1\r\r\n"),
    "space before the colon": head_with(b"X-A : 1\r\n"),
    "tab before the colon": head_with(b"X-A\t: 1\r\n"),
    "no colon": head_with(b"X-A\r\n"),
    "no name": head_with(b": 1\r\n"),
    "space in the name": head_with(b"X A: 1\r\n"),
    "space before the first name": with_start_line(b"GET /v1/x HTTP/1.1\r\n X-A: 1"),
    "folded": head_with(b"X-A: 1\r\n 2\r\n"),
    "folded with a tab": head_with(b"X-A: 1\r\n\t2\r\n"),
    "folded key": b"GET /v1/x HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer\r\n "
    + CLIENT_KEY.encode()
    + b"\r\n\r\n",
    "NUL in a value": head_with(b"X-A: 1\x002\r\n"),
    "NUL in a name": head_with(b"X\x00A: 1\r\n"),
    "NUL in the target": with_start_line(b"GET /v1/\x00 HTTP/1.1"),
    "NUL in the method": with_start_line(b"GE\x00T /v1/x HTTP/1.1"),
    "control character in a value": head_with(b"X-A: \x01\r\n"),
    "DEL in a value": head_with(b"X-A: \x7f\r\n"),
    "umlaut in a name": head_with("X-\u00c4: 1\r\n".encode()),
    "two hosts": head_with(b"Host: other\r\n"),
    "no host": b"GET /v1/x HTTP/1.1\r\nX-Mark: " + MARK.encode() + b"\r\n\r\n",
    "two content types": head_with(*[b"Content-Type: application/json\r\n"] * 2),
    "CR in the target": with_start_line(b"GET /v1/x\r HTTP/1.1"),
    "space in the target": with_start_line(b"GET /v1/x y HTTP/1.1"),
    "bytes above ASCII in the target": with_start_line(b"GET /v1/\xff HTTP/1.1"),
    "umlaut in the target": with_start_line("GET /v1/\u00e4 HTTP/1.1".encode()),
    "target without a slash": with_start_line(b"GET v1/models HTTP/1.1"),
    "target with no scheme": with_start_line(b"GET ://gate/v1/x HTTP/1.1"),
    "target with a broken host": with_start_line(b"GET http://[::1/v1/x HTTP/1.1"),
    "target with a user and no host": with_start_line(b"GET http://[::1]:80@/v1/x HTTP/1.1"),
    "target with a broken port": with_start_line(b"GET http://gate:99999999/v1/x HTTP/1.1"),
    "tabs between the parts": with_start_line(b"GET\t/v1/x\tHTTP/1.1"),
    "unknown method": with_start_line(b"FROB /v1/x HTTP/1.1"),
    "method in lower case": with_start_line(b"get /v1/x HTTP/1.1"),
    "HTTP/0.9": b"GET /v1/x\r\n\r\n",
    "HTTP/0.9 by name": with_start_line(b"GET /v1/x HTTP/0.9"),
    "HTTP/1.2": with_start_line(b"GET /v1/x HTTP/1.2"),
    "HTTP/2.0": with_start_line(b"GET /v1/x HTTP/2.0"),
    "HTTP/3.0": with_start_line(b"GET /v1/x HTTP/3.0"),
    "HTTP/11": with_start_line(b"GET /v1/x HTTP/11"),
    "version in lower case": with_start_line(b"GET /v1/x http/1.1"),
    "old WebSocket": head_with(b"Sec-WebSocket-Key1: x\r\n"),
}


def client_hello() -> bytes:
    """The first message of a TLS client."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=MARK).do_handshake()
    return sent.read()


OTHER_PROTOCOLS = {
    "TLS": client_hello(),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + MARK.encode(),
    "SSH": b"SSH-2.0-" + MARK.encode() + b"\r\n",
    "Redis": b"*2\r\n$4\r\nAUTH\r\n$21\r\n" + MARK.encode() + b"\r\n",
    "SMTP": b"EHLO " + MARK.encode() + b"\r\n",
    "a response": response(MARK.encode(), MARKED),
    "all bytes": bytes(range(256)) + MARK.encode(),
    "zeros": bytes(1000) + MARK.encode(),
}

HEADS = FRAMINGS | HEADER_LINES | OTHER_PROTOCOLS

HUGE_HEADS = {
    "header": head_with(b"X-A: " + b"a" * MEGABYTE + b"\r\n"),
    "name": head_with(b"a" * MEGABYTE + b": 1\r\n"),
    "10,000 headers": head_with(*(b"X-%d: 1\r\n" % number for number in range(10_000))),
    "10,000 times one header": head_with(*[b"X-A: 1\r\n"] * 10_000),
    "target": with_start_line(b"GET /v1/" + b"a" * MEGABYTE + b" HTTP/1.1"),
    "query": with_start_line(b"GET /v1/x?" + b"a" * MEGABYTE + b" HTTP/1.1"),
    "method": with_start_line(b"G" * MEGABYTE + b" /v1/x HTTP/1.1"),
    "version": with_start_line(b"GET /v1/x HTTP/1." + b"1" * MEGABYTE),
    "trailer": chunked(b"0\r\nX-T: " + b"x" * MEGABYTE + b"\r\n\r\n"),
}


@pytest.mark.parametrize("data", HEADS.values(), ids=HEADS)
async def test_malformed_head_is_refused(running: Gate, upstream: Upstream, data: bytes) -> None:
    await check_refused_and_closed(await running.send(data))
    client = await running.connect()
    await send_byte_by_byte(client, data)
    await check_refused_and_closed(client)
    assert upstream.wires == []
    await check_unharmed(running, upstream)


@pytest.mark.parametrize("data", HUGE_HEADS.values(), ids=HUGE_HEADS)
async def test_huge_head_is_refused(running: Gate, upstream: Upstream, data: bytes) -> None:
    await check_refused_and_closed(await running.send(data))
    assert upstream.wires == []
    await check_unharmed(running, upstream)


@pytest.mark.parametrize(
    "data",
    [head_with(b"X-A: " + b"a" * 30_000 + b"\r\n", method="GET"), get("/v1/" + "x" * 30_000)],
    ids=["header", "target"],
)
async def test_large_head_is_served(running: Gate, upstream: Upstream, data: bytes) -> None:
    upstream.reply = response()
    assert (await running.request(data)).status == 200
    assert len(upstream.calls[0].head.raw) > 30_000


async def test_slow_head_does_not_delay_other_clients(running: Gate, upstream: Upstream) -> None:
    upstream.reply = response()
    client = await running.connect()
    for byte in post(BODY, MARKED):
        client.send(bytes([byte]))
        assert (await running.request(get("/health"))).status == 200
    assert (await client.response()).status == 200
    assert upstream.wires[0].received.endswith(BODY)


async def test_unfinished_heads_do_not_delay_other_clients(
    running: Gate, upstream: Upstream
) -> None:
    clients = [await running.send(post(BODY, MARKED)[:cut]) for cut in range(1, 100)]
    await check_unharmed(running, upstream)
    assert {bytes(client.wire.received) for client in clients} == {b""}


async def test_empty_lines_before_a_request_are_ignored(running: Gate, upstream: Upstream) -> None:
    """RFC 9112, 2.2."""
    upstream.reply = response()
    assert (await running.request(b"\r\n\r\n" + get())).status == 200
    assert len(upstream.calls) == 1


async def test_garbage_after_a_request_does_not_affect_it(
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
    await check_unharmed(running, upstream)


async def test_body_of_a_get_is_not_parsed_as_a_request(running: Gate, upstream: Upstream) -> None:
    upstream.reply = response()
    client = await running.send(request("GET", "/v1/x", body=SMUGGLED))
    assert (await client.response()).status == 200
    [call] = upstream.calls
    assert call.head["content-length"] == str(len(SMUGGLED))
    assert upstream.wires[0].received.endswith(SMUGGLED)
