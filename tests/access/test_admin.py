"""Pages about the gate itself: who sees them with `ADMIN_KEY`, and who without."""

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
OPEN = ["/health", "/ready"]


def basic(user: str, password: str) -> str:
    return f"Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def other_address() -> str | None:
    """An address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return address


# Without a key.


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080"]
)
async def test_this_machine_sees_them(gate: StartGate, host: str) -> None:
    got = await (await gate()).request(scrape_request(host=host))
    assert (got.status, got.head["content-type"][:10]) == (200, "text/plain")


@pytest.mark.parametrize(
    "host",
    [
        *("gate", "evil.example", "localhost.evil.example", "evil.example:80", "127.0.0.1.nip.io"),
        *("localhost:80@evil", "localhost:x", "127.0.0.2", "0.0.0.0", "::1", "[::1", ""),
    ],
)
async def test_page_by_a_name_of_its_own_does_not(gate: StartGate, host: str) -> None:
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
        "Host: evil",
    ],
)
async def test_what_was_passed_on_is_not_from_here(gate: StartGate, line: str) -> None:
    assert (await (await gate()).request(scrape_request(line))).status in {400, 403}


async def test_other_machine_does_not(gate: StartGate) -> None:
    address = other_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    running = await gate(BIND_ADDRESS="0.0.0.0")
    wire = await Wire.connect(running.url.replace("0.0.0.0", address))
    wire.send(scrape_request())
    assert (await wire.read_until(b"\r\n")).split()[1] == b"403"
    wire.close()


@pytest.mark.parametrize("host", ["localhost", "gate", "evil.example"])
async def test_unix_socket_sees_them_by_any_name(
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
def test_peer_on_loopback(peer: str, loopback: bool) -> None:
    assert is_loopback(peer) is loopback


# With a key.


@pytest.mark.parametrize(
    "line",
    [
        f"Authorization: Bearer {KEY}",
        f"authorization: bearer   {KEY}",
        basic("", KEY),
        basic("prometheus", KEY),
    ],
)
async def test_key_shows_them_whoever_asks(gate: StartGate, line: str) -> None:
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
async def test_nothing_else_does(gate: StartGate, lines: list[str]) -> None:
    running = await gate(ADMIN_KEY=KEY)
    got = await running.request(scrape_request(*lines))
    assert (got.status, got.reason) == (401, "invalid_admin_key")
    assert got.error["type"] == "invalid_request_error"
    assert got.head["www-authenticate"].startswith("Basic realm=")
    assert KEY.encode() not in got.head.raw + got.body
    shown = Scrape((await running.request(scrape_request(f"Authorization: Bearer {KEY}"))).body)
    assert shown.sum("rustygate_refusals_total", reason="invalid_admin_key") == 1


# What is no such page.


@pytest.mark.parametrize("settings", [{}, {"ADMIN_KEY": KEY}], ids=["without", "with"])
async def test_health_is_open(gate: StartGate, settings: dict[str, object]) -> None:
    running = await gate(**settings)
    for target in OPEN:
        assert (await running.request(get(target))).status == 200


async def test_admin_key_is_not_asked_of_the_api(gate: StartGate, simulator: str) -> None:
    running = await gate(OPENAI_BASE_URL=simulator, ADMIN_KEY=KEY)
    assert (await running.request(chat())).status == 200


@pytest.mark.parametrize("target", ["/metrics/", "/metrics/x", "/Metrics", "//metrics"])
async def test_only_the_page_itself_is_there(gate: StartGate, target: str) -> None:
    assert (await (await gate()).request(scrape_request(target=target))).status == 404


async def test_page_about_the_gate_is_told_without_its_body(gate: StartGate) -> None:
    got = await (await gate()).request(scrape_request().replace(b"GET", b"HEAD"))
    assert (got.status, got.body) == (200, b"")
