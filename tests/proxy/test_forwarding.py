"""What crosses the gate, in both directions, judged by the bytes that arrive."""

import gzip
import json

import pytest

from tests.conftest import StartGate
from tests.support.gate import Log
from tests.support.http import (
    CHAT,
    CLIENT_KEY,
    CONTINUE,
    EVENT_STREAM,
    LAST_CHUNK,
    UPSTREAM_KEY,
    chat,
    chunk,
    get,
    post,
    request,
    response,
    response_head,
)
from tests.support.upstream import Upstream

KEY_FIELD = ("authorization", f"Bearer {UPSTREAM_KEY}")


def host(upstream: Upstream) -> tuple[str, str]:
    return "host", upstream.url.removeprefix("http://").removesuffix("/v1")


# Requests: method and target.


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "QUERY"]
)
async def test_any_method_is_forwarded(gate: StartGate, upstream: Upstream, method: str) -> None:
    upstream.reply = response(b"" if method == "HEAD" else b"{}")
    got = await (await gate()).request(request(method, "/v1/files/f-1"))
    assert got.status == 200
    assert upstream.calls[0].head.start == f"{method} /v1/files/f-1 HTTP/1.1"


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models?a=1&a=2&b",
        "/v1/models?",
        "/v1/models?q=a+b%20c%2Fd%2fe",
        "/v1/models?q=%zz&x=%",
        "/v1/models?to=/../x",
        "/v1/models/ft%3Agpt-4o%2Fx",
        "/v1/models/ft:gpt-4o@x;y=,~!$&'()*+",
        "/v1/a%20b%C3%A4",
        "/v1/%41bc",
        "/v1//double//slash/",
        "/v1/...",
        "/v1/.well-known/x",
        "/v1/",
        '/v1/x?json={"a":[1]}',
    ],
)
async def test_target_is_not_touched(gate: StartGate, upstream: Upstream, target: str) -> None:
    upstream.reply = response()
    assert (await (await gate()).request(get(target))).status == 200
    assert upstream.calls[0].target == target


async def test_target_goes_below_the_base_url(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate(OPENAI_BASE_URL=upstream.url.replace("/v1", "/openai/deployments/x"))
    await running.request(get("/v1/models?limit=2"))
    assert upstream.calls[0].target == "/openai/deployments/x/models?limit=2"


async def test_absolute_form_is_forwarded_by_its_path(gate: StartGate, upstream: Upstream) -> None:
    """RFC 9112, 3.2.2; upstream is not for the client to choose."""
    upstream.reply = response()
    await (await gate()).request(get("http://elsewhere.example/v1/models?a=b"))
    assert upstream.calls[0].target == "/v1/models?a=b"
    assert host(upstream) in upstream.calls[0].head.fields


# Requests: headers.


async def test_nothing_is_added_but_the_key(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    await (await gate()).request(b"GET /v1/models HTTP/1.1\r\nHost: gate\r\n\r\n")
    assert sorted(upstream.calls[0].head.fields) == [KEY_FIELD, host(upstream)]


async def test_empty_post_brings_nothing_but_its_length(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response()
    await (await gate()).request(b"POST /v1/x HTTP/1.1\r\nHost: gate\r\nContent-Length: 0\r\n\r\n")
    fields = [("content-length", "0"), *sorted([KEY_FIELD, host(upstream)])]
    assert sorted(upstream.calls[0].head.fields) in (sorted(fields), sorted(fields[1:]))


async def test_headers_cross_as_sent(gate: StartGate, upstream: Upstream) -> None:
    lines = [
        "X-Repeated: one",
        'user-agent: MyApp/1.0 (odd; values="kept")',
        "X-Repeated: two, three",
        "OpenAI-Beta: assistants=v2",
        "X-Blank:",
        "X-Umlaut: \xc3\xa4",
        "X-Inner: a  b\tc",
        "Idempotency-Key: stainless-1",
        "x-stainless-retry-count: 0",
        "Accept: */*",
        'If-None-Match: "x"',
        "X-Repeated: four",
    ]
    upstream.reply = response()
    await (await gate()).request(get("/v1/models", *lines))
    sent = [tuple(line.split(":", 1)) for line in lines]
    expected = [(name.lower(), value.strip(" ")) for name, value in sent]
    crossed = [f for f in upstream.calls[0].head.fields if f not in (KEY_FIELD, host(upstream))]
    assert sorted(crossed) == sorted(expected)
    assert upstream.calls[0].head.all("x-repeated") == ["one", "two, three", "four"]


@pytest.mark.parametrize(
    "line",
    [
        "Cookie: session=1",
        "Forwarded: for=10.0.0.1",
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Anything: x",
        "X-Real-IP: 10.0.0.1",
        "Origin: null",
        "Referer: http://localhost/",
        "Sec-Fetch-Mode: cors",
        "X-RustyGate-Client: search",
        "X-RustyGate-Anything: x",
        "Proxy-Authorization: Basic eDp5",
        "Proxy-Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Trailer: X-Checksum",
        "Connection: keep-alive",
        "Connection: X-Secret-Hop",
    ],
)
async def test_header_does_not_go_up(gate: StartGate, upstream: Upstream, line: str) -> None:
    upstream.reply = response()
    running = await gate(CORS_ALLOW_ORIGINS="*")
    await running.request(get("/v1/models", line, "X-Secret-Hop: 1", "X-Kept: 1"))
    names = {name for name, _ in upstream.calls[0].head.fields} - {"x-secret-hop"}
    assert names == {"host", "authorization", "x-kept"}
    assert ("x-secret-hop" in upstream.calls[0].head) == (line != "Connection: X-Secret-Hop")


async def test_upgrade_does_not_go_up(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    got = await (await gate()).request(get("/v1/models", "Connection: Upgrade", "Upgrade: h2c"))
    assert got.status == 200
    assert "upgrade" not in upstream.calls[0].head


@pytest.mark.parametrize(
    "line",
    [
        "Connection: Authorization",
        "Connection: close, authorization, OpenAI-Project, OpenAI-Organization, Host",
        "Authorization: Bearer another",
        "authorization: Basic eDp5",
    ],
)
async def test_nothing_a_client_sends_erases_the_key(
    gate: StartGate, upstream: Upstream, line: str
) -> None:
    upstream.reply = response()
    running = await gate(OPENAI_ORG_ID="org-1", OPENAI_PROJECT_ID="proj-1")
    await running.request(get("/v1/models", line))
    expected = [
        KEY_FIELD,
        host(upstream),
        ("openai-organization", "org-1"),
        ("openai-project", "proj-1"),
    ]
    assert sorted(upstream.calls[0].head.fields) == expected
    assert CLIENT_KEY.encode() not in upstream.wires[0].received


async def test_account_of_the_client_goes_before_the_gate_s(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response()
    running = await gate(OPENAI_ORG_ID="org-1", OPENAI_PROJECT_ID="proj-1")
    await running.request(get("/v1/models", "openai-organization: org-2"))
    assert upstream.calls[0].head["openai-organization"] == "org-2"
    assert upstream.calls[0].head["openai-project"] == "proj-1"


@pytest.mark.parametrize(
    ("sent", "stream", "received"),
    [
        ("gzip, deflate, br, zstd", False, "gzip, deflate"),
        ("gzip;q=0.5, br;q=1, identity", False, "gzip;q=0.5, identity"),
        ("GZIP", False, "GZIP"),
        ("br", False, "identity"),
        ("*", False, "identity"),
        ("gzip, deflate, br", True, "identity"),
    ],
)
async def test_accept_encoding_is_narrowed_to_what_can_be_read(
    gate: StartGate, upstream: Upstream, sent: str, stream: bool, received: str
) -> None:
    upstream.reply = response()
    await (await gate()).request(chat(f"Accept-Encoding: {sent}", stream=stream))
    assert upstream.calls[0].head["accept-encoding"] == received


@pytest.mark.parametrize("value", [b"caf\xe9", b"\xff", b"a\xc3"], ids=repr)
async def test_header_value_that_is_not_utf_8_is_refused(
    gate: StartGate, upstream: Upstream, value: bytes
) -> None:
    head = get("/v1/models").removesuffix(b"\r\n")
    got = await (await gate()).request(head + b"X-Odd: " + value + b"\r\n\r\n")
    assert (got.status, got.reason) == (400, "bad_request")
    assert upstream.calls == []


# Requests: bodies.


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
async def test_held_body_goes_up_as_it_came(
    gate: StartGate, upstream: Upstream, body: bytes
) -> None:
    running = await gate()
    client = await running.send(post(body))
    call = await upstream.call()
    assert await call.read_rest() == body
    assert call.head["content-length"] == str(len(body))
    await call.respond(response())
    assert (await client.response()).status == 200


async def test_compressed_request_body_goes_up_as_it_came(
    gate: StartGate, upstream: Upstream
) -> None:
    body = gzip.compress(b'{"model": "gpt-4o"}')
    client = await (await gate()).send(post(body, "Content-Encoding: gzip"))
    call = await upstream.call()
    assert (await call.read_rest(), call.head["content-encoding"]) == (body, "gzip")
    await call.respond(response())
    await client.response()


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        (("Content-Type: multipart/form-data; boundary=x",), {}),
        (("Content-Type: application/json",), {"MAX_BUFFERED_BODY": 10}),
        (("Content-Type: application/octet-stream",), {"MAX_BUFFERED_BODY": 0}),
        (("Content-Type: application/json",), {"QUEUE_BYTES": 0}),
    ],
    ids=["multipart", "large", "nothing may be held", "no room"],
)
async def test_body_that_is_not_held_goes_up_as_it_comes(
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


async def test_chunked_body_that_is_not_held_stays_chunked(
    gate: StartGate, upstream: Upstream
) -> None:
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


async def test_chunked_body_that_is_held_goes_up_whole(
    gate: StartGate, upstream: Upstream
) -> None:
    head = request("POST", CHAT, "Transfer-Encoding: chunked", "Content-Type: application/json")
    client = await (await gate()).send(head, chunk(b'{"a"'), chunk(b": 1}"), LAST_CHUNK)
    call = await upstream.call()
    assert await call.read_rest() == b'{"a": 1}'
    await call.respond(response())
    assert (await client.response()).status == 200


async def test_large_body_crosses_whole(gate: StartGate, upstream: Upstream) -> None:
    body = bytes(range(256)) * 64 * 1024
    client = await (await gate()).send(post(body))
    call = await upstream.call()
    assert await call.read_rest() == body
    await call.respond(response(body))
    assert (await client.response()).body == body


async def test_get_with_a_body_keeps_it(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(request("GET", "/v1/x", body=b"{}"))
    call = await upstream.call()
    assert await call.read_rest() == b"{}"
    await call.respond(response())
    await client.response()


# Requests: Expect.


async def test_expected_json_body_is_asked_for_at_once(
    gate: StartGate, upstream: Upstream
) -> None:
    """Its cost is needed for admission."""
    running = await gate(RATE_LIMIT="0.001", RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=3600)
    upstream.reply = response()
    await running.request(get())
    lines = ["Content-Type: application/json", "Expect: 100-continue", "Content-Length: 2"]
    client = await running.send(request("POST", CHAT, *lines))
    assert (await client.head()).raw == CONTINUE
    client.send(b"{}")
    await running.wait_until(waiters=1)


async def test_other_expected_body_is_asked_for_once_admitted(
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


async def test_refused_request_is_not_asked_for_its_body(
    gate: StartGate, upstream: Upstream
) -> None:
    lines = ["Content-Type: application/json", "Expect: 100-continue", "Content-Length: 2"]
    client = await (await gate()).send(request("POST", "/v2/x", *lines))
    assert (await client.head()).status == 404


# Requests: upstream that answers in the middle of an upload.


async def test_early_answer_passes_at_once_and_ends_the_upload(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    lines = ["Content-Type: multipart/form-data; boundary=x", "Content-Length: 1000000"]
    client = await running.send(request("POST", "/v1/files", *lines), b"x" * 1000)
    call = await upstream.call()
    call.send(response(b'{"error": {}}', status="413 Too Large"))
    got = await client.response()
    assert (got.status, got.body, got.reason) == (413, b'{"error": {}}', None)
    await call.ended()


async def test_early_answer_streams_while_the_upload_stands(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    lines = ["Content-Type: multipart/form-data; boundary=x", "Content-Length: 1000000"]
    client = await running.send(request("POST", "/v1/files", *lines), b"x" * 1000)
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    assert (await client.head()).status == 200
    await client.expect_body(b"data: 1\n\n")
    call.send(chunk(b"data: 2\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: 2\n\n"


# Answers: status and headers.


@pytest.mark.parametrize(
    "status",
    [
        "200 OK",
        "201 Created",
        "200 Fine By Me",
        "299 Odd",
        "400 Bad Request",
        "401 Unauthorized",
        "404 Not Found",
        "409 Conflict",
        "418 I'm a teapot",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
        "599 x",
    ],
)
async def test_upstream_s_own_answer_passes_untouched(
    gate: StartGate, upstream: Upstream, status: str
) -> None:
    body = b'{"error":  {"message": "\xc3\xa4", "code": "own"}}'
    upstream.reply = response(body, "Content-Type: application/json", "x-own: 1", status=status)
    got = await (await gate()).request(chat())
    assert got.head.start == f"HTTP/1.1 {status}"
    assert (got.body, got.head["x-own"], got.reason) == (body, "1", None)
    assert got.head["content-type"] == "application/json"
    assert len(upstream.calls) == 1


async def test_answer_headers_cross_as_sent(gate: StartGate, upstream: Upstream) -> None:
    lines = [
        "Content-Type: application/json",
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        "Server: cloudflare",
        "x-request-id: req_1",
        "X-Repeated: one",
        "x-ratelimit-remaining-requests: 9",
        "X-Repeated: two, three",
        "X-Blank:",
        "X-Umlaut: \xc3\xa4",
        "Vary: Origin",
        "CF-RAY: x-FRA",
        'ETag: W/"x"',
        "X-Repeated: four",
        "Server-Timing: theirs;dur=1",
    ]
    upstream.reply = response(b"{}", *lines)
    head = (await (await gate()).request(get())).head
    sent = [tuple(line.split(":", 1)) for line in lines]
    expected = [(name.lower(), value.strip(" ")) for name, value in sent]
    added = {"x-rustygate-queued-ms", "x-rustygate-attempts", "content-length"}
    crossed = [field for field in head.fields if field[0] not in added]
    timing = [f for f in crossed if f[0] == "server-timing" and f not in expected]
    assert len(timing) == 1
    assert sorted(crossed) == sorted([*expected, *timing])
    assert head.all("x-repeated") == ["one", "two, three", "four"]


@pytest.mark.parametrize(
    "line",
    [
        "Set-Cookie: __cf_bm=x; path=/",
        'Alt-Svc: h3=":443"',
        "Strict-Transport-Security: max-age=1",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic",
        "Trailer: X-T",
        "Upgrade: h2c",
        "Connection: X-Hop",
    ],
)
async def test_header_does_not_come_down(gate: StartGate, upstream: Upstream, line: str) -> None:
    upstream.reply = response(b"{}", line, "X-Hop: 1", "X-Kept: 1")
    head = (await (await gate()).request(get())).head
    added = {"x-rustygate-queued-ms", "x-rustygate-attempts", "server-timing", "date", "server"}
    names = {name for name, _ in head.fields} - added - {"x-hop"}
    assert names == {"content-length", "x-kept"}
    assert ("x-hop" in head) == (line != "Connection: X-Hop")


async def test_what_the_gate_adds_is_its_own(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    head = (await (await gate()).request(get())).head
    assert head["x-rustygate-attempts"] == "1"
    assert head["x-rustygate-queued-ms"] == "0"
    queue, upstreams = head["server-timing"].split(", ")
    assert queue.startswith("queue;dur=")
    assert upstreams.startswith("upstream;dur=")
    added = {"x-rustygate-queued-ms", "x-rustygate-attempts", "server-timing", "date", "server"}
    assert {name for name, _ in head.fields} == added | {"content-length"}


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_redirect_is_passed_on(gate: StartGate, upstream: Upstream, status: str) -> None:
    location = "Location: https://elsewhere.example/v1/x?y#z"
    upstream.reply = response(b"", location, status=status)
    got = await (await gate()).request(get())
    assert (got.head.start, got.head["location"]) == (f"HTTP/1.1 {status}", location[10:])
    assert len(upstream.calls) == 1


async def test_cookies_are_not_kept(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(b"{}", "Set-Cookie: a=b; path=/")
    running = await gate()
    await running.request(get())
    await running.request(get())
    assert "cookie" not in upstream.calls[1].head


# Answers: bodies and their framing.


async def test_known_length_stays_known(gate: StartGate, upstream: Upstream) -> None:
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
    got = await client.response()
    assert got.head["transfer-encoding"] == "chunked"
    assert got.body == b"all of it"


async def test_chunk_extensions_and_trailers_do_not_disturb(
    gate: StartGate, upstream: Upstream
) -> None:
    head = response_head("Transfer-Encoding: chunked")
    upstream.reply = head + b"3;name=value\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"
    got = await (await gate()).request(get())
    assert got.body == b"abc"


async def test_interim_answers_do_not_confuse(gate: StartGate, upstream: Upstream) -> None:
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
async def test_answer_without_a_body(
    gate: StartGate, upstream: Upstream, method: str, reply: bytes, length: str | None
) -> None:
    upstream.reply = reply
    client = await (await gate()).connect()
    got = await client.request(request(method, "/v1/x"))
    assert got.body == b""
    assert got.head.all("content-length") == ([] if length is None else [length])
    upstream.reply = response(b"next")
    assert (await client.request(get())).body == b"next"


@pytest.mark.parametrize("framed", ["length", "chunked"])
async def test_compressed_body_is_not_touched(
    gate: StartGate, upstream: Upstream, framed: str
) -> None:
    body = gzip.compress(json.dumps({"text": "a" * 1000}).encode())
    lines = ["Content-Type: application/json", "Content-Encoding: gzip"]
    if framed == "length":
        upstream.reply = response(body, *lines)
    else:
        head = response_head(*lines, "Transfer-Encoding: chunked")
        upstream.reply = head + chunk(body) + LAST_CHUNK
    got = await (await gate()).request(chat("Accept-Encoding: gzip"))
    assert (got.body, got.head["content-encoding"]) == (body, "gzip")


async def test_no_content_type_is_invented(gate: StartGate, upstream: Upstream) -> None:
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


# Connections.


async def test_client_s_connection_serves_one_request_after_the_other(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = lambda call: response(call.target.encode())
    client = await (await gate()).connect()
    for number in range(3):
        assert (await client.request(get(f"/v1/{number}"))).body == b"/v1/%d" % number


async def test_pipelined_requests_are_answered_in_order(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = lambda call: response(call.target.encode())
    client = await (await gate()).send(*[get(f"/v1/{number}") for number in range(3)])
    assert [(await client.response()).body for _ in range(3)] == [b"/v1/0", b"/v1/1", b"/v1/2"]


async def test_connection_to_upstream_is_used_again(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate()
    for _ in range(3):
        await running.request(chat())
    assert (len(upstream.calls), len(upstream.wires)) == (3, 1)


@pytest.mark.parametrize("framed", ["length", "chunked", "connection"])
async def test_http_1_0_client_gets_its_answer(
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
    got = await client.response()
    assert "transfer-encoding" not in got.head
    assert got.body == b"body"
    assert await client.ended() == "closed"


# Routes.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_health_is_ok(gate: StartGate, upstream: Upstream, method: str) -> None:
    got = await (await gate()).request(request(method, "/health"))
    assert (got.status, got.body) == (200, b"OK" if method == "GET" else b"")
    assert got.head["content-type"].startswith("text/plain")
    assert upstream.calls == []


async def test_ready_answers_json(gate: StartGate) -> None:
    got = await (await gate()).request(get("/ready"))
    assert got.status == 200
    assert got.head["content-type"].startswith("application/json")
    assert isinstance(got.json, dict)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/v1?x",
        "/v1%2fmodels",
        "/v1%2Fmodels",
        "/V1/models",
        "/v2/x",
        "//v1/models",
        "/%76%31/models",
        "/healthz",
        "/health/",
        "/ready/x",
        "/v1models",
    ],
)
async def test_other_paths_are_not_found(gate: StartGate, upstream: Upstream, target: str) -> None:
    got = await (await gate()).request(get(target))
    assert (got.status, got.reason) == (404, "not_found")
    assert got.error["type"] == "invalid_request_error"
    assert upstream.calls == []


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_method_is_not_forwarded(gate: StartGate, upstream: Upstream, method: str) -> None:
    client = await (await gate()).send(request(method, "/v1/models"))
    assert (await client.head()).status == 405
    assert upstream.calls == []


# What is logged of it.


@pytest.mark.parametrize(
    ("rust_log", "steps"),
    [
        ("debug", ["cost estimated", "admitted", "upstream responded", "exchange"]),
        ("info", ["exchange"]),
    ],
)
async def test_debug_adds_the_steps(
    gate: StartGate, upstream: Upstream, log: Log, rust_log: str, steps: list[str]
) -> None:
    upstream.reply = response()
    running = await gate(RUST_LOG=rust_log)
    await running.request(chat())
    [line] = await running.settled()
    told = [each for each in log.text.splitlines() if line["id"] in each]
    assert [each.split(" {")[0] for each in told] == steps
