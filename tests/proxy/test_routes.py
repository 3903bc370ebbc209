"""The gate's own routes, and paths that return 404."""

import re
from pathlib import Path

import pytest

from rustygate.dashboard.pages import PREFIX
from rustygate.dashboard.static_files import static_pages
from tests.conftest import StartGate
from tests.support.http import (
    get,
    request,
)
from tests.support.metrics import Scrape
from tests.support.upstream import Upstream


@pytest.mark.parametrize("path", ["/health", "/healthz", "/livez", "/health?x=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_health_is_ok(gate: StartGate, upstream: Upstream, method: str, path: str) -> None:
    received = await (await gate()).request(request(method, path))
    assert (received.status, received.body) == (200, b"OK" if method == "GET" else b"")
    assert received.head["content-type"].startswith("text/plain")
    assert upstream.calls == []


@pytest.mark.parametrize("path", ["/ready", "/readyz"])
async def test_ready_returns_json(gate: StartGate, path: str) -> None:
    received = await (await gate()).request(get(path))
    assert received.status == 200
    assert received.head["content-type"].startswith("application/json")
    assert isinstance(received.json, dict)


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
        "/healthzz",
        "/health/",
        "/ready/x",
        "/v1models",
    ],
)
async def test_other_paths_return_404(gate: StartGate, upstream: Upstream, target: str) -> None:
    received = await (await gate()).request(get(target))
    assert (received.status, received.reason) == (404, "not_found")
    assert received.error["type"] == "invalid_request_error"
    assert upstream.calls == []


@pytest.mark.parametrize(
    "path", ["/health", "/healthz", "/livez", "/ready", "/readyz", "/metrics"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_own_page_takes_only_get_and_head(
    gate: StartGate, upstream: Upstream, method: str, path: str
) -> None:
    running = await gate()
    client = await running.send(request(method, path, body=b"{}"))
    received = await client.response()
    assert (received.status, received.reason) == (405, "method_not_allowed")
    assert received.head["allow"] == "GET, HEAD"
    assert received.error["message"].startswith(f"{path} takes GET and HEAD only")
    assert upstream.calls == []
    head = request("HEAD", path).replace(b"Host: gate", b"Host: localhost")
    assert (await client.request(head)).status == 200
    shown = await Scrape.of(running)
    assert shown.sum("rustygate_refusals_total", reason="method_not_allowed") == 1


async def test_docs_list_every_page_of_the_gate(gate: StartGate) -> None:
    page = Path(__file__).parents[2] / "docs/getting-started.md"
    documented = set(re.findall(r"`(?:GET )?(/[\w/]+)`", page.read_text().split("## Routes")[1]))
    router = (await gate()).daemon._plane._runner.app.router
    paths = {resource.canonical for resource in router.resources()} - {"/{target}"}
    assert documented <= paths
    assert paths - documented == dict(static_pages(PREFIX)).keys() - documented


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_method_is_not_forwarded(gate: StartGate, upstream: Upstream, method: str) -> None:
    client = await (await gate()).send(request(method, "/v1/models"))
    assert (await client.head()).status == 405
    assert upstream.calls == []
