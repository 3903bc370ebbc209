"""The errors of the gate itself, as bytes and in the log."""

import re
from math import ceil

import pytest

from rustygate.downstream.response import PassthroughResponse
from tests.conftest import StartGate
from tests.proxy.refusals import CASES, Case, every_429, every_case, fail
from tests.support.client import Client
from tests.support.gate import Log, also_with_workers
from tests.support.http import (
    CHAT,
    CLIENT_KEY,
    EVENT_STREAM,
    LAST_CHUNK,
    UPSTREAM_KEY,
    Response,
    chat,
    chunk,
    get,
    post,
    request,
    response,
)
from tests.support.upstream import Upstream
from tests.support.waiting import until
from tests.support.wire import Cut

JSON = "Content-Type: application/json"
MULTIPART = "Content-Type: multipart/form-data; boundary=x"


def check_refusal(got: Response, reason: str, status: int, kind: str, code: str) -> None:
    """Check the shape of a refusal, and that it contains no key."""
    assert (got.status, got.reason) == (status, reason)
    assert got.head["content-type"] == "application/json"
    assert got.json.keys() == {"error"}
    assert got.error.keys() == {"message", "type", "param", "code"}
    assert (got.error["type"], got.error["code"], got.error["param"]) == (kind, code, None)
    received = got.head.raw + got.body
    assert CLIENT_KEY.encode() not in received
    assert UPSTREAM_KEY.encode() not in received


async def refused(gate: StartGate, upstream: Upstream, case: Case) -> tuple[Client, Response]:
    """A client whose chat was refused, and the refusal."""
    running = await case.prepare(gate, upstream)
    client = await running.send(chat())
    await case.act(running, upstream)
    return client, await client.response()


@also_with_workers
@every_case
async def test_refusal_has_the_shape_of_an_openai_error(
    gate: StartGate, upstream: Upstream, case: Case
) -> None:
    _, got = await refused(gate, upstream, case)
    check_refusal(got, case.reason, case.status, case.kind, case.code)
    assert re.search(case.message, got.error["message"])
    assert got.head.all("x-should-retry") == ([case.retry] if case.retry else [])
    assert ("retry-after-ms" in got.head) == (case.status == 429)
    assert ("retry-after" in got.head) == (case.status in {429, 503})


@every_case
async def test_refusal_is_logged(
    gate: StartGate, upstream: Upstream, log: Log, case: Case
) -> None:
    _, got = await refused(gate, upstream, case)
    await until(lambda: case.status in [line["status"] for line in log.exchanges])
    [line] = [line for line in log.exchanges if line["status"] == case.status]
    assert (line["reason"], line["outcome"]) == (case.reason, case.outcome)
    assert got.head["x-rustygate-attempts"] == str(line["attempts"])


@also_with_workers
@every_429
async def test_429_says_when_to_try_again(gate: StartGate, upstream: Upstream, case: Case) -> None:
    """In whole seconds, rounded up, and in milliseconds; never zero."""
    _, got = await refused(gate, upstream, case)
    milliseconds = int(got.head["retry-after-ms"])
    assert milliseconds > 0
    assert int(got.head["retry-after"]) == ceil(milliseconds / 1000)


async def test_retry_after_is_when_the_budget_has_room(
    gate: StartGate, upstream: Upstream
) -> None:
    _, got = await refused(gate, upstream, CASES["queue_timeout, early"])
    assert 990_000 < int(got.head["retry-after-ms"]) <= 1_000_000


@every_case
async def test_connection_stays_open_unless_the_refusal_closes_it(
    gate: StartGate, upstream: Upstream, case: Case
) -> None:
    client, got = await refused(gate, upstream, case)
    if case.reason in {"body_too_large", "draining"}:
        assert got.head["connection"] == "close"
        assert await client.ended() == "closed"
    else:
        assert "connection" not in got.head
        assert (await client.request(get("/health"))).status == 200


async def test_draining_gate_refuses_requests_on_open_connections(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.connect()
    await client.request(get("/health"))
    await running.daemon.drain()
    got = await client.request(chat())
    check_refusal(got, "draining", 503, "service_unavailable_error", "draining")
    assert (got.head["retry-after"], got.head["x-should-retry"]) == ("1", "true")
    assert await client.ended() == "closed"
    assert upstream.calls == []


TOO_LARGE = {
    "declared": (request("POST", CHAT, JSON, "Content-Length: 11"), b"x" * 11, 11),
    "declared, multipart": (
        request("POST", "/v1/files", MULTIPART, "Content-Length: 11"),
        b"x" * 11,
        11,
    ),
    "declared, 100-continue": (
        request("POST", CHAT, JSON, "Content-Length: 11", "Expect: 100-continue"),
        b"x" * 11,
        11,
    ),
    "growing": (
        request("POST", CHAT, JSON, "Transfer-Encoding: chunked") + chunk(b"x" * 12),
        LAST_CHUNK,
        12,
    ),
}


@pytest.mark.parametrize(("sent", "rest", "size"), TOO_LARGE.values(), ids=TOO_LARGE)
async def test_too_large_body_is_refused_before_its_end(
    gate: StartGate, upstream: Upstream, sent: bytes, rest: bytes, size: int
) -> None:
    running = await gate(MAX_BODY_SIZE=10)
    client = await running.send(sent)
    got = await client.response()
    check_refusal(got, "body_too_large", 413, "invalid_request_error", "body_too_large")
    assert f"has at least {size} bytes" in got.error["message"]
    assert got.head["connection"] == "close"
    client.send(rest)
    assert await client.ended() == "closed"
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("sent", "settings"),
    [
        (
            request("POST", "/v1/files", MULTIPART, "Transfer-Encoding: chunked"),
            {"MAX_BUFFERED_BODY": 2},
        ),
        (request("POST", CHAT, JSON, "Transfer-Encoding: chunked"), {"MAX_BUFFERED_BODY": 2}),
    ],
    ids=["multipart", "large"],
)
async def test_upload_that_grows_too_large_is_refused_and_never_completed(
    gate: StartGate, upstream: Upstream, sent: bytes, settings: dict[str, int]
) -> None:
    running = await gate(MAX_BODY_SIZE=10, **settings)
    client = await running.send(sent, chunk(b"123456"))
    call = await upstream.call()
    await call.expect_body(b"123456")
    client.send(chunk(b"789012"))
    got = await client.response()
    check_refusal(got, "body_too_large", 413, "invalid_request_error", "body_too_large")
    with pytest.raises(Cut):
        await call.read_rest()
    client.send(LAST_CHUNK)
    assert await client.ended() == "closed"


async def test_body_of_exactly_the_limit_passes(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate(MAX_BODY_SIZE=10)
    assert (await running.request(post(b"x" * 10))).status == 200
    head = request("POST", CHAT, "Transfer-Encoding: chunked")
    assert (await running.request(head + chunk(b"x" * 10) + LAST_CHUNK)).status == 200


NOT_FORWARDED = {
    "dot segment": (get("/v1/../models"), 400, "bad_request", "dot segments"),
    "encoded dot segment": (get("/v1/%2e%2E/models"), 400, "bad_request", "dot segments"),
    "fragment": (get("/v1/models#x"), 400, "bad_request", "a URL must not contain"),
    "header": (
        get("/v1/models", "X-Odd: caf\xe9", f"X-Key: {CLIENT_KEY}"),
        400,
        "bad_request",
        "X-Odd",
    ),
    "path": (get(f"/v2/models?api_key={CLIENT_KEY}"), 404, "not_found", "/v2/models; .* /v1/"),
    "long path": (get("/v2/" + "x" * 9000), 404, "not_found", "at /v2/x{196}; "),
    "no path": (request("OPTIONS", "*"), 404, "not_found", r"at \*"),
    "TRACE": (request("TRACE", "/v1/models"), 405, "method_not_allowed", "TRACE"),
    "CONNECT": (request("CONNECT", "/v1/models"), 405, "method_not_allowed", "CONNECT"),
}


@pytest.mark.parametrize(
    ("sent", "status", "reason", "message"), NOT_FORWARDED.values(), ids=NOT_FORWARDED
)
async def test_request_that_is_not_forwarded_is_refused(
    gate: StartGate, upstream: Upstream, sent: bytes, status: int, reason: str, message: str
) -> None:
    running = await gate()
    client = await running.connect()
    got = await client.request(sent)
    check_refusal(got, reason, status, "invalid_request_error", reason)
    assert re.search(message, got.error["message"])
    assert (await client.request(get("/health"))).status == 200
    assert upstream.calls == []
    assert (await running.settled())[0]["outcome"] == "refused"


async def test_refusal_of_a_head_request_has_no_body(gate: StartGate) -> None:
    client = await (await gate()).connect()
    got = await client.request(request("HEAD", "/v2/models"))
    assert (got.status, got.reason, got.body) == (404, "not_found", b"")
    assert (await client.request(get("/health"))).body == b"OK"


NOT_HTTP = {
    "one word": b"nonsense\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
    "no colon": get("/v1/models", CLIENT_KEY),
    "two lengths": request("POST", CHAT, "Content-Length: 1", "Content-Length: 2"),
    "a long header": get("/v1/models", "X-Long: " + CLIENT_KEY * 2000),
    "a body without chunks": request("POST", CHAT, "Transfer-Encoding: gzip"),
}


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_invalid_http_is_refused_and_not_repeated(
    gate: StartGate, upstream: Upstream, sent: bytes
) -> None:
    client = await (await gate()).send(sent)
    got = await client.response()
    check_refusal(got, "bad_request", 400, "invalid_request_error", "bad_request")
    assert (got.head.start, got.head["connection"]) == ("HTTP/1.1 400 Bad Request", "close")
    assert await client.ended() == "closed"
    assert upstream.calls == []


@pytest.mark.parametrize("settings", [{}, {"MAX_BUFFERED_BODY": 2}], ids=["buffered", "streamed"])
async def test_invalid_body_framing_is_refused_and_closes_the_connection(
    gate: StartGate, upstream: Upstream, settings: dict[str, int]
) -> None:
    running = await gate(**settings)
    client = await running.send(request("POST", CHAT, "Transfer-Encoding: chunked"), chunk(b"123"))
    if settings:
        await (await upstream.call()).expect_body(b"123")
    else:
        await running.wait_until(held_bytes=3)
    client.send(f"{CLIENT_KEY}\r\n".encode())
    got = await client.response()
    check_refusal(got, "bad_request", 400, "invalid_request_error", "bad_request")
    assert await client.ended() == "closed"
    assert (await running.settled())[0]["outcome"] == "refused"


# Internal errors.


async def test_internal_error_only_names_the_exchange_id(
    gate: StartGate, upstream: Upstream, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await gate()
    client = await running.connect()
    with monkeypatch.context() as patch:
        patch.setattr("rustygate.proxy.read_request_facts", fail)
        got = await client.request(chat())
    check_refusal(got, "internal_error", 500, "server_error", "internal_error")
    assert "defect" not in got.error["message"]
    [line] = await running.settled()
    assert line["id"] in got.error["message"]
    assert (line["status"], line["outcome"]) == (500, "aborted")
    assert "Traceback" in log.errors[0]
    assert line["id"] in log.errors.pop()
    upstream.reply = response()
    assert (await client.request(chat())).status == 200


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_internal_error_in_mid_response_cuts_it(
    gate: StartGate, upstream: Upstream, log: Log, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    write_chunk = PassthroughResponse.write_chunk

    def fail_at_second_event(response: PassthroughResponse, data: bytes) -> None:
        if b"2" in data:
            fail()
        write_chunk(response, data)

    monkeypatch.setattr(PassthroughResponse, "write_chunk", fail_at_second_event)
    running = await gate()
    client = await running.send(f"GET /v1/x HTTP/{version}\r\nHost: gate\r\n\r\n".encode())
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await client.expect_body(b"data: 1\n\n")
    call.send(chunk(b"data: 2\n\n"))
    assert await client.read_until_cut() == b""
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "internal_error")
    assert line["id"] in log.errors.pop()
    await call.ended()
