"""Web pages before the gate: who is refused, what preflights get, what a page may read."""

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
LISTED = {"CORS_ALLOW_ORIGINS": f"http://localhost:3000,{APP}"}

# What the official SDK sends from a browser.
SDK_HEADERS = "authorization,content-type,openai-organization,x-stainless-lang,x-stainless-os"


def preflight(*lines: str, target: str = CHAT) -> bytes:
    """As browsers send it: without a key."""
    asked = [
        "Access-Control-Request-Method: POST",
        f"Access-Control-Request-Headers: {SDK_HEADERS}",
    ]
    fields = [f"OPTIONS {target} HTTP/1.1", "Host: gate", *asked, *lines, "", ""]
    return "\r\n".join(fields).encode()


def assert_shared(head: Head, origin: str = APP) -> None:
    """A page at `origin` may read the answer."""
    assert head["access-control-allow-origin"] == origin
    assert head["access-control-expose-headers"] == "*"
    assert "Origin" in head.all("vary")
    assert "access-control-allow-credentials" not in head


# Who is refused.


@pytest.mark.parametrize(
    "asked", [chat(FROM_APP), get("/v1/models", FROM_APP), preflight(FROM_APP)]
)
async def test_pages_are_refused_unless_listed(
    gate: StartGate, upstream: Upstream, asked: bytes
) -> None:
    running = await gate()
    got = await running.request(asked)
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
async def test_what_is_not_listed_is_refused(
    gate: StartGate, upstream: Upstream, lines: list[str]
) -> None:
    got = await (await gate(**LISTED)).request(get("/v1/models", *lines))
    assert (got.status, got.reason) == (403, "origin_not_allowed")
    assert upstream.calls == []


@pytest.mark.parametrize("origin", [APP, "null", "", "what?"])
async def test_star_lets_anybody_in(gate: StartGate, upstream: Upstream, origin: str) -> None:
    upstream.reply = response()
    running = await gate(CORS_ALLOW_ORIGINS="*")
    got = await running.request(get("/v1/models", f"Origin: {origin}"))
    assert got.status == 200
    assert_shared(got.head, "*")


async def test_who_is_no_page_sees_nothing_of_it(gate: StartGate, upstream: Upstream) -> None:
    own = "Access-Control-Allow-Origin: https://theirs.example"
    upstream.reply = response(b"{}", own)
    head = (await (await gate(**LISTED)).request(get())).head
    names = [field for field in head.fields if field[0].startswith(("access-control-", "vary"))]
    assert names == [("access-control-allow-origin", "https://theirs.example")]


# Preflights.


@pytest.mark.parametrize("target", [CHAT, "/v1/responses", "/nothing", "/health"])
async def test_preflight_is_answered_by_the_gate(
    gate: StartGate, upstream: Upstream, target: str
) -> None:
    got = await (await gate(**LISTED)).request(preflight(FROM_APP, target=target))
    assert (got.status, got.body) == (204, b"")
    assert_shared(got.head)
    assert got.head["access-control-allow-methods"] == "POST"
    assert got.head["access-control-allow-headers"] == SDK_HEADERS
    assert int(got.head["access-control-max-age"]) > 0
    assert upstream.calls == []


async def test_preflight_is_not_queued(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(CONCURRENCY_LIMIT=1, QUEUE_LIMIT=0, **LISTED)
    holder = await running.send(chat(FROM_APP))
    call = await upstream.call()
    assert (await running.request(preflight(FROM_APP))).status == 204
    await call.respond(response())
    assert (await holder.response()).status == 200


@pytest.mark.parametrize(
    "lines",
    [["Access-Control-Request-Method: POST"], [FROM_APP], []],
    ids=["no origin", "no method asked for", "neither"],
)
async def test_other_options_are_forwarded(
    gate: StartGate, upstream: Upstream, lines: list[str]
) -> None:
    upstream.reply = response(b"theirs")
    got = await (await gate(**LISTED)).request(request("OPTIONS", "/v1/models", *lines))
    assert got.body == b"theirs"


# What a page may read.


async def test_answer_is_shared_and_upstreams_own_word_on_it_replaced(
    gate: StartGate, upstream: Upstream
) -> None:
    lines = [
        "Access-Control-Allow-Origin: *",
        "access-control-expose-headers: x-theirs",
        "Access-Control-Allow-Credentials: true",
        "Vary: Accept-Encoding",
        "Vary: Accept",
        "x-request-id: req_1",
    ]
    upstream.reply = response(b"{}", *lines)
    got = await (await gate(**LISTED)).request(chat(FROM_APP))
    assert_shared(got.head)
    assert got.head.all("vary") == ["Accept-Encoding", "Accept", "Origin"]
    assert got.head["x-request-id"] == "req_1"
    assert "origin" not in upstream.calls[0].head


async def test_vary_that_names_the_origin_is_left_alone(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response(b"{}", "Vary: Origin")
    got = await (await gate(**LISTED)).request(chat(FROM_APP))
    assert got.head.all("vary") == ["Origin"]


async def test_stream_is_shared(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate(**LISTED)).send(chat(FROM_APP, stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM)
    assert_shared(await client.head())
    call.send(chunk(b"data: 1\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: 1\n\n"


@pytest.mark.parametrize(
    ("settings", "asked", "status"),
    [
        ({"RATE_LIMIT_TIMEOUT": 0, "CONCURRENCY_LIMIT": 1, "QUEUE_LIMIT": 0}, chat(FROM_APP), 429),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "UPSTREAM_RETRIES": 0}, chat(FROM_APP), 502),
        ({"MAX_BODY_SIZE": 1}, chat(FROM_APP), 413),
        ({}, get("/nothing", FROM_APP), 404),
        ({}, get("/v1/../x", FROM_APP), 400),
        ({}, request("OPTIONS", "*", FROM_APP), 404),
    ],
    ids=["429", "502", "413", "404", "400", "unrouted"],
)
async def test_error_of_the_gate_is_shared(
    gate: StartGate,
    upstream: Upstream,
    settings: dict[str, object],
    asked: bytes,
    status: int,
) -> None:
    running = await gate(**settings, **LISTED)
    holder = await running.send(chat()) if status == 429 else None
    call = await upstream.call() if holder else None
    got = await running.request(asked)
    assert got.status == status
    assert got.reason is not None
    assert_shared(got.head)
    if holder and call:
        await call.respond(response())
        await holder.response()


async def test_upstreams_error_is_shared(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(b"{}", "retry-after-ms: 5", status="429 Too Many Requests")
    got = await (await gate(**LISTED)).request(chat(FROM_APP))
    assert (got.status, got.head["retry-after-ms"]) == (429, "5")
    assert_shared(got.head)


async def test_page_is_answered_over_and_over_on_one_connection(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response()
    client = await (await gate(**LISTED)).connect()
    assert (await client.request(preflight(FROM_APP))).status == 204
    assert_shared((await client.request(chat(FROM_APP))).head)
    assert "access-control-allow-origin" not in (await client.request(chat())).head
    assert (await client.request(chat("Origin: https://evil.example"))).status == 403
    assert_shared((await client.request(chat(FROM_APP))).head)
