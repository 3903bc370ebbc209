"""Statuses and most response headers are forwarded unchanged; a few are dropped or added."""

import pytest

from tests.conftest import StartGate
from tests.support.http import (
    chat,
    get,
    response,
)
from tests.support.upstream import Call, Upstream

# What the gate adds to each response.
ADDED = {
    "x-rustygate-id", "x-rustygate-queued-ms", "x-rustygate-attempts", "server-timing", "date",
}  # fmt: skip


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
async def test_upstream_response_is_forwarded_unchanged(
    gate: StartGate, upstream: Upstream, status: str
) -> None:
    body = b'{"error":  {"message": "\xc3\xa4", "code": "own"}}'
    upstream.reply = response(body, "Content-Type: application/json", "x-own: 1", status=status)
    received = await (await gate()).request(chat())
    assert received.head.start == f"HTTP/1.1 {status}"
    assert (received.body, received.head["x-own"], received.reason) == (body, "1", None)
    assert received.head["content-type"] == "application/json"
    assert len(upstream.calls) == 1


async def test_response_headers_are_forwarded_unchanged(
    gate: StartGate, upstream: Upstream
) -> None:
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
    added = ADDED - {"date", "server-timing"} | {"content-length"}
    forwarded = [field for field in head.fields if field[0] not in added]
    timing = [f for f in forwarded if f[0] == "server-timing" and f not in expected]
    assert len(timing) == 1
    assert sorted(forwarded) == sorted([*expected, *timing])
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
async def test_response_header_is_not_forwarded(
    gate: StartGate, upstream: Upstream, line: str
) -> None:
    upstream.reply = response(b"{}", line, "X-Hop: 1", "X-Kept: 1")
    head = (await (await gate()).request(get())).head
    names = {name for name, _ in head.fields} - ADDED - {"x-hop"}
    assert names == {"content-length", "x-kept"}
    assert ("x-hop" in head) == (line != "Connection: X-Hop")


async def test_gate_adds_only_its_own_headers(gate: StartGate, upstream: Upstream) -> None:
    theirs = ("X-RustyGate-Id: theirs", "X-RustyGate-Attempts: 9")
    upstream.reply = response(b"{}", *theirs, "X-RustyGate-Budget-Remaining: usd_per_day=5")
    running = await gate()
    head = (await running.request(get())).head
    assert head["x-rustygate-attempts"] == "1"
    assert head["x-rustygate-queued-ms"] == "0"
    assert "x-rustygate-budget-remaining" not in head
    assert head["x-rustygate-id"] == (await running.settled())[0]["id"]
    queue, upstreams = head["server-timing"].split(", ")
    assert queue.startswith("queue;dur=")
    assert upstreams.startswith("upstream;dur=")
    assert {name for name, _ in head.fields} == ADDED | {"content-length"}


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_redirect_is_forwarded(gate: StartGate, upstream: Upstream, status: str) -> None:
    location = "Location: https://elsewhere.example/v1/x?y#z"
    upstream.reply = response(b"", location, status=status)
    received = await (await gate()).request(get())
    assert (received.head.start, received.head["location"]) == (
        f"HTTP/1.1 {status}",
        location[10:],
    )
    assert len(upstream.calls) == 1


async def test_cookies_are_not_kept(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(b"{}", "Set-Cookie: a=b; path=/")
    running = await gate()
    await running.request(get())
    await running.request(get())
    assert "cookie" not in upstream.calls[1].head


@pytest.mark.parametrize("name", ["Location", "content-location"])
@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("{base}/files/f?a=b", "/v1/files/f?a=b"),
        ("/v1/files/f", "/v1/files/f"),
        ("/admin", "/admin"),
        ("https://elsewhere.example/v1/x", "https://elsewhere.example/v1/x"),
    ],
)
async def test_location_leads_back_to_the_gate(
    gate: StartGate, upstream: Upstream, name: str, sent: str, received: str
) -> None:
    line = f"{name}: {sent.format(base=upstream.url)}"
    upstream.reply = response(b"{}", line, "X-After: 1", status="201 Created")
    head = (await (await gate()).request(get())).head
    assert (head[name], head["x-after"]) == (received, "1")


async def test_upstreams_request_id_is_logged(gate: StartGate, upstream: Upstream) -> None:
    ids = iter(["req_1", "x" * 1000])

    def reply(call: Call) -> bytes:
        return response(b"{}", f"X-Request-ID: {next(ids)}")

    upstream.reply = reply
    running = await gate()
    for _ in range(2):
        await running.request(get())
    upstream.reply = response()
    await running.request(get())
    logged = [line["request_id"] for line in await running.settled(3)]
    assert logged == ["req_1", "x" * 128, None]
