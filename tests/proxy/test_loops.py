"""A gate that is its own upstream answers at the first turn."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import openai
import pytest

from rustygate.core.clients import hash_key
from rustygate.daemon import Daemon
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.gate import Gate, Log
from tests.support.http import CHAT, CLIENT_KEY, Response, chat, get, request
from tests.support.http import response as answer
from tests.support.upstream import Upstream
from tests.support.waiting import until
from tests.support.websocket import handshake
from tests.support.wire import Wire

StartLoop = Callable[..., Awaitable[Gate]]


def listening(family: socket.AddressFamily, host: str) -> socket.socket:
    """A socket that serves IPv4 too, if it is an IPv6 one."""
    sock = socket.socket(family)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((host, 0))
    sock.listen()
    return sock


@pytest.fixture
async def loop(upstream: Upstream, log: Log) -> AsyncIterator[StartLoop]:
    """Starts gates whose upstream is `base`, with their own port in it.

    They inherit their sockets, so that the settings do not show the loop.
    """
    gates: list[Gate] = []
    sockets: list[socket.socket] = []

    async def start(
        base: str = "http://127.0.0.1:{port}/v1",
        host: str = "0.0.0.0",
        family: socket.AddressFamily = socket.AF_INET,
        **settings: object,
    ) -> Gate:
        sockets.append(listening(family, host))
        port = sockets[-1].getsockname()[1]
        for name, value in settings.items():
            settings[name] = str(value).replace("{port}", str(port))
        gate = Gate(log, base.format(port=port), None, 0, **settings)
        gate.daemon = Daemon(gate.daemon._settings, sockets=[sockets[-1]])
        gates.append(gate)
        await gate.daemon.start()
        return gate

    yield start
    for gate in gates:
        await gate.close()
    for sock in sockets:
        sock.close()


def check_loop(got: Response) -> None:
    assert (got.status, got.reason) == (508, "loop_detected")
    assert got.error["type"] == "upstream_error"
    assert got.error["code"] == "loop_detected"
    assert "OPENAI_BASE_URL" in got.error["message"]
    assert got.head["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("base", "host", "family"),
    [
        ("http://127.0.0.1:{port}/v1", "127.0.0.1", socket.AF_INET),
        ("http://127.0.0.2:{port}/v1", "0.0.0.0", socket.AF_INET),
        ("http://127.0.0.1:{port}", "127.0.0.1", socket.AF_INET),
        ("http://localhost:{port}/v1", "127.0.0.1", socket.AF_INET),
        ("http://[::1]:{port}/v1", "::", socket.AF_INET6),
        ("http://127.0.0.1:{port}/v1", "::", socket.AF_INET6),
        ("http://[::ffff:127.0.0.1]:{port}/v1", "0.0.0.0", socket.AF_INET),
    ],
)
async def test_request_goes_around_once(
    loop: StartLoop, base: str, host: str, family: socket.AddressFamily
) -> None:
    running = await loop(base, host, family)
    port = running.url.rpartition(":")[2]
    client = Client(await Wire.connect(f"http://127.0.0.1:{port}"))
    for _ in range(2):
        check_loop(await client.request(chat()))
    lines = await running.settled(4)
    assert [line.get("reason") for line in lines] == ["loop_detected", None] * 2
    assert [line["attempts"] for line in lines] == [0, 1, 0, 1]
    client.disconnect()
    assert running.snapshot()["in_flight"] == 0


@pytest.mark.parametrize(
    "sent",
    [
        get(),
        get("/v1/models", "Origin: https://app.example"),
        request("POST", CHAT, "Content-Type: application/json", body=b"{}"),
        handshake(),
        chat(stream=True),
    ],
    ids=["read", "page", "JSON", "WebSocket", "stream"],
)
async def test_any_request_goes_around_once(loop: StartLoop, sent: bytes) -> None:
    running = await loop(CORS_ALLOW_ORIGINS="https://app.example")
    check_loop(await running.request(sent))
    assert len(await running.settled(2)) == 2


async def test_loop_through_tls_is_detected(loop: StartLoop, authority: Authority) -> None:
    files = authority.issue("127.0.0.1", "localhost")
    base = "https://127.0.0.1:{port}/v1"
    running = await loop(base, "127.0.0.1", SSL_CERT_FILE=authority.file, **files)
    client = await running.connect(tls=authority.client_context())
    check_loop(await client.request(chat()))


async def test_proxy_that_is_the_gate_is_detected(loop: StartLoop) -> None:
    running = await loop("http://api.example/v1", HTTP_PROXY="http://127.0.0.1:{port}")
    check_loop(await running.request(chat()))


async def test_loop_is_detected_before_the_client_key(loop: StartLoop, tmp_path: Path) -> None:
    """The upstream key, which comes back, is no client's."""
    path = tmp_path / "clients.toml"
    path.write_text(f'[client.one]\nkey_sha256 = "{hash_key(CLIENT_KEY)}"\n')
    running = await loop(CLIENTS_FILE=path)
    check_loop(await running.request(chat()))


async def test_sdk_does_not_retry_a_loop(
    loop: StartLoop, async_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    running = await loop()
    with pytest.raises(openai.InternalServerError, match="came back to the gate"):
        await async_client(running, max_retries=2).models.list()
    assert len(await running.settled(2)) == 2


async def test_another_gate_in_front_is_no_loop(loop: StartLoop, upstream: Upstream) -> None:
    upstream.reply = answer()
    behind = await loop(upstream.url)
    front = await loop(f"{behind.url}/v1")
    for _ in range(3):
        assert (await front.request(get())).status == 200


async def test_closed_connections_to_upstream_are_forgotten(
    loop: StartLoop, upstream: Upstream
) -> None:
    running = await loop(upstream.url)
    own = running.daemon._plane._upstream.own_connections
    for _ in range(3):
        client = await running.send(get())
        call = await upstream.call()
        assert repr(own) == "<OwnConnections 1>"
        await call.respond(answer(b"{}", "Connection: close"))
        await client.response()
        await call.ended()
        await until(lambda: repr(own) == "<OwnConnections 0>")


async def test_loop_through_another_process_is_detected_once_it_is_reported(
    loop: StartLoop, upstream: Upstream
) -> None:
    """The other process's connection becomes known a little after its first request arrives."""
    upstream.reply = answer()
    running = await loop(upstream.url)
    client = await running.connect()
    assert (await client.request(get())).status == 200
    info = client.wire.transport.get_extra_info
    running.daemon._plane.own_connections.add_sibling(info("sockname"), info("peername"))
    check_loop(await client.request(get()))


async def test_only_connections_of_this_process_are_reported_to_others(
    loop: StartLoop, upstream: Upstream
) -> None:
    upstream.reply = answer()
    running = await loop(upstream.url)
    own, told = running.daemon._plane.own_connections, []
    own.on_added = lambda local, remote: told.append(remote[1])  # type: ignore[index]
    own.add_sibling(("127.0.0.1", 1), ("127.0.0.1", 2))
    assert (await running.request(get())).status == 200
    assert told == [int(upstream.url.rpartition(":")[2].split("/")[0])]
