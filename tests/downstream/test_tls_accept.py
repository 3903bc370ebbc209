"""Plain HTTP on a TLS port, and connections before TLS has started."""

import asyncio
import ssl
from collections.abc import Callable

import pytest

from rustygate.downstream import connections, tls_accept
from tests.conftest import StartGate
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.gate import Gate, one_process
from tests.support.http import chat, get, request, response
from tests.support.upstream import Upstream
from tests.support.waiting import A_SECOND_S, soon, until, within
from tests.support.wire import Wire


@pytest.fixture
async def secure(gate: StartGate, authority: Authority) -> Gate:
    return await gate(**authority.issue("127.0.0.1"))


async def connect_plainly(running: Gate, *data: bytes) -> Client:
    """A client that speaks plain HTTP to the TLS port."""
    client = await running.connect()
    client.send(*data)
    return client


def acceptor_of(running: Gate) -> tls_accept.TlsAcceptor:
    acceptor = running.daemon._plane._listener._tls
    assert acceptor is not None
    return acceptor


@pytest.mark.parametrize(
    "sent",
    [
        get(),
        chat(),
        request("DELETE", "/v1/x"),
        b"\r\n" + get(),
        b"\n" + get(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"G",
    ],
    ids=["GET", "chat", "DELETE", "CRLF", "LF", "HTTP/2", "one byte"],
)
async def test_plain_http_is_told_to_use_https(
    secure: Gate, upstream: Upstream, sent: bytes
) -> None:
    client = await connect_plainly(secure, sent)
    async with within(A_SECOND_S):
        got = await client.response()
    assert got.head.start == "HTTP/1.1 400 Bad Request"
    assert (got.reason, got.error["type"]) == ("bad_request", "invalid_request_error")
    assert got.head["connection"] == "close"
    assert "use https:// instead of http://" in got.error["message"]
    assert await client.ended() == "closed"
    assert upstream.calls == []


async def test_large_plain_request_is_answered_without_a_reset(secure: Gate) -> None:
    client = await connect_plainly(secure, request("POST", "/v1/files", body=bytes(1 << 20)))
    assert (await client.response()).status == 400


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x00\x05hello", b"\x80\x2e\x01\x00\x02" + bytes(50), b"\x00" * 9],
    ids=["broken handshake", "SSL 2", "zeros"],
)
async def test_other_bytes_fail_as_tls(secure: Gate, sent: bytes) -> None:
    client = await connect_plainly(secure, sent)
    assert await client.ended() in ("closed", "reset")
    assert b"HTTP" not in client.wire.received
    assert secure.log.errors == []


@pytest.mark.parametrize("sent", [b"", b"\x16\x03"], ids=["nothing", "a part of a handshake"])
async def test_silent_client_is_cut_off(
    secure: Gate, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(tls_accept, "TLS_TIMEOUT_S", 0.3)
    client = await connect_plainly(secure, sent)
    began = asyncio.get_running_loop().time()
    assert await client.ended() in ("closed", "reset")
    assert asyncio.get_running_loop().time() - began > 0.2


@one_process
@pytest.mark.parametrize("sent", [b"", b"\x16\x03"], ids=["nothing", "a part of a handshake"])
@pytest.mark.parametrize("leave", [Wire.reset, Wire.close], ids=["reset", "close"])
async def test_client_that_leaves_before_tls_holds_nothing(
    secure: Gate, authority: Authority, sent: bytes, leave: Callable[[Wire], None]
) -> None:
    acceptor = acceptor_of(secure)
    client = await connect_plainly(secure, sent)
    await until(lambda: bool(acceptor.handshakes if sent else acceptor.accepted))
    leave(client.wire)
    await until(lambda: not acceptor.handshakes and not acceptor.accepted)
    healthy = await secure.connect(tls=authority.client_context())
    assert (await healthy.request(get("/health"))).status == 200


@one_process
@pytest.mark.parametrize("sent", [get(), b"\x16\x03"], ids=["plain HTTP", "TLS"])
async def test_time_for_the_first_byte_ends_with_it(secure: Gate, sent: bytes) -> None:
    """The connection may then last longer."""
    acceptor = acceptor_of(secure)
    client = await connect_plainly(secure)
    await until(lambda: bool(acceptor.accepted))
    [accepted] = acceptor.accepted
    client.send(sent)
    await until(lambda: not acceptor.accepted)
    assert accepted._timer.cancelled()


@one_process
@pytest.mark.parametrize("sent", [b"", b"\x16\x03"], ids=["nothing", "a part of a handshake"])
async def test_connections_before_tls_are_limited(
    gate: StartGate, authority: Authority, sent: bytes
) -> None:
    """The oldest makes room, so a healthy client is served among silent ones."""
    secure = await gate(CONNECTION_LIMIT=3, **authority.issue("127.0.0.1"))
    acceptor = acceptor_of(secure)
    silent = []
    for count in 1, 2, 3:
        silent.append(await connect_plainly(secure, sent))
        await until(lambda: len(acceptor.handshakes if sent else acceptor.accepted) == count)  # noqa: B023
    healthy = await secure.connect(tls=authority.client_context())
    assert (await healthy.request(get("/health"))).status == 200
    assert await silent[0].ended() in ("closed", "reset")
    assert len(acceptor.handshakes if sent else acceptor.accepted) == 2


@one_process
async def test_connection_that_sent_nothing_makes_room_first(
    gate: StartGate, authority: Authority
) -> None:
    secure = await gate(CONNECTION_LIMIT=2, **authority.issue("127.0.0.1"))
    acceptor = acceptor_of(secure)
    await connect_plainly(secure, b"\x16\x03")
    await until(lambda: bool(acceptor.handshakes))
    silent = await connect_plainly(secure)
    await until(lambda: bool(acceptor.accepted))
    await connect_plainly(secure)
    assert await silent.ended() in ("closed", "reset")
    assert (len(acceptor.handshakes), len(acceptor.accepted)) == (1, 1)


@one_process
@pytest.mark.parametrize("sent", [b"", b"\x16\x03"], ids=["nothing", "a part of a handshake"])
async def test_stopping_gate_aborts_connections_before_tls(secure: Gate, sent: bytes) -> None:
    acceptor = acceptor_of(secure)
    client = await connect_plainly(secure, sent)
    await until(lambda: bool(acceptor.handshakes if sent else acceptor.accepted))
    await secure.daemon.stop()
    assert await client.ended() in ("closed", "reset")
    assert not acceptor.accepted
    assert not acceptor.handshakes


async def test_request_that_comes_with_the_handshake_is_answered(
    secure: Gate, upstream: Upstream, authority: Authority
) -> None:
    """The end of the handshake and the request arrive together, byte for byte."""
    upstream.reply = response(b"body")
    context: ssl.SSLContext = authority.client_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    wire = (await connect_plainly(secure)).wire
    async with soon():
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                wire.send(outgoing.read())
                incoming.write(await wire.read_some())
        tls.write(get())
        wire.send(outgoing.read())
        received = b""
        while not received.endswith(b"body"):
            incoming.write(await wire.read_some())
            try:
                while piece := tls.read(65536):
                    received += piece
            except ssl.SSLWantReadError:
                continue
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_crowd_of_plain_clients_leaves_nothing(
    secure: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGERING_LIMIT", 3)
    acceptor = acceptor_of(secure)
    clients = [await connect_plainly(secure, get()) for _ in range(20)]
    for client in clients:
        await client.ended()
    assert not acceptor.accepted
    assert not acceptor.handshakes
