"""Proxies on the way to upstream, and the certificates that the gate trusts."""

import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from tests.conftest import StartGate
from tests.support.certificates import Authority
from tests.support.gate import WORKERS
from tests.support.http import (
    EVENT_STREAM,
    LAST_CHUNK,
    UPSTREAM_KEY,
    chat,
    chunk,
    get,
    post,
    response,
)
from tests.support.proxy import CONNECTED, Proxy
from tests.support.upstream import Upstream

HTTPS = "https://upstream.test/v1"
HTTP = "http://upstream.test/v1"
PASSWORD = "p%40ss-canary"
CREDENTIALS = "Basic bWU6cEBzcy1jYW5hcnk="


@pytest.fixture
async def secure(_no_task_left: None, authority: Authority) -> AsyncIterator[Upstream]:
    """An upstream with TLS, whose certificate is for `upstream.test` and for its address."""
    upstream = Upstream()
    await upstream.start(authority.server_context("upstream.test", "127.0.0.1"))
    yield upstream
    await upstream.stop()


@pytest.fixture
async def proxy(_no_task_left: None) -> AsyncIterator[Proxy]:
    """A proxy that does not listen until a test starts it."""
    proxy = Proxy()
    yield proxy
    await proxy.stop()


def settings_for(proxy: Proxy, authority: Authority, credentials: str = "") -> dict[str, str]:
    """Settings for an upstream with TLS whose name only the proxy can resolve."""
    return {
        "OPENAI_BASE_URL": HTTPS,
        "HTTPS_PROXY": f"http://{credentials}{proxy.address}",
        "SSL_CERT_FILE": str(authority.file),
    }


# Proxies.


async def test_tunnel_reaches_an_upstream_with_tls(
    gate: StartGate, secure: Upstream, proxy: Proxy, authority: Authority
) -> None:
    await proxy.start(secure.port)
    secure.reply = response(b"body")
    running = await gate(**settings_for(proxy, authority))
    for _ in range(2):
        assert (await running.request(chat())).body == b"body"
    [head] = proxy.heads
    assert head.start == "CONNECT upstream.test:443 HTTP/1.1"
    assert "proxy-authorization" not in head
    assert UPSTREAM_KEY not in head.raw.decode()
    assert secure.calls[0].head["host"] == "upstream.test"
    assert secure.calls[0].head["authorization"] == f"Bearer {UPSTREAM_KEY}"


async def test_tunnel_through_a_proxy_with_tls(
    gate: StartGate, secure: Upstream, proxy: Proxy, authority: Authority
) -> None:
    await proxy.start(secure.port, authority.server_context("127.0.0.1"))
    secure.reply = response(b"body")
    settings = settings_for(proxy, authority) | {"HTTPS_PROXY": f"https://{proxy.address}"}
    assert (await (await gate(**settings)).request(chat())).body == b"body"
    assert proxy.heads[0].start == "CONNECT upstream.test:443 HTTP/1.1"


async def test_streams_and_bodies_pass_through_the_tunnel(
    gate: StartGate, secure: Upstream, proxy: Proxy, authority: Authority
) -> None:
    await proxy.start(secure.port)
    running = await gate(**settings_for(proxy, authority))
    body = bytes(range(256)) * 4096
    client = await running.send(post(body))
    call = await secure.call()
    assert await call.read_rest() == body
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await client.expect_body(b"data: 1\n\n")
    call.send(chunk(b"data: 2\n\n"), LAST_CHUNK)
    assert await client.read_rest() == b"data: 2\n\n"


async def test_credentials_are_sent_to_the_proxy_and_not_to_upstream(
    gate: StartGate, secure: Upstream, proxy: Proxy, authority: Authority
) -> None:
    await proxy.start(secure.port)
    secure.reply = response()
    running = await gate(**settings_for(proxy, authority, f"me:{PASSWORD}@"))
    assert (await running.request(chat())).status == 200
    assert proxy.heads[0]["proxy-authorization"] == CREDENTIALS
    assert "proxy-authorization" not in secure.calls[0].head


@pytest.mark.parametrize("target", ["/v1/models?a=%zz&b=[1]", "/v1/a%2Fb%20c", "/v1/x?"])
async def test_upstream_without_tls_is_requested_in_absolute_form(
    gate: StartGate, upstream: Upstream, proxy: Proxy, target: str
) -> None:
    await proxy.start(upstream.port)
    upstream.reply = response(b"body")
    running = await gate(OPENAI_BASE_URL=HTTP, HTTP_PROXY=f"me:{PASSWORD}@{proxy.address}")
    for _ in range(2):
        assert (await running.request(get(target))).body == b"body"
    assert proxy.heads[0].start == f"GET http://upstream.test{target} HTTP/1.1"
    assert proxy.heads[0]["proxy-authorization"] == CREDENTIALS
    assert proxy.heads[0]["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert upstream.calls[0].target == target


async def test_credentials_are_sent_with_each_request_on_a_connection(
    gate: StartGate, upstream: Upstream
) -> None:
    """The proxy and upstream are the same server here."""
    upstream.reply = response()
    address = f"127.0.0.1:{upstream.port}"
    running = await gate(OPENAI_BASE_URL=HTTP, HTTP_PROXY=f"http://me:{PASSWORD}@{address}")
    for _ in range(2):
        await running.request(get())
    assert [call.head["proxy-authorization"] for call in upstream.calls] == [CREDENTIALS] * 2
    # Each worker has connections of its own.
    assert len(upstream.wires) <= max(1, WORKERS)


@pytest.mark.parametrize(
    "settings",
    [
        {"HTTPS_PROXY": "http://127.0.0.1:1"},
        {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "127.0.0.1"},
        {"http_proxy": "http://127.0.0.1:1", "no_proxy": "*"},
        {},
    ],
    ids=["another scheme", "host in NO_PROXY", "NO_PROXY=*", "no proxy"],
)
async def test_request_goes_directly_to_upstream(
    gate: StartGate,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
) -> None:
    """Only the settings count, not the environment of the process."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:2")
    upstream.reply = response()
    assert (await (await gate(**settings)).request(chat())).status == 200


async def test_netrc_does_not_replace_the_key(
    gate: StartGate,
    secure: Upstream,
    proxy: Proxy,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login canary password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    await proxy.start(secure.port)
    secure.reply = response()
    assert (await (await gate(**settings_for(proxy, authority))).request(chat())).status == 200
    assert secure.calls[0].head["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert "proxy-authorization" not in proxy.heads[0]


# Failures of a proxy that another try to connect would meet again.
PERMANENT = (b"HTTP/1.1 407 No\r\n\r\n", b"HTTP/1.1 403 No\r\n\r\n")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (None, "No connection to upstream, through the proxy at {}: connection refused."),
        (b"HTTP/1.1 407 No\r\n\r\n", "The proxy at {} responded with status 407 instead"),
        (b"HTTP/1.1 403 No\r\n\r\n", "The proxy at {} responded with status 403 instead"),
        (b"HTTP/1.1 502 Bad\r\n\r\n", "The proxy at {} responded with status 502 instead"),
        (b"HTTP/1.1 502 \xff\r\nX: \xff\r\n\r\n", "The proxy at {} "),
        (b"", "The proxy at {} closed the connection or did not speak HTTP."),
        (b"SSH-2.0\r\n\r\n", "The proxy at {} closed the connection or did not speak HTTP."),
        (CONNECTED, "No connection to upstream, through the proxy at {}: "),
        (CONNECTED + b"no TLS\r\n", "No connection to upstream, through the proxy at {}: "),
    ],
    ids=["refused", "407", "403", "502", "not ASCII", "closed", "SSH", "no tunnel", "no TLS"],
)
async def test_failed_proxy_is_named_without_its_credentials(
    gate: StartGate,
    secure: Upstream,
    proxy: Proxy,
    authority: Authority,
    reply: bytes | None,
    message: str,
) -> None:
    if reply is not None:
        proxy.reply = reply
        await proxy.start(secure.port)
    settings = settings_for(proxy, authority, f"me:{PASSWORD}@")
    # On a busy machine, too, this is enough for two tries.
    running = await gate(**settings, UPSTREAM_CONNECT_TIMEOUT=1)
    got = await running.request(chat())
    assert (got.status, got.reason) == (502, "upstream_unreachable")
    assert got.head["x-rustygate-attempts"] == "1"
    assert got.error["message"].startswith(message.format(proxy.address))
    assert ("Tried" in got.error["message"]) == (reply not in PERMANENT)
    assert "canary" not in got.head.raw.decode() + got.body.decode() + running.log.text
    assert secure.calls == []


async def test_proxy_that_requires_credentials_for_http_is_named(
    gate: StartGate, upstream: Upstream, proxy: Proxy
) -> None:
    proxy.reply = response(b"proxy", "Proxy-Authenticate: Basic", status="407 No")
    await proxy.start(upstream.port)
    running = await gate(OPENAI_BASE_URL=HTTP, HTTP_PROXY=f"http://{proxy.address}")
    got = await running.request(chat())
    assert (got.status, got.reason) == (502, "upstream_unreachable")
    assert got.error["message"].startswith(
        f"The proxy at {proxy.address} responded with status 407"
    )
    assert got.head["x-rustygate-attempts"] == "1"


async def test_407_from_upstream_is_passed_on(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(b"upstream", status="407 No")
    got = await (await gate()).request(chat())
    assert (got.status, got.body) == (407, b"upstream")


async def test_silent_proxy_times_out_like_a_connection(
    gate: StartGate, upstream: Upstream
) -> None:
    """An upstream that never responds plays the proxy."""
    address = f"127.0.0.1:{upstream.port}"
    running = await gate(
        OPENAI_BASE_URL=HTTPS,
        HTTPS_PROXY=f"http://{address}",
        UPSTREAM_CONNECT_TIMEOUT=0.2,
        UPSTREAM_RETRIES=0,
    )
    got = await running.request(chat())
    assert (got.status, got.reason) == (502, "upstream_unreachable")
    expected = (
        f"Upstream did not accept a connection within 0.2 s, through the proxy at {address}."
    )
    assert got.error["message"] == expected


# Certificates.


async def test_private_authority_is_trusted(
    gate: StartGate, secure: Upstream, authority: Authority
) -> None:
    secure.reply = response(b"body")
    url = f"https://127.0.0.1:{secure.port}/v1"
    running = await gate(OPENAI_BASE_URL=url, SSL_CERT_FILE=authority.file)
    assert (await running.request(chat())).body == b"body"


async def test_directory_of_authorities_is_trusted(
    gate: StartGate, secure: Upstream, authority: Authority, tmp_path: Path
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    shutil.copy(authority.file, tmp_path)
    subprocess.run([openssl, "rehash", tmp_path], check=True)  # noqa: ASYNC221 - it is short
    secure.reply = response(b"body")
    url = f"https://127.0.0.1:{secure.port}/v1"
    running = await gate(OPENAI_BASE_URL=url, SSL_CERT_DIR=tmp_path)
    assert (await running.request(chat())).body == b"body"


@pytest.mark.parametrize("case", ["unknown authority", "another name", "another authority"])
async def test_wrong_certificate_fails_without_a_retry(
    gate: StartGate, secure: Upstream, authority: Authority, tmp_path: Path, case: str
) -> None:
    url, settings = f"https://127.0.0.1:{secure.port}/v1", {}
    match case:
        case "another name":
            url = url.replace("127.0.0.1", "localhost")
            settings = {"SSL_CERT_FILE": str(authority.file)}
        case "another authority":
            settings = {"SSL_CERT_FILE": str(tmp_path / "other.pem")}
            trustme.CA().cert_pem.write_to_path(settings["SSL_CERT_FILE"])
    got = await (await gate(OPENAI_BASE_URL=url, **settings)).request(chat())
    assert (got.status, got.reason) == (502, "upstream_unreachable")
    assert got.head["x-rustygate-attempts"] == "1"
    assert got.error["message"].startswith("No connection to upstream: ")
    assert "certificate" in got.error["message"]
    assert secure.calls == []
