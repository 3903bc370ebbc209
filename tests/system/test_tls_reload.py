"""The server's certificate is read again on SIGHUP."""

import os
import signal
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.processes import serve
from tests.conftest import Start, StartGate
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import get
from tests.support.process import PROCESS_TIMEOUT_S


def reload(gate: Gate) -> str | None:
    assert gate.daemon.certificate is not None
    return gate.daemon.certificate.reload()


def serial_number(client: Client) -> str:
    """That of the certificate which the gate showed to this client."""
    shown = client.wire.transport.get_extra_info("ssl_object").getpeercert()
    return str(shown["serialNumber"])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_new_connections_get_the_new_certificate_and_others_keep_theirs(
    gate: StartGate, authority: Authority, version: ssl.TLSVersion
) -> None:
    running = await gate(**authority.issue("127.0.0.1"))
    tls = authority.client_context()
    tls.minimum_version = tls.maximum_version = version
    before = await running.connect(tls=tls)
    assert (await before.request(get("/health"))).status == 200
    authority.issue("127.0.0.1")
    assert serial_number(await running.connect(tls=tls)) == serial_number(before)
    assert reload(running) is None
    after = await running.connect(tls=tls)
    assert serial_number(after) != serial_number(before)
    for client in before, after:
        assert (await client.request(get("/health"))).status == 200


def damage(authority: Authority, files: dict[str, str], how: str) -> None:
    cert, key = Path(files["TLS_CERT_FILE"]), Path(files["TLS_KEY_FILE"])
    certificate = cert.read_bytes()
    match how:
        case "other key":
            authority.issue("127.0.0.1")
            cert.write_bytes(certificate)
        case "no key":
            key.write_bytes(certificate)
        case "no file":
            key.unlink()
        case "pipe":
            key.unlink()
            os.mkfifo(key)
        case _:
            cert.write_bytes(b"garbage")


def repair(authority: Authority, files: dict[str, str]) -> None:
    Path(files["TLS_KEY_FILE"]).unlink(missing_ok=True)
    authority.issue("127.0.0.1")


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("other key", "CERT and KEY: key values mismatch"),
        ("no key", "KEY: no private key in it"),
        ("no file", "KEY: No such file or directory"),
        ("pipe", "KEY: not a regular file"),
        ("garbage", "CERT: no certificate in it"),
    ],
)
async def test_bad_pair_changes_nothing(
    gate: StartGate, authority: Authority, how: str, problem: str
) -> None:
    files, tls = authority.issue("127.0.0.1"), authority.client_context()
    running = await gate(**files)
    before = serial_number(await running.connect(tls=tls))
    damage(authority, files, how)
    for name in "CERT", "KEY":
        problem = problem.replace(name, files[f"TLS_{name}_FILE"])
    assert reload(running) == problem
    for _ in range(2):
        client = await running.connect(tls=tls)
        assert serial_number(client) == before
        assert (await client.request(get("/health"))).status == 200
    repair(authority, files)
    assert reload(running) is None
    assert serial_number(await running.connect(tls=tls)) != before


def shown_by(url: str, tls: ssl.SSLContext) -> object:
    address = urlsplit(url)
    assert address.hostname
    with (
        socket.create_connection((address.hostname, address.port or 0), PROCESS_TIMEOUT_S) as sock,
        tls.wrap_socket(sock, server_hostname=address.hostname) as secure,
    ):
        shown = secure.getpeercert()
        assert shown is not None
        return shown["serialNumber"]


def test_sighup_reloads_the_certificate_and_logs_it(start: Start, authority: Authority) -> None:
    files, tls = authority.issue("127.0.0.1"), authority.client_context()
    gate = serve(start, None, **files)
    url = gate.listening_url()
    before = shown_by(url, tls)
    authority.issue("127.0.0.1")
    gate.signal(signal.SIGHUP)
    gate.wait_for_line(gate.stderr, r"TLS certificate reloaded: .*127\.0\.0\.1\.pem")
    after = shown_by(url, tls)
    assert after != before
    Path(files["TLS_KEY_FILE"]).write_bytes(b"garbage")
    gate.signal(signal.SIGHUP)
    gate.wait_for_line(gate.stderr, "previous TLS certificate stays in force")
    assert shown_by(url, tls) == after
    gate.signal()
    assert gate.exit_code() == 0
