"""HTTPS: that it behaves like plain HTTP, and which certificates and keys are accepted."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from rustygate.config import ConfigError, load
from rustygate.downstream import tls_accept
from tests.conftest import StartGate
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import (
    EVENT_STREAM,
    LAST_CHUNK,
    chat,
    chunk,
    get,
    post,
    request,
    response,
    response_head,
)
from tests.support.streams import open_stalled
from tests.support.upstream import Call, Upstream
from tests.support.waiting import SOON_S, soon, within
from tests.support.wire import Wire

MEGABYTE = 1 << 20
FLOOD = 24 * MEGABYTE


@pytest.fixture
def files(authority: Authority) -> dict[str, str]:
    return authority.issue("127.0.0.1")


@pytest.fixture
def client_tls(authority: Authority) -> ssl.SSLContext:
    return authority.client_context()


async def open_stream(gate: Gate, upstream: Upstream, tls: ssl.SSLContext) -> tuple[Client, Call]:
    """A stream whose head and first event the client has received."""
    client = await gate.connect(tls=tls)
    client.send(chat(stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await client.expect_body(b"data: 1\n\n")
    return client, call


def blocking_connection(gate: Gate, tls: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection that tells a TLS close from an end without one (RFC 8446, section 6.1)."""
    address = urlsplit(gate.url)
    sock = socket.create_connection((address.hostname, address.port), SOON_S)
    return tls.wrap_socket(sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False)


def read_until_end(sock: ssl.SSLSocket, request: bytes) -> bytes:
    """Everything received until a TLS close. Raises ConnectionError at an end without one."""
    received = b""
    with sock:
        sock.sendall(request)
        try:
            while piece := sock.recv(65536):
                received += piece
        except ssl.SSLError as error:
            # Python before 3.11.4 has no SSLEOFError for OpenSSL 3's reason.
            if (
                not isinstance(error, ssl.SSLEOFError)
                and error.reason != "UNEXPECTED_EOF_WHILE_READING"
            ):
                raise
            raise ConnectionError from error
    return received


# Serving.


async def test_gate_serves_https(
    gate: StartGate, upstream: Upstream, files: dict[str, str], client_tls: ssl.SSLContext
) -> None:
    upstream.reply = response(b"body")
    running = await gate(**files)
    assert running.url.startswith("https://127.0.0.1:")
    client = await running.connect(tls=client_tls)
    for _ in range(2):
        assert (await client.request(chat())).body == b"body"
    assert [line["client"] for line in await running.settled(2)] == ["127.0.0.1"] * 2


async def test_whole_certificate_chain_is_sent(gate: StartGate, tmp_path: Path) -> None:
    root = trustme.CA()
    issued = root.create_child_ca().issue_cert("127.0.0.1")
    pem = tmp_path / "all.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
    running = await gate(TLS_CERT_FILE=pem, TLS_KEY_FILE=pem)
    client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    root.configure_trust(client_tls)
    assert (await (await running.connect(tls=client_tls)).request(get("/health"))).status == 200


async def test_large_bodies_pass_unchanged(
    gate: StartGate, upstream: Upstream, files: dict[str, str], client_tls: ssl.SSLContext
) -> None:
    body = bytes(range(256)) * 16 * 1024
    client = await (await gate(**files)).connect(tls=client_tls)
    client.send(post(body))
    call = await upstream.call()
    assert await call.read_rest() == body
    await call.respond(response(body))
    assert (await client.response()).body == body


@pytest.mark.parametrize(
    ("version", "negotiated"),
    [(ssl.TLSVersion.TLSv1_1, None), (ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (None, "TLSv1.3")],
)
@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated:DeprecationWarning")
async def test_only_tls_1_2_and_newer_is_accepted(
    gate: StartGate,
    files: dict[str, str],
    client_tls: ssl.SSLContext,
    version: ssl.TLSVersion | None,
    negotiated: str | None,
) -> None:
    running = await gate(**files)
    client_tls.set_ciphers("DEFAULT:@SECLEVEL=0")
    client_tls.set_alpn_protocols(["h2", "http/1.1"])
    if version is not None:
        client_tls.minimum_version = client_tls.maximum_version = version
    if negotiated is None:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await running.connect(tls=client_tls)
        return
    client = await running.connect(tls=client_tls)
    connection = client.wire.transport.get_extra_info("ssl_object")
    assert (connection.version(), connection.selected_alpn_protocol()) == (negotiated, "http/1.1")


async def test_stalled_handshake_is_cut_and_delays_no_other_client(
    gate: StartGate,
    files: dict[str, str],
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = await gate(**files)
    waiting = [await running.connect() for _ in range(20)]
    assert (await (await running.connect(tls=client_tls)).request(get("/health"))).status == 200
    monkeypatch.setattr(tls_accept, "TLS_TIMEOUT_S", 0.1)
    late = [await running.connect() for _ in range(20)]
    late.append(await running.send(b"\x16\x03\x01\x02\x00\x01"))
    for client in late:
        assert await client.ended() in ("closed", "reset")
    assert not any(client.wire.end for client in waiting)


async def test_stalled_handshake_does_not_delay_the_drain(
    gate: StartGate, files: dict[str, str]
) -> None:
    running = await gate(**files)
    silent = await running.connect()
    async with soon():
        await running.daemon.drain()
    silent.disconnect()


@pytest.mark.parametrize("sent", [b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 100])
async def test_connection_without_tls_is_cut(
    gate: StartGate, files: dict[str, str], sent: bytes
) -> None:
    running = await gate(**files)
    client = await running.send(sent)
    assert await client.ended() in ("closed", "reset")
    assert b"HTTP" not in client.wire.received


# Complete and cut responses.


async def test_complete_response_ends_with_a_tls_close(
    gate: StartGate, upstream: Upstream, files: dict[str, str], client_tls: ssl.SSLContext
) -> None:
    upstream.reply = response_head("Transfer-Encoding: chunked") + chunk(b"all of it") + LAST_CHUNK
    running = await gate(**files)
    sent = b"GET /v1/x HTTP/1.0\r\nHost: gate\r\n\r\n"
    sock = await asyncio.to_thread(blocking_connection, running, client_tls)
    assert (await asyncio.to_thread(read_until_end, sock, sent)).endswith(b"all of it")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_cut_response_ends_without_a_tls_close(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    client_tls: ssl.SSLContext,
    version: bytes,
) -> None:
    running = await gate(**files)
    sent = b"GET /v1/x HTTP/%b\r\nHost: gate\r\n\r\n" % version
    sock = await asyncio.to_thread(blocking_connection, running, client_tls)
    reading = asyncio.create_task(asyncio.to_thread(read_until_end, sock, sent))
    call = await upstream.call()
    call.send(response_head("Transfer-Encoding: chunked"), chunk(b"part"))
    await running.wait_until(in_flight=1)
    call.close()
    with pytest.raises(ConnectionError):
        await reading


async def test_slow_client_receives_the_error_event_of_a_cut_stream(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bytes buffered before the cut and the error event are still sent, without a delay."""
    monkeypatch.setattr("rustygate.relay.abort.FLUSH_TIMEOUT_S", 3600)
    running = await gate(SSE_CHANNEL_CAPACITY=100_000, **files)
    client, call = await open_stalled(running, upstream, client_tls)
    body = b"data: %b\n\n" % (b"x" * 8 * MEGABYTE)
    await call.wire.send_all(chunk(body))
    call.close()
    for _ in range(10):
        await (await running.connect(tls=client_tls)).request(get("/health"))
    client.wire.resume_reading()
    event = (await client.read_until_cut()).removeprefix(body)
    assert event.startswith(b'data: {"error": ')
    assert event.endswith(b"\n\n")


async def test_client_that_stops_reading_is_cut_after_the_timeout(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rustygate.relay.abort.FLUSH_TIMEOUT_S", 0.1)
    running = await gate(SSE_CHANNEL_CAPACITY=100_000, **files)
    _, call = await open_stalled(running, upstream, client_tls)
    await call.wire.send_all(chunk(b"x" * 16 * MEGABYTE))
    call.close()
    assert (await running.settled())[0]["outcome"] == "aborted"


@pytest.mark.parametrize("disconnect", [Client.disconnect, Client.reset])
async def test_disconnect_is_noticed_within_a_second(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    client_tls: ssl.SSLContext,
    disconnect: Callable[[Client], None],
) -> None:
    running = await gate(**files)
    client, call = await open_stream(running, upstream, client_tls)
    disconnect(client)
    await running.wait_until(in_flight=0)
    await call.ended()
    assert (await running.settled())[0]["outcome"] == "client_left"


@pytest.mark.parametrize("disconnect", [Client.disconnect, Client.reset, lambda c: c.wire.close()])
async def test_disconnect_of_a_queued_upload_is_noticed_within_a_second(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    client_tls: ssl.SSLContext,
    disconnect: Callable[[Client], None],
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1, MAX_BUFFERED_BODY=0, **files)
    await open_stream(running, upstream, client_tls)
    client = await running.connect(tls=client_tls)
    lines = ["Content-Type: multipart/form-data; boundary=x", f"Content-Length: {MEGABYTE}"]
    client.send(request("POST", "/v1/files", *lines), b"x" * (MEGABYTE // 2))
    await running.wait_until(waiters=1)
    disconnect(client)
    await running.wait_until(waiters=0)


# Backpressure.


async def send_until_stalled(wire: Wire) -> int:
    """The number of bytes accepted until the connection stalls, at most FLOOD."""
    piece, sent = chunk(b"x" * (64 << 10)), 0
    while sent < FLOOD:
        try:
            async with within(0.3):
                await wire.send_all(piece)
        except TimeoutError:
            break
        sent += 64 << 10
    return sent


@pytest.mark.parametrize("size", [1, 1024], ids=["smallest", "default"])
async def test_client_that_does_not_read_pauses_upstream(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    client_tls: ssl.SSLContext,
    size: int,
) -> None:
    running = await gate(SSE_BUFFER_CAPACITY=size, SSE_CHANNEL_CAPACITY=size, **files)
    client, call = await open_stalled(running, upstream, client_tls)
    sent = await send_until_stalled(call.wire)
    assert sent < 12 * MEGABYTE
    client.wire.resume_reading()
    call.send(LAST_CHUNK)
    assert len(await client.read_rest()) >= sent


async def test_stream_flows_with_the_smallest_capacity(
    gate: StartGate, upstream: Upstream, files: dict[str, str], client_tls: ssl.SSLContext
) -> None:
    running = await gate(SSE_BUFFER_CAPACITY=1, SSE_CHANNEL_CAPACITY=1, **files)
    client, call = await open_stream(running, upstream, client_tls)
    for number in range(20):
        call.send(chunk(b"data: %d\n\n" % number))
        await client.expect_body(b"data: %d\n\n" % number)
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


# Certificates and keys.


def problems(**settings: object) -> list[str]:
    given = {name: str(value) for name, value in settings.items()}
    with pytest.raises(ConfigError) as caught:
        load({"OPENAI_API_KEY": "sk-x"} | given)
    return caught.value.problems


@pytest.mark.parametrize("name", ["TLS_CERT_FILE", "TLS_KEY_FILE"])
def test_certificate_and_key_must_be_set_together(files: dict[str, str], name: str) -> None:
    [problem] = problems(**{name: files[name]})
    assert problem.startswith(f"{name}=")
    assert problem.endswith(": expected TLS_CERT_FILE and TLS_KEY_FILE to be set together")


def test_key_of_another_certificate_is_rejected(authority: Authority) -> None:
    one, other = authority.issue("one.example"), authority.issue("other.example")
    [problem] = problems(**one | {"TLS_KEY_FILE": other["TLS_KEY_FILE"]})
    assert problem.startswith("TLS_KEY_FILE=")
    assert problem.endswith(
        ": expected the key of TLS_CERT_FILE's certificate, not encrypted (key values mismatch)"
    )


def test_encrypted_key_is_rejected_without_a_password_prompt(
    files: dict[str, str], tmp_path: Path
) -> None:
    key = load_pem_private_key(Path(files["TLS_KEY_FILE"]).read_bytes(), None)
    hidden = BestAvailableEncryption(b"password")
    file = tmp_path / "encrypted"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden))
    [problem] = problems(**files | {"TLS_KEY_FILE": str(file)})
    assert "not encrypted" in problem


@pytest.mark.parametrize(
    ("name", "missing", "what"),
    [
        ("TLS_CERT_FILE", "no certificate in it", "a certificate"),
        ("TLS_KEY_FILE", "no private key in it", "a key"),
    ],
)
@pytest.mark.parametrize("kind", ["empty", "missing", "directory", "endless"])
def test_unusable_file_is_rejected(
    files: dict[str, str], tmp_path: Path, name: str, missing: str, what: str, kind: str
) -> None:
    file, reason = tmp_path / "file", "not a regular file"
    match kind:
        case "empty":
            file.touch()
            reason = missing
        case "missing":
            reason = "No such file or directory"
        case "directory":
            file.mkdir()
        case _:
            file = Path("/dev/zero")
    [problem] = problems(**files | {name: str(file)})
    assert problem.startswith(f"{name}=")
    assert problem.endswith(f": expected the path of a PEM file with {what} ({reason})")


def test_malformed_pem_file_is_rejected(files: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n")
    [problem] = problems(TLS_CERT_FILE=file, TLS_KEY_FILE=file)
    assert problem.endswith("(bad format)")


def test_unix_socket_with_a_certificate_is_rejected(files: dict[str, str]) -> None:
    [problem] = problems(BIND_ADDRESS="unix:/run/gate.sock", **files)
    assert problem.startswith("TLS_CERT_FILE=")
    assert problem.endswith(": expected a BIND_ADDRESS other than a unix socket")
