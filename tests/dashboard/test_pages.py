"""The pages under /gate: who may see them, and with which headers they are sent."""

from importlib.resources import files

import pytest

from rustygate.dashboard.static_files import static_pages
from rustygate.telemetry.log import LINES
from tests.conftest import StartGate
from tests.support.dashboard import get_page, page_request
from tests.support.http import get

KEY = "admin-canary-77d1"

FILES = [path for path, _ in static_pages("/gate")]
PAGES = [*FILES, "/gate/state", "/gate/events", "/gate/usage", "/gate/budgets"]

POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "form-action 'none'",
}


def test_page_itself_is_among_the_static_files() -> None:
    assert "/gate" in FILES
    assert "/gate/index.html" not in FILES


@pytest.mark.parametrize("target", PAGES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_every_page_carries_the_security_headers(
    gate: StartGate, target: str, method: str
) -> None:
    client = await (await gate()).send(page_request(target, method=method))
    head = await client.head(bodiless=method == "HEAD")
    assert head.status == 200
    assert set(head["content-security-policy"].split("; ")) == POLICY
    assert head["x-content-type-options"] == "nosniff"
    assert head["referrer-policy"] == "no-referrer"
    assert head["cross-origin-resource-policy"] == "same-origin"
    assert len(head.all("x-rustygate-id")) == 1
    assert "server" not in head
    assert head["cache-control"] == ("no-cache" if target in FILES else "no-store")


@pytest.mark.parametrize(
    ("target", "content_type"),
    [
        ("/gate", "text/html; charset=utf-8"),
        ("/gate/state", "application/json; charset=utf-8"),
        ("/gate/events", "text/event-stream"),
        ("/gate/usage", "application/json; charset=utf-8"),
    ],
)
async def test_page_has_its_content_type(gate: StartGate, target: str, content_type: str) -> None:
    client = await (await gate()).send(page_request(target))
    assert (await client.head())["content-type"] == content_type


@pytest.mark.parametrize("target", FILES)
async def test_static_file_is_not_sent_again_if_the_copy_is_current(
    gate: StartGate, target: str
) -> None:
    running = await gate()
    first = await get_page(running, target)
    etag = first.head["etag"]
    assert first.status == 200
    assert first.body
    for known in (etag, f'"other", {etag}', "*"):
        again = await get_page(running, target, f"If-None-Match: {known}")
        assert (again.status, again.body, again.head["etag"]) == (304, b"", etag)
    other = await get_page(running, target, f'If-None-Match: {etag[:-2]}"')
    assert (other.status, other.body) == (200, first.body)


async def test_static_files_are_small_enough() -> None:
    sizes = [
        len(f.read_bytes()) for f in files("rustygate.dashboard").joinpath("static").iterdir()
    ]
    assert sum(sizes) <= 60 * 1024


# The admin rule.


@pytest.mark.parametrize("target", PAGES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
async def test_without_the_key_nothing_is_shown(gate: StartGate, target: str, method: str) -> None:
    running = await gate(ADMIN_KEY=KEY)
    got = await get_page(running, target, method=method)
    assert (got.status, got.reason) == (401, "invalid_admin_key")
    assert "content-security-policy" not in got.head
    assert "allow" not in got.head


@pytest.mark.parametrize("target", PAGES)
async def test_with_the_key_the_page_is_served_to_anyone(gate: StartGate, target: str) -> None:
    running = await gate(ADMIN_KEY=KEY)
    line = f"Authorization: Bearer {KEY}"
    client = await running.send(page_request(target, line, host="gate.example.org"))
    assert (await client.head()).status == 200
    assert KEY not in running.log.text


@pytest.mark.parametrize("target", PAGES)
async def test_page_is_not_served_through_a_proxy_or_another_name(
    gate: StartGate, target: str
) -> None:
    running = await gate()
    forwarded = await get_page(running, target, "X-Forwarded-For: 192.0.2.7")
    rebound = await running.request(page_request(target, host="evil.example"))
    assert [(got.status, got.reason) for got in (forwarded, rebound)] == [(403, "admin_only")] * 2


# Methods, paths and other origins.


@pytest.mark.parametrize("target", PAGES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_page_is_only_read(gate: StartGate, target: str, method: str) -> None:
    got = await get_page(await gate(), target, method=method)
    assert (got.status, got.reason) == (405, "method_not_allowed")
    assert got.head["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "target", ["/gate/", "/gate/x", "/gate/index.html", "/Gate", "/gate/../x"]
)
async def test_other_path_is_not_found(gate: StartGate, target: str) -> None:
    got = await get_page(await gate(), target)
    assert got.status in {400, 404}


@pytest.mark.parametrize("target", PAGES)
@pytest.mark.parametrize("allowed", ["*", "https://app.example"])
async def test_no_other_site_may_read_a_page(gate: StartGate, target: str, allowed: str) -> None:
    running = await gate(CORS_ALLOW_ORIGINS=allowed)
    lines = ("Origin: https://app.example", "Access-Control-Request-Method: GET")
    for method in ("GET", "OPTIONS"):
        client = await running.send(page_request(target, *lines, method=method))
        head = await client.head()
        assert head.status == (200 if method == "GET" else 405)
        assert not [name for name, _ in head.fields if name.startswith("access-control-")]


async def test_pages_are_no_exchanges(gate: StartGate) -> None:
    running = await gate()
    for target in FILES:
        assert (await running.request(get(target))).status in {200, 403}
    assert running.log.exchanges == []
    assert LINES not in running.log.text
