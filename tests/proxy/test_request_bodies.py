"""Request bodies: buffered or streamed, `Expect: 100-continue`, early responses."""

import base64
import gzip
import sys
import zlib
from collections.abc import Callable
from random import Random

import brotli
import pytest

from tests.conftest import StartGate
from tests.support.http import (
    CHAT,
    CONTINUE,
    EVENT_STREAM,
    LAST_CHUNK,
    chunk,
    get,
    post,
    request,
    response,
)
from tests.support.upstream import Upstream

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "gpt-4o"}',
        b'  {"model":\n"gpt-4o"}\n\n',
        b"no JSON at all",
        b"\x00\xff\xfe",
        b'{"model": "\\ud800", "n": 1e999}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
        b'["model"]',
        b'{"model": {"a": 1}, "stream": "yes"}',
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_buffered_body_is_forwarded_unchanged(
    gate: StartGate, upstream: Upstream, body: bytes
) -> None:
    running = await gate()
    client = await running.send(post(body))
    call = await upstream.call()
    assert await call.read_rest() == body
    assert call.head["content-length"] == str(len(body))
    await call.respond(response())
    assert (await client.response()).status == 200


async def test_compressed_body_is_forwarded_unchanged(gate: StartGate, upstream: Upstream) -> None:
    body = gzip.compress(b'{"model": "gpt-4o"}')
    client = await (await gate()).send(post(body, "Content-Encoding: gzip"))
    call = await upstream.call()
    assert (await call.read_rest(), call.head["content-encoding"]) == (body, "gzip")
    await call.respond(response())
    await client.response()


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        (("Content-Type: multipart/form-data; boundary=x",), {"MAX_BUFFERED_BODY": 10}),
        (("Content-Type: application/json",), {"MAX_BUFFERED_BODY": 10}),
        (("Content-Type: application/octet-stream",), {"MAX_BUFFERED_BODY": 0}),
        (("Content-Type: application/json",), {"QUEUE_BYTES": 0}),
    ],
    ids=["large form", "large", "buffering off", "no buffer space"],
)
async def test_unbuffered_body_is_streamed(
    gate: StartGate, upstream: Upstream, lines: tuple[str, ...], settings: dict[str, int]
) -> None:
    running = await gate(**settings)
    client = await running.send(request("POST", CHAT, *lines, "Content-Length: 24"))
    for piece in (b"first-piece.", b"second-piece"):
        client.send(piece)
        if piece == b"first-piece.":
            call = await upstream.call()
            assert call.head["content-length"] == "24"
            assert "transfer-encoding" not in call.head
        await call.expect_body(piece)
    await call.respond(response())
    assert (await client.response()).status == 200
    assert running.snapshot()["held_bytes"] == 0


async def test_unbuffered_chunked_body_stays_chunked(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(MAX_BUFFERED_BODY=4)
    head = request("POST", CHAT, "Transfer-Encoding: chunked")
    client = await running.send(head, chunk(b"first-piece."))
    call = await upstream.call()
    assert call.head["transfer-encoding"] == "chunked"
    assert "content-length" not in call.head
    await call.expect_body(b"first-piece.")
    client.send(chunk(b"second"), LAST_CHUNK)
    assert await call.read_rest() == b"second"
    await call.respond(response())
    assert (await client.response()).status == 200


async def test_buffered_chunked_body_is_forwarded_complete(
    gate: StartGate, upstream: Upstream
) -> None:
    head = request("POST", CHAT, "Transfer-Encoding: chunked", "Content-Type: application/json")
    client = await (await gate()).send(head, chunk(b'{"a"'), chunk(b": 1}"), LAST_CHUNK)
    call = await upstream.call()
    assert await call.read_rest() == b'{"a": 1}'
    await call.respond(response())
    assert (await client.response()).status == 200


async def test_large_body_is_forwarded_complete(gate: StartGate, upstream: Upstream) -> None:
    body = bytes(range(256)) * 64 * 1024
    client = await (await gate()).send(post(body))
    call = await upstream.call()
    assert await call.read_rest() == body
    await call.respond(response(body))
    assert (await client.response()).body == body


async def test_get_body_is_forwarded(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(request("GET", "/v1/x", body=b"{}"))
    call = await upstream.call()
    assert await call.read_rest() == b"{}"
    await call.respond(response())
    await client.response()


# Expect.


async def test_json_body_gets_100_continue_at_once(gate: StartGate, upstream: Upstream) -> None:
    """Admission needs its cost."""
    running = await gate(RATE_LIMIT="0.001", RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=3600)
    upstream.reply = response()
    await running.request(get())
    lines = ["Content-Type: application/json", "Expect: 100-continue", "Content-Length: 2"]
    client = await running.send(request("POST", CHAT, *lines))
    assert (await client.head()).raw == CONTINUE
    client.send(b"{}")
    await running.wait_until(waiters=1)


async def test_other_body_gets_100_continue_after_admission(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1)
    first = await running.send(get())
    holder = await upstream.call()
    lines = ["Content-Type: application/octet-stream", "Expect: 100-continue"]
    client = await running.send(request("POST", "/v1/files", *lines, "Content-Length: 4"))
    await running.wait_until(waiters=1)
    assert client.wire.received == b""
    await holder.respond(response())
    await first.response()
    assert (await client.head()).raw == CONTINUE
    client.send(b"file")
    call = await upstream.call()
    assert await call.read_rest() == b"file"
    assert "expect" not in call.head
    await call.respond(response())
    assert (await client.response()).status == 200


async def test_http_1_0_client_gets_no_100_continue(gate: StartGate, upstream: Upstream) -> None:
    """It does not know interim responses (RFC 9110, 10.1.1)."""
    upstream.reply = response()
    sent = post(b"{}", "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    assert (await (await gate()).request(sent)).status == 200


async def test_refused_request_gets_no_100_continue(gate: StartGate, upstream: Upstream) -> None:
    lines = ["Content-Type: application/json", "Expect: 100-continue", "Content-Length: 2"]
    client = await (await gate()).send(request("POST", "/v2/x", *lines))
    assert (await client.head()).status == 404


# Responses in the middle of an upload.


async def test_early_response_is_forwarded_at_once_and_ends_the_upload(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(MAX_BUFFERED_BODY=999_999)
    lines = ["Content-Type: multipart/form-data; boundary=x", "Content-Length: 1000000"]
    client = await running.send(request("POST", "/v1/files", *lines), b"x" * 1000)
    call = await upstream.call()
    call.send(response(b'{"error": {}}', status="413 Too Large"))
    received = await client.response()
    assert (received.status, received.body, received.reason) == (413, b'{"error": {}}', None)
    await call.ended()


async def test_early_response_streams_while_the_upload_is_pending(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(MAX_BUFFERED_BODY=999_999)
    lines = ["Content-Type: multipart/form-data; boundary=x", "Content-Length: 1000000"]
    client = await running.send(request("POST", "/v1/files", *lines), b"x" * 1000)
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    assert (await client.head()).status == 200
    await client.expect_body(b"data: 1\n\n")
    call.send(chunk(b"data: 2\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: 2\n\n"


@pytest.mark.parametrize("answers", [True, False], ids=["early response", "upstream cut it"])
async def test_rest_of_a_stopped_upload_is_read(
    gate: StartGate, upstream: Upstream, answers: bool
) -> None:
    """Closing while it arrives would send a reset, which may overtake the response."""
    running = await gate(MAX_BUFFERED_BODY=999_999)
    lines = ["Content-Type: multipart/form-data; boundary=x", "Content-Length: 1000000"]
    client = await running.send(request("POST", "/v1/files", *lines), b"x" * 1000)
    call = await upstream.call()
    await call.expect_body(b"x" * 1000)
    if answers:
        call.send(response(status="413 Too Large"))
    else:
        call.wire.close()
    assert (await client.response()).status == (413 if answers else 502)
    await call.ended()
    client.send(b"x" * 999_000, get())
    call = await upstream.call()
    await call.respond(response())
    assert (await client.response()).status == 200


# What the gate reads of a body.

FORM_TYPE = "Content-Type: multipart/form-data; boundary=x"
URL_ENCODED = "Content-Type: application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n%b\r\n'


def form(file: bytes = b"\x00\xff\r\n", **fields: str) -> bytes:
    """A form with fields before and a file."""
    parts = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    return parts.encode() + FILE % file + b"--x--\r\n"


@pytest.mark.parametrize(
    ("line", "body", "settings"),
    [
        (FORM_TYPE, form(model="m-1", stream="true"), {}),
        (URL_ENCODED, b"stream=true&model=m%2D1", {}),
        (FORM_TYPE, form(bytes(200_000), model="m-1", stream="true"), {"MAX_BUFFERED_BODY": 9999}),
        (
            JSON,
            b'{"model":"m-1","stream":true,"x":"' + b"x" * 200_000 + b'"}',
            {"MAX_BUFFERED_BODY": 9999},
        ),
        (JSON, b'{"model":"m-1","stream":true,"x":"' + b"x" * 200 + b'"}', {"QUEUE_BYTES": 100}),
    ],
    ids=["form", "URL-encoded form", "large form", "large JSON", "JSON beyond QUEUE_BYTES"],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_model_and_stream_are_recognized(
    gate: StartGate,
    upstream: Upstream,
    line: str,
    body: bytes,
    settings: dict[str, int],
    chunked: bool,
) -> None:
    running = await gate(**settings)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    lines = [line, framing, "Accept-Encoding: gzip"]
    client = await running.send(request("POST", "/v1/images/edits", *lines))
    client.send(*[chunk(body), LAST_CHUNK] if chunked else [body])
    call = await upstream.call()
    assert await call.read_rest() == body
    assert call.head["accept-encoding"] == "identity"
    await call.respond(response())
    assert (await client.response()).status == 200
    assert (await running.settled())[0]["model"] == "m-1"


async def test_start_that_does_not_arrive_does_not_hold_up_a_large_body(
    gate: StartGate, upstream: Upstream
) -> None:
    """Its model is then not known."""
    running = await gate(MAX_BUFFERED_BODY=10)
    client = await running.send(request("POST", CHAT, JSON, "Content-Length: 30"))
    call = await upstream.call()
    client.send(b'{"model": "m-1", "stream": 1} ')
    assert await call.read_rest() == b'{"model": "m-1", "stream": 1} '
    await call.respond(response())
    await client.response()
    assert (await running.settled())[0]["model"] is None


async def test_client_that_disconnects_before_the_start_is_noticed(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(MAX_BUFFERED_BODY=10)
    client = await running.send(request("POST", CHAT, JSON, "Content-Length: 30"), b"{")
    client.disconnect()
    assert (await running.settled())[0]["outcome"] == "client_left"
    assert upstream.calls == []


@pytest.mark.parametrize("line", [FORM_TYPE, URL_ENCODED])
async def test_form_is_held_and_sent_again(gate: StartGate, upstream: Upstream, line: str) -> None:
    body = form(model="m-1") if line == FORM_TYPE else b"model=m-1"
    running = await gate()
    client = await running.send(request("POST", "/v1/images/edits", line, body=body))
    first = await upstream.call()
    limited = response(b"{}", "retry-after-ms: 1", status="429 Too Many Requests")
    await first.respond(limited)
    again = await upstream.call()
    assert await again.read_rest() == body
    assert again.head["content-length"] == str(len(body))
    await again.respond(response())
    assert (await client.response()).status == 200


async def test_form_gets_100_continue_after_admission(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(CONCURRENCY_LIMIT=1)
    first = await running.send(get())
    holder = await upstream.call()
    body = form(model="m-1")
    lines = [FORM_TYPE, "Expect: 100-continue", f"Content-Length: {len(body)}"]
    client = await running.send(request("POST", "/v1/images/edits", *lines))
    await running.wait_until(waiters=1)
    assert client.wire.received == b""
    await holder.respond(response())
    await first.response()
    assert (await client.head()).raw == CONTINUE
    client.send(body)
    call = await upstream.call()
    assert await call.read_rest() == body
    await call.respond(response())
    assert (await client.response()).status == 200


@pytest.mark.parametrize(
    ("method", "target", "received"),
    [
        ("GET", "/v1/responses/resp_1?stream=true", "identity"),
        ("GET", "/v1/responses/resp_1?stream=false", "gzip"),
        ("GET", "/v1/responses/resp_1", "gzip"),
        ("HEAD", "/v1/responses/resp_1?stream=true", "gzip"),
        ("POST", "/v1/responses/resp_1?stream=true", "gzip"),
    ],
)
async def test_stream_in_the_query_is_recognized(
    gate: StartGate, upstream: Upstream, method: str, target: str, received: str
) -> None:
    upstream.reply = response(b"")
    await (await gate()).request(request(method, target, "Accept-Encoding: gzip"))
    assert upstream.calls[0].head["accept-encoding"] == received


@pytest.mark.parametrize(
    "sent",
    [
        get("/v1/responses/resp_1?stream=true"),
        request("POST", "/v1/audio/transcriptions", FORM_TYPE, body=form(stream="true")),
    ],
    ids=["query", "form"],
)
async def test_waiting_stream_gets_keepalives(
    gate: StartGate, upstream: Upstream, sent: bytes
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1, QUEUE_KEEPALIVE_AFTER=0.05)
    await running.send(get())
    await upstream.call()
    client = await running.send(sent)
    assert (await client.head())["content-type"] == "text/event-stream"
    await client.expect_body(b": keep-alive\n")


CODED = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd.compress),
    "gzip, zstd": ("gzip, zstd", lambda body: zstd.compress(gzip.compress(body))),
    "two lines": ("gzip\r\nContent-Encoding: zstd", lambda b: zstd.compress(gzip.compress(b))),
    "identity and gzip": ("identity\r\nContent-Encoding: gzip", gzip.compress),
}


@pytest.mark.parametrize(("coding", "encode"), CODED.values(), ids=CODED)
@pytest.mark.parametrize("settings", [{}, {"MAX_BUFFERED_BODY": 9}], ids=["held", "streamed"])
async def test_compressed_body_shows_its_model_and_stream(
    gate: StartGate,
    upstream: Upstream,
    coding: str,
    encode: Callable[[bytes], bytes],
    settings: dict[str, int],
) -> None:
    body = encode(b'{"model":"m-1","stream":true,"input":"Hello!"}')
    running = await gate(**settings)
    lines = [f"Content-Encoding: {coding}", "Accept-Encoding: gzip"]
    client = await running.send(post(body, *lines))
    call = await upstream.call()
    assert await call.read_rest() == body
    assert call.head.all("content-encoding") == coding.split("\r\nContent-Encoding: ")
    assert call.head["accept-encoding"] == "identity"
    await call.respond(response())
    assert (await client.response()).status == 200
    assert (await running.settled())[0]["model"] == "m-1"


@pytest.mark.parametrize(("coding", "encode"), CODED.values(), ids=CODED)
@pytest.mark.parametrize("length", ["known", "unknown"])
async def test_large_body_that_compression_hardly_shortens_shows_its_start(
    gate: StartGate,
    upstream: Upstream,
    coding: str,
    encode: Callable[[bytes], bytes],
    length: str,
) -> None:
    """zstd decodes a block as a whole, which may take 128 KiB."""
    image = base64.b85encode(Random(1).randbytes(400_000))
    body = encode(b'{"model":"m-1","stream":true,"input":"' + image + b'"}')
    assert len(body) > 390_000
    upstream.reply = response()
    running = await gate(MAX_BUFFERED_BODY=150_000)
    lines = [f"Content-Encoding: {coding}", "Accept-Encoding: gzip"]
    if length == "known":
        sent = post(body, *lines)
    else:
        head = request("POST", CHAT, *lines, "Transfer-Encoding: chunked")
        sent = head + chunk(body) + chunk(b"")
    assert (await running.request(sent)).status == 200
    assert (await running.settled())[0]["model"] == "m-1"
    assert upstream.calls[0].head["accept-encoding"] == "identity"


async def test_bomb_passes_unread(gate: StartGate, upstream: Upstream) -> None:
    body = gzip.compress(b'{"model":"m-1","input":"' + bytes(64 << 20) + b'"}')
    upstream.reply = response()
    running = await gate(MAX_BUFFERED_BODY=100_000)
    got = await running.request(post(body, "Content-Encoding: gzip"))
    assert got.status == 200
    assert (await running.settled())[0]["model"] == "m-1"
