"""Who may see the pages about the gate, with and without `ADMIN_KEY`."""

import socket
from base64 import b64encode
from pathlib import Path

import pytest

from rustygate.access.admin import is_loopback
from tests.conftest import StartGate
from tests.support.http import chat, get
from tests.support.metrics import Scrape, scrape_request
from tests.support.wire import Wire

KEY = "admin-canary-2f6e:8c"
OPEN_PAGES = ["/health", "/ready"]


def basic(user: str, password: str) -> str:
    return f"Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def other_address() -> str | None:
    """An address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a UDP socket sends nothing.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return address


# Without ADMIN_KEY.


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080"]
)
async def test_page_is_served_to_this_machine(gate: StartGate, host: str) -> None:
    got = await (await gate()).request(scrape_request(host=host))
    assert (got.status, got.head["content-type"][:10]) == (200, "text/plain")


@pytest.mark.parametrize(
    "host",
    [
        *("gate", "evil.example", "localhost.evil.example", "evil.example:80", "127.0.0.1.nip.io"),
        *("localhost:80@evil", "localhost:x", "127.0.0.2", "0.0.0.0", "::1", "[::1", ""),
    ],
)
async def test_page_is_not_served_under_another_host_name(gate: StartGate, host: str) -> None:
    running = await gate()
    got = await running.request(scrape_request(host=host))
    assert got.status in {400, 403}
    if got.status == 403:
        assert (got.reason, got.error["code"]) == ("admin_only", "admin_only")
        assert "ADMIN_KEY" in got.error["message"]
        assert (await Scrape.of(running)).sum("rustygate_refusals_total", reason="admin_only") == 1


@pytest.mark.parametrize(
    "line",
    [
        *("X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.7", "Via: 1.1 proxy"),
        *("x-real-ip: 192.0.2.7", "X-Forwarded-Proto: https", "CF-Connecting-IP: 192.0.2.7"),
        *("CDN-Loop: cdn.example", "Client-Cert: :MIIB:", "X-Forwarded: for=192.0.2.7"),
        *("X-Original-Forwarded-For: 192.0.2.7", "X-Original-Host: gate.example", "CF-Ray: 1"),
        *("X-Cluster-Client-IP: 192.0.2.7", "True-Client-IP: 192.0.2.7", "Client-IP: 192.0.2.7"),
        *("Fastly-Client-IP: 192.0.2.7", "X-Azure-ClientIP: 192.0.2.7", "X-Envoy-Internal: true"),
        *("X-ProxyUser-IP: 192.0.2.7", "X-User-IP: 192.0.2.7", "Client-Cert-Chain: :MIIB:"),
        "Host: evil",
    ],
)
async def test_request_through_a_proxy_is_not_local(gate: StartGate, line: str) -> None:
    assert (await (await gate()).request(scrape_request(line))).status in {400, 403}


async def test_page_is_not_served_to_another_address(gate: StartGate) -> None:
    address = other_address()
    if address is None:
        pytest.skip("this machine only has loopback addresses")
    running = await gate(BIND_ADDRESS="0.0.0.0")
    wire = await Wire.connect(running.url.replace("0.0.0.0", address))
    wire.send(scrape_request())
    assert (await wire.read_until(b"\r\n")).split()[1] == b"403"
    wire.close()


@pytest.mark.parametrize("host", ["localhost", "gate", "evil.example"])
async def test_page_is_served_over_a_unix_socket_under_any_host_name(
    gate: StartGate, tmp_path: Path, host: str
) -> None:
    running = await gate(BIND_ADDRESS=f"unix:{tmp_path}/gate.sock")
    assert (await running.request(scrape_request(host=host))).status == 200
    assert (
        await running.request(scrape_request("X-Forwarded-For: 192.0.2.7", host=host))
    ).status == 403


@pytest.mark.parametrize(
    ("peer", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.7", False),
        ("192.0.2.7", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("2001:db8::1", False),
        ("", False),
        ("local", False),
    ],
)
def test_is_loopback(peer: str, loopback: bool) -> None:
    assert is_loopback(peer) is loopback


# With ADMIN_KEY.


@pytest.mark.parametrize(
    "line",
    [
        f"Authorization: Bearer {KEY}",
        f"authorization: bearer   {KEY}",
        basic("", KEY),
        basic("prometheus", KEY),
    ],
)
async def test_page_is_served_to_any_peer_with_the_key(gate: StartGate, line: str) -> None:
    running = await gate(ADMIN_KEY=KEY)
    got = await running.request(
        scrape_request(line, "X-Forwarded-For: 192.0.2.7", host="gate.example.org")
    )
    assert got.status == 200
    assert KEY not in running.log.text


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Authorization:"],
        ["Authorization: Bearer"],
        ["Authorization: Bearer wrong"],
        [f"Authorization: Bearer {KEY}x"],
        [f"Authorization: Bearer {KEY[:-1]}"],
        [f"Authorization: Token {KEY}"],
        [f"Authorization: {KEY}"],
        ["Authorization: Bearer \xe4\xff"],
        ["Authorization: Basic \xe4"],
        ["Authorization: Basic !"],
        ["Authorization: Basic " + b64encode(KEY.replace(":", "").encode()).decode()],
        [basic(KEY, "")],
        [basic("", "wrong")],
    ],
    ids=ascii,
)
async def test_page_is_not_served_without_the_right_key(gate: StartGate, lines: list[str]) -> None:
    running = await gate(ADMIN_KEY=KEY)
    got = await running.request(scrape_request(*lines))
    assert (got.status, got.reason) == (401, "invalid_admin_key")
    assert got.error["type"] == "invalid_request_error"
    assert got.head["www-authenticate"].startswith("Basic realm=")
    assert KEY.encode() not in got.head.raw + got.body
    shown = Scrape((await running.request(scrape_request(f"Authorization: Bearer {KEY}"))).body)
    assert shown.sum("rustygate_refusals_total", reason="invalid_admin_key") == 1


# Other paths.


@pytest.mark.parametrize("settings", [{}, {"ADMIN_KEY": KEY}], ids=["without", "with"])
async def test_health_and_readiness_need_no_admin_key(
    gate: StartGate, settings: dict[str, object]
) -> None:
    running = await gate(**settings)
    for target in OPEN_PAGES:
        assert (await running.request(get(target))).status == 200


async def test_api_needs_no_admin_key(gate: StartGate, simulator: str) -> None:
    running = await gate(OPENAI_BASE_URL=simulator, ADMIN_KEY=KEY)
    assert (await running.request(chat())).status == 200


@pytest.mark.parametrize("target", ["/metrics/", "/metrics/x", "/Metrics", "//metrics"])
async def test_similar_path_is_not_found(gate: StartGate, target: str) -> None:
    assert (await (await gate()).request(scrape_request(target=target))).status == 404


async def test_head_request_for_a_page_has_no_body(gate: StartGate) -> None:
    got = await (await gate()).request(scrape_request().replace(b"GET", b"HEAD"))
    assert (got.status, got.body) == (200, b"")
