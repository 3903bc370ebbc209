"""Methods and targets are forwarded unchanged."""

import pytest

from tests.conftest import StartGate
from tests.support.http import (
    get,
    request,
    response,
)
from tests.support.upstream import Upstream


def host(upstream: Upstream) -> tuple[str, str]:
    return "host", upstream.url.removeprefix("http://").removesuffix("/v1")


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "QUERY"]
)
async def test_any_method_is_forwarded(gate: StartGate, upstream: Upstream, method: str) -> None:
    upstream.reply = response(b"" if method == "HEAD" else b"{}")
    received = await (await gate()).request(request(method, "/v1/files/f-1"))
    assert received.status == 200
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
async def test_target_is_forwarded_unchanged(
    gate: StartGate, upstream: Upstream, target: str
) -> None:
    upstream.reply = response()
    assert (await (await gate()).request(get(target))).status == 200
    assert upstream.calls[0].target == target


async def test_target_is_appended_to_the_base_url(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate(OPENAI_BASE_URL=upstream.url.replace("/v1", "/openai/deployments/x"))
    await running.request(get("/v1/models?limit=2"))
    assert upstream.calls[0].target == "/openai/deployments/x/models?limit=2"


async def test_absolute_form_is_reduced_to_its_path(gate: StartGate, upstream: Upstream) -> None:
    """RFC 9112, 3.2.2. The client cannot choose the upstream."""
    upstream.reply = response()
    await (await gate()).request(get("http://elsewhere.example/v1/models?a=b"))
    assert upstream.calls[0].target == "/v1/models?a=b"
    assert host(upstream) in upstream.calls[0].head.fields
