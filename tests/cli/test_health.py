"""`rustygate health`: which gate it reaches, and how it reports that none responds."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rustygate.cli import main
from tests.cli.processes import serve
from tests.conftest import Start
from tests.support.upstream import loopback_socket


def test_health_needs_no_key_and_no_proxy(start: Start) -> None:
    url = serve(start).listening_url()
    nowhere = "http://127.0.0.1:9"
    port = str(urlsplit(url).port)
    for base_url in ([], [url], [f"{url}/"], [f"{url}/v1"]):
        health = start("health", *base_url, PORT=port, http_proxy=nowhere, HTTP_PROXY=nowhere)
        assert health.ended() == (0, "OK\n", "")


def test_health_does_not_look_at_redis(start: Start) -> None:
    port = serve(start).listening_url().rpartition(":")[2]
    for given in ({"REDIS_URL": "redis://127.0.0.1:1"}, {"REDIS_URL_FILE": "/missing"}):
        assert start("health", PORT=port, **given).ended() == (0, "OK\n", "")


def test_health_uses_loopback_when_the_gate_listens_on_all_addresses(start: Start) -> None:
    port = str(urlsplit(serve(start).listening_url()).port)
    assert start("health", PORT=port, BIND_ADDRESS="0.0.0.0").ended() == (0, "OK\n", "")


def test_health_uses_the_unix_socket(start: Start, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/gate.sock"
    serve(start, BIND_ADDRESS=address).listening_url()
    assert start("health", BIND_ADDRESS=address).ended() == (0, "OK\n", "")


def test_health_fails_without_a_unix_socket(start: Start, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/gate.sock"
    expected = f"rustygate: {address} does not respond: No such file or directory\n"
    assert start("health", BIND_ADDRESS=address).ended() == (1, "", expected)


def test_health_fails_when_the_port_is_closed(start: Start) -> None:
    # Bound, so that nobody else gets the port, and not listening.
    with loopback_socket() as bound:
        port = str(bound.getsockname()[1])
        expected = f"rustygate: http://127.0.0.1:{port} does not respond: Connection refused\n"
        assert start("health", PORT=port).ended() == (1, "", expected)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "responds to /health with status 503"),
        (b"SSH-2.0\r\n", "does not respond: BadStatusLine"),
        (b"", "does not respond: RemoteDisconnected"),
    ],
    ids=["503", "other protocol", "closed"],
)
def test_health_fails_on_any_other_response(
    start: Start, upstream: socket.socket, response: bytes, error: str
) -> None:
    url = f"http://127.0.0.1:{upstream.getsockname()[1]}"
    health = start("health", url)
    accepted, _ = upstream.accept()
    with accepted:
        assert accepted.recv(65536).startswith(b"GET /health HTTP/1.1\r\n")
        accepted.sendall(response)
    assert health.ended() == (1, "", f"rustygate: {url} {error}\n")


@pytest.mark.parametrize(
    "base_url",
    [
        "localhost:8080",
        "ftp://localhost",
        "http://",
        "http://h:x",
        "http://h i",
        "http://h/a b",
        "http://h/\x01",
    ],
)
def test_health_rejects_a_bad_url_as_bad_usage(
    base_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health", base_url]) == 2
    assert "expected a base URL such as http://localhost:8080" in capsys.readouterr().err
