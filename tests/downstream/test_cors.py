"""Requests from web pages: refusals, preflights, and the responses that a page may read."""

import pytest

from tests.conftest import StartGate
from tests.support.http import (
    CHAT,
    EVENT_STREAM,
    LAST_CHUNK,
    Head,
    chat,
    chunk,
    get,
    request,
    response,
)
from tests.support.upstream import Upstream

APP = "https://app.example.org"
FROM_APP = f"Origin: {APP}"
ALLOWED = {"CORS_ALLOW_ORIGINS": f"http://localhost:3000,{APP}"}
UNREACHABLE = {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "UPSTREAM_CONNECT_TIMEOUT": 0.1}

# What the official SDK sends from a browser.
SDK_HEADERS = "authorization,content-type,openai-organization,x-stainless-lang,x-stainless-os"


def preflight(*lines: str, target: str = CHAT) -> bytes:
    """A preflight as browsers send it, without a key."""
    request_lines = [
        "Access-Control-Request-Method: POST",
        f"Access-Control-Request-Headers: {SDK_HEADERS}",
    ]
    fields = [f"OPTIONS {target} HTTP/1.1", "Host: gate", *request_lines, *lines, "", ""]
    return "\r\n".join(fields).encode()


def assert_readable(head: Head, origin: str = APP) -> None:
    """A page at `origin` may read the response."""
    assert head["access-control-allow-origin"] == origin
    assert head["access-control-expose-headers"] == "*"
    assert "Origin" in head.all("vary")
    assert "access-control-allow-credentials" not in head


# Refusals.


@pytest.mark.parametrize(
    "sent", [chat(FROM_APP), get("/v1/models", FROM_APP), preflight(FROM_APP)]
)
async def test_page_is_refused_unless_its_origin_is_allowed(
    gate: StartGate, upstream: Upstream, sent: bytes
) -> None:
    running = await gate()
    got = await running.request(sent)
    assert (got.status, got.reason) == (403, "origin_not_allowed")
    assert got.error["type"] == "invalid_request_error"
    assert got.error["code"] == "origin_not_allowed"
    assert APP in got.error["message"]
    assert not [name for name, _ in got.head.fields if name.startswith("access-control-")]
    assert upstream.calls == []
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("refused", "origin_not_allowed")


@pytest.mark.parametrize(
    "lines",
    [
        ["Origin: https://evil.example"],
        ["Origin: null"],
        ["Origin:"],
        ["Origin: https://app.example.org/"],
        ["Origin: \xc3\xa4"],
        [FROM_APP, FROM_APP],
        [FROM_APP, "Origin: https://evil.example"],
    ],
    ids=repr,
)
async def test_other_origins_are_refused(
    gate: StartGate, upstream: Upstream, lines: list[str]
) -> None:
    got = await (await gate(**ALLOWED)).request(get("/v1/models", *lines))
    assert (got.status, got.reason) == (403, "origin_not_allowed")
    assert upstream.calls == []


@pytest.mark.parametrize("origin", [APP, "null", "", "what?"])
async def test_star_allows_every_origin(gate: StartGate, upstream: Upstream, origin: str) -> None:
    upstream.reply = response()
    running = await gate(CORS_ALLOW_ORIGINS="*")
    got = await running.request(get("/v1/models", f"Origin: {origin}"))
    assert got.status == 200
    assert_readable(got.head, "*")


async def test_request_without_an_origin_gets_no_cors_headers(
    gate: StartGate, upstream: Upstream
) -> None:
    cors_header = "Access-Control-Allow-Origin: https://upstream.example"
    upstream.reply = response(b"{}", cors_header)
    head = (await (await gate(**ALLOWED)).request(get())).head
    names = [field for field in head.fields if field[0].startswith(("access-control-", "vary"))]
    assert names == [("access-control-allow-origin", "https://upstream.example")]


# Preflights.


@pytest.mark.parametrize("target", [CHAT, "/v1/responses", "/nothing", "/health"])
async def test_gate_responds_to_preflights(
    gate: StartGate, upstream: Upstream, target: str
) -> None:
    got = await (await gate(**ALLOWED)).request(preflight(FROM_APP, target=target))
    assert (got.status, got.body) == (204, b"")
    assert_readable(got.head)
    assert got.head["access-control-allow-methods"] == "POST"
    assert got.head["access-control-allow-headers"] == SDK_HEADERS
    assert int(got.head["access-control-max-age"]) > 0
    assert upstream.calls == []


async def test_preflight_is_not_queued(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(CONCURRENCY_LIMIT=1, QUEUE_LIMIT=0, **ALLOWED)
    holder = await running.send(chat(FROM_APP))
    call = await upstream.call()
    assert (await running.request(preflight(FROM_APP))).status == 204
    await call.respond(response())
    assert (await holder.response()).status == 200


@pytest.mark.parametrize(
    "lines",
    [["Access-Control-Request-Method: POST"], [FROM_APP], []],
    ids=["no origin", "no requested method", "neither"],
)
async def test_other_options_requests_are_forwarded(
    gate: StartGate, upstream: Upstream, lines: list[str]
) -> None:
    upstream.reply = response(b"upstream")
    got = await (await gate(**ALLOWED)).request(request("OPTIONS", "/v1/models", *lines))
    assert got.body == b"upstream"


# Responses to a page.


async def test_cors_headers_of_upstream_are_replaced(gate: StartGate, upstream: Upstream) -> None:
    lines = [
        "Access-Control-Allow-Origin: *",
        "access-control-expose-headers: x-upstream",
        "Access-Control-Allow-Credentials: true",
        "Vary: Accept-Encoding",
        "Vary: Accept",
        "x-request-id: req_1",
    ]
    upstream.reply = response(b"{}", *lines)
    got = await (await gate(**ALLOWED)).request(chat(FROM_APP))
    assert_readable(got.head)
    assert got.head.all("vary") == ["Accept-Encoding", "Accept", "Origin"]
    assert got.head["x-request-id"] == "req_1"
    assert "origin" not in upstream.calls[0].head


async def test_vary_that_names_origin_is_not_repeated(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(b"{}", "Vary: Origin")
    got = await (await gate(**ALLOWED)).request(chat(FROM_APP))
    assert got.head.all("vary") == ["Origin"]


async def test_page_may_read_a_stream(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate(**ALLOWED)).send(chat(FROM_APP, stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM)
    assert_readable(await client.head())
    call.send(chunk(b"data: 1\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: 1\n\n"


@pytest.mark.parametrize(
    ("settings", "sent", "status"),
    [
        ({"RATE_LIMIT_TIMEOUT": 0, "CONCURRENCY_LIMIT": 1, "QUEUE_LIMIT": 0}, chat(FROM_APP), 429),
        (
            {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "UPSTREAM_CONNECT_TIMEOUT": 0.1},
            chat(FROM_APP),
            502,
        ),
        ({"MAX_BODY_SIZE": 1}, chat(FROM_APP), 413),
        ({}, get("/nothing", FROM_APP), 404),
        ({}, get("/v1/../x", FROM_APP), 400),
        ({}, request("OPTIONS", "*", FROM_APP), 404),
    ],
    ids=["429", "502", "413", "404", "400", "unrouted"],
)
async def test_page_may_read_an_error_of_the_gate(
    gate: StartGate,
    upstream: Upstream,
    settings: dict[str, object],
    sent: bytes,
    status: int,
) -> None:
    running = await gate(**settings, **ALLOWED)
    holder = await running.send(chat()) if status == 429 else None
    call = await upstream.call() if holder else None
    got = await running.request(sent)
    assert got.status == status
    assert got.reason is not None
    assert_readable(got.head)
    if holder and call:
        await call.respond(response())
        await holder.response()


async def test_page_may_read_an_error_of_upstream(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(b"{}", "retry-after-ms: 60000", status="429 Too Many Requests")
    got = await (await gate(**ALLOWED)).request(chat(FROM_APP))
    assert (got.status, got.head["retry-after-ms"]) == (429, "60000")
    assert_readable(got.head)


async def test_origin_is_checked_for_each_request_on_a_connection(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response()
    client = await (await gate(**ALLOWED)).connect()
    assert (await client.request(preflight(FROM_APP))).status == 204
    assert_readable((await client.request(chat(FROM_APP))).head)
    assert "access-control-allow-origin" not in (await client.request(chat())).head
    assert (await client.request(chat("Origin: https://evil.example"))).status == 403
    assert_readable((await client.request(chat(FROM_APP))).head)
