"""HTTPS: what it takes to serve it, and that it serves as plain HTTP does."""

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
from rustygate.downstream import listener
from tests.conftest import StartGate
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import (
    EVENT_STREAM,
    LAST_CHUNK,
    answer,
    answer_head,
    chat,
    chunk,
    get,
    post,
    request,
)
from tests.support.upstream import Call, Upstream
from tests.support.waiting import SOON_S, soon
from tests.support.wire import Wire

MEGABYTE = 1 << 20
FLOOD = 24 * MEGABYTE


@pytest.fixture
def files(authority: Authority) -> dict[str, str]:
    return authority.issue("127.0.0.1")


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    return authority.trusting()


async def opened(
    gate: Gate, upstream: Upstream, tls: ssl.SSLContext, *, receive_buffer: int | None = None
) -> tuple[Client, Call]:
    """A stream of which the head and the first event have come down."""
    client = await gate.connect(tls=tls, receive_buffer=receive_buffer)
    client.send(chat(stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await client.exactly(b"data: 1\n\n")
    return client, call


def blocking(gate: Gate, tls: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection whose reading tells an end by TLS from one without (RFC 8446, 6.1)."""
    address = urlsplit(gate.url)
    sock = socket.create_connection((address.hostname, address.port), SOON_S)
    return tls.wrap_socket(sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False)


def read_to_its_end(sock: ssl.SSLSocket, asked: bytes) -> bytes:
    """All that comes until the end. Raises OSError if it has not the form of an end."""
    received = b""
    with sock:
        sock.sendall(asked)
        while piece := sock.recv(65536):
            received += piece
    return received


# Serving.


async def test_gate_serves_https(
    gate: StartGate, upstream: Upstream, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    upstream.reply = answer(b"body")
    running = await gate(**files)
    assert running.url.startswith("https://127.0.0.1:")
    client = await running.connect(tls=trusting)
    for _ in range(2):
        assert (await client.ask(chat())).body == b"body"
    assert [line["client"] for line in await running.settled(2)] == ["127.0.0.1"] * 2


async def test_chain_is_sent_whole(gate: StartGate, tmp_path: Path) -> None:
    root = trustme.CA()
    issued = root.create_child_ca().issue_cert("127.0.0.1")
    pem = tmp_path / "all.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
    running = await gate(TLS_CERT_FILE=pem, TLS_KEY_FILE=pem)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    root.configure_trust(trusting)
    assert (await (await running.connect(tls=trusting)).ask(get("/health"))).status == 200


async def test_large_bodies_cross(
    gate: StartGate, upstream: Upstream, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    body = bytes(range(256)) * 16 * 1024
    client = await (await gate(**files)).connect(tls=trusting)
    client.send(post(body))
    call = await upstream.call()
    assert await call.rest() == body
    await call.answer(answer(body))
    assert (await client.answer()).body == body


@pytest.mark.parametrize(
    ("version", "spoken"),
    [(ssl.TLSVersion.TLSv1_1, None), (ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (None, "TLSv1.3")],
)
@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated:DeprecationWarning")
async def test_old_versions_are_not_spoken(
    gate: StartGate,
    files: dict[str, str],
    trusting: ssl.SSLContext,
    version: ssl.TLSVersion | None,
    spoken: str | None,
) -> None:
    running = await gate(**files)
    trusting.set_ciphers("DEFAULT:@SECLEVEL=0")
    trusting.set_alpn_protocols(["h2", "http/1.1"])
    if version is not None:
        trusting.minimum_version = trusting.maximum_version = version
    if spoken is None:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await running.connect(tls=trusting)
        return
    client = await running.connect(tls=trusting)
    connection = client.wire.transport.get_extra_info("ssl_object")
    assert (connection.version(), connection.selected_alpn_protocol()) == (spoken, "http/1.1")


async def test_handshake_that_never_ends_is_cut_and_harms_nobody(
    gate: StartGate,
    files: dict[str, str],
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_TIMEOUT_S", 0.3)
    running = await gate(**files)
    silent = [await running.connect() for _ in range(20)]
    halfway = await running.send(b"\x16\x03\x01\x02\x00\x01")
    assert (await (await running.connect(tls=trusting)).ask(get("/health"))).status == 200
    assert not any(client.wire.end for client in silent)
    for client in [*silent, halfway]:
        assert await client.ended() in ("closed", "reset")


async def test_handshake_does_not_hold_up_the_end(gate: StartGate, files: dict[str, str]) -> None:
    running = await gate(**files)
    silent = await running.connect()
    async with soon():
        await running.daemon.drain()
    silent.leave()


@pytest.mark.parametrize("sent", [get(), b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 100])
async def test_what_is_no_tls_is_cut(gate: StartGate, files: dict[str, str], sent: bytes) -> None:
    running = await gate(**files)
    client = await running.send(sent)
    assert await client.ended() in ("closed", "reset")
    assert b"HTTP" not in client.wire.received


# Ends and breaks.


async def test_end_is_told_by_tls(
    gate: StartGate, upstream: Upstream, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    upstream.reply = answer_head("Transfer-Encoding: chunked") + chunk(b"all of it") + LAST_CHUNK
    running = await gate(**files)
    asked = b"GET /v1/x HTTP/1.0\r\nHost: gate\r\n\r\n"
    sock = await asyncio.to_thread(blocking, running, trusting)
    assert (await asyncio.to_thread(read_to_its_end, sock, asked)).endswith(b"all of it")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_break_is_no_end_by_tls(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    trusting: ssl.SSLContext,
    version: bytes,
) -> None:
    running = await gate(**files)
    asked = b"GET /v1/x HTTP/%b\r\nHost: gate\r\n\r\n" % version
    sock = await asyncio.to_thread(blocking, running, trusting)
    reading = asyncio.create_task(asyncio.to_thread(read_to_its_end, sock, asked))
    call = await upstream.call()
    call.send(answer_head("Transfer-Encoding: chunked"), chunk(b"part"))
    await running.shows(in_flight=1)
    call.close()
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        await reading


async def test_break_is_told_to_a_client_that_reads_late(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was written before the break, and the break itself, still go out, and no more is
    waited for."""
    monkeypatch.setattr("rustygate.relay.pipe.ABORT_PATIENCE_S", 3600)
    running = await gate(SSE_CHANNEL_CAPACITY=100_000, **files)
    client, call = await opened(running, upstream, trusting, receive_buffer=4096)
    client.wire.stop_reading()
    body = b"data: %b\n\n" % (b"x" * 8 * MEGABYTE)
    await call.wire.push(chunk(body))
    call.close()
    for _ in range(10):
        await (await running.connect(tls=trusting)).ask(get("/health"))
    client.wire.go_on_reading()
    told = (await client.until_cut()).removeprefix(body)
    assert told.startswith(b'data: {"error": ')
    assert told.endswith(b"\n\n")


async def test_client_that_never_reads_the_break_is_cut_all_the_same(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rustygate.relay.pipe.ABORT_PATIENCE_S", 0.1)
    running = await gate(SSE_CHANNEL_CAPACITY=100_000, **files)
    client, call = await opened(running, upstream, trusting, receive_buffer=4096)
    client.wire.stop_reading()
    await call.wire.push(chunk(b"x" * 16 * MEGABYTE))
    call.close()
    assert (await running.settled())[0]["outcome"] == "aborted"


@pytest.mark.parametrize("leave", [Client.leave, Client.reset])
async def test_client_that_leaves_is_missed_within_a_second(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    trusting: ssl.SSLContext,
    leave: Callable[[Client], None],
) -> None:
    running = await gate(**files)
    client, call = await opened(running, upstream, trusting)
    leave(client)
    await running.shows(in_flight=0)
    await call.gone()
    assert (await running.settled())[0]["outcome"] == "client_left"


@pytest.mark.parametrize("leave", [Client.leave, Client.reset, lambda c: c.wire.close()])
async def test_client_that_leaves_while_its_upload_waits_is_missed_within_a_second(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    trusting: ssl.SSLContext,
    leave: Callable[[Client], None],
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1, **files)
    await opened(running, upstream, trusting)
    client = await running.connect(tls=trusting)
    lines = ["Content-Type: multipart/form-data; boundary=x", f"Content-Length: {MEGABYTE}"]
    client.send(request("POST", "/v1/files", *lines), b"x" * (MEGABYTE // 2))
    await running.shows(waiters=1)
    leave(client)
    await running.shows(waiters=0)


# Backpressure.


async def taken_from(wire: Wire) -> int:
    """How much of a flood is taken before it stalls, or all of it."""
    piece, sent = chunk(b"x" * (64 << 10)), 0
    while sent < FLOOD:
        try:
            async with asyncio.timeout(0.3):
                await wire.push(piece)
        except TimeoutError:
            break
        sent += 64 << 10
    return sent


@pytest.mark.parametrize("size", [1, 1024], ids=["least", "default"])
async def test_client_that_does_not_read_pauses_upstream(
    gate: StartGate,
    upstream: Upstream,
    files: dict[str, str],
    trusting: ssl.SSLContext,
    size: int,
) -> None:
    running = await gate(SSE_BUFFER_CAPACITY=size, SSE_CHANNEL_CAPACITY=size, **files)
    client, call = await opened(running, upstream, trusting, receive_buffer=4096)
    client.wire.stop_reading()
    sent = await taken_from(call.wire)
    assert sent < 12 * MEGABYTE
    client.wire.go_on_reading()
    call.send(LAST_CHUNK)
    assert len(await client.rest()) >= sent


async def test_least_capacity_does_not_stop_a_stream(
    gate: StartGate, upstream: Upstream, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    running = await gate(SSE_BUFFER_CAPACITY=1, SSE_CHANNEL_CAPACITY=1, **files)
    client, call = await opened(running, upstream, trusting)
    for number in range(20):
        call.send(chunk(b"data: %d\n\n" % number))
        await client.exactly(b"data: %d\n\n" % number)
    call.send(LAST_CHUNK)
    assert await client.rest() == b""


# What it takes.


def problems(**settings: object) -> list[str]:
    given = {name: str(value) for name, value in settings.items()}
    with pytest.raises(ConfigError) as caught:
        load({"OPENAI_API_KEY": "sk-x"} | given)
    return caught.value.problems


@pytest.mark.parametrize("name", ["TLS_CERT_FILE", "TLS_KEY_FILE"])
def test_certificate_and_key_come_together(files: dict[str, str], name: str) -> None:
    [problem] = problems(**{name: files[name]})
    assert problem.startswith(f"{name}=")
    assert problem.endswith(": expected TLS_CERT_FILE and TLS_KEY_FILE to be set together")


def test_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.issue("one.example"), authority.issue("other.example")
    [problem] = problems(**one | {"TLS_KEY_FILE": other["TLS_KEY_FILE"]})
    assert problem.startswith("TLS_KEY_FILE=")
    assert problem.endswith(
        ": expected the key of TLS_CERT_FILE's certificate, not encrypted (key values mismatch)"
    )


def test_encrypted_key_is_refused_and_its_password_not_asked_for(
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
def test_file_that_will_not_do_is_refused(
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


def test_file_that_only_looks_like_one_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n")
    [problem] = problems(TLS_CERT_FILE=file, TLS_KEY_FILE=file)
    assert problem.endswith("(bad format)")


def test_unix_socket_is_served_in_the_clear(files: dict[str, str]) -> None:
    [problem] = problems(BIND_ADDRESS="unix:/run/gate.sock", **files)
    assert problem.startswith("TLS_CERT_FILE=")
    assert problem.endswith(": expected a BIND_ADDRESS other than a unix socket")
