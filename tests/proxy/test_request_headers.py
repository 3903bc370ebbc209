"""Which request headers are forwarded, replaced or dropped."""

import pytest

from tests.conftest import StartGate
from tests.support.http import (
    CLIENT_KEY,
    UPSTREAM_KEY,
    chat,
    get,
    response,
)
from tests.support.upstream import Upstream

KEY_FIELD = ("authorization", f"Bearer {UPSTREAM_KEY}")


def host(upstream: Upstream) -> tuple[str, str]:
    return "host", upstream.url.removeprefix("http://").removesuffix("/v1")


async def test_only_the_key_is_added(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    await (await gate()).request(b"GET /v1/models HTTP/1.1\r\nHost: gate\r\n\r\n")
    assert sorted(upstream.calls[0].head.fields) == [KEY_FIELD, host(upstream)]


async def test_empty_post_adds_at_most_its_length(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    await (await gate()).request(b"POST /v1/x HTTP/1.1\r\nHost: gate\r\nContent-Length: 0\r\n\r\n")
    fields = [("content-length", "0"), *sorted([KEY_FIELD, host(upstream)])]
    assert sorted(upstream.calls[0].head.fields) in (sorted(fields), sorted(fields[1:]))


async def test_headers_are_forwarded_unchanged(gate: StartGate, upstream: Upstream) -> None:
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
    forwarded = [f for f in upstream.calls[0].head.fields if f not in (KEY_FIELD, host(upstream))]
    assert sorted(forwarded) == sorted(expected)
    assert upstream.calls[0].head.all("x-repeated") == ["one", "two, three", "four"]


@pytest.mark.parametrize(
    "line",
    [
        "API-KEY: sk-1",
        "x-api-key: sk-1",
        "X-Goog-Api-Key: sk-1",
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
async def test_header_is_not_forwarded(gate: StartGate, upstream: Upstream, line: str) -> None:
    upstream.reply = response()
    running = await gate(CORS_ALLOW_ORIGINS="*")
    await running.request(get("/v1/models", line, "X-Secret-Hop: 1", "X-Kept: 1"))
    names = {name for name, _ in upstream.calls[0].head.fields} - {"x-secret-hop"}
    assert names == {"host", "authorization", "x-kept"}
    assert ("x-secret-hop" in upstream.calls[0].head) == (line != "Connection: X-Secret-Hop")


async def test_upgrade_is_not_forwarded(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    received = await (await gate()).request(
        get("/v1/models", "Connection: Upgrade", "Upgrade: h2c")
    )
    assert received.status == 200
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
async def test_client_headers_cannot_remove_the_key(
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


async def test_client_organization_overrides_the_configured_one(
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
async def test_accept_encoding_is_limited_to_readable_codings(
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
    received = await (await gate()).request(head + b"X-Odd: " + value + b"\r\n\r\n")
    assert (received.status, received.reason) == (400, "bad_request")
    assert upstream.calls == []
