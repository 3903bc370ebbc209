"""Connecting to upstream: what is tried again, for how long, and what clients see."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise

import pytest

from tests.conftest import StartGate
from tests.support.attempts import (
    end_before_request,
    expect_failure,
    expect_success,
    fill_pool,
    with_streamed_bodies,
)
from tests.support.certificates import Authority
from tests.support.http import chat, response
from tests.support.upstream import Upstream, loopback_socket, url_of

# A short timeout.
SHORT_S = 0.2

# How long an upstream that restarts refuses connections.
OUTAGE_S = 0.7


@pytest.fixture
async def stopped_upstream(_no_task_left: None) -> AsyncIterator[Upstream]:
    """An upstream that refuses connections until a test starts it."""
    upstream = Upstream()
    yield upstream
    await upstream.stop()


@asynccontextmanager
async def refusing_port() -> AsyncIterator[str]:
    """An address without a listener."""
    with loopback_socket() as unused:
        yield url_of(unused)


@asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """A listener with a full backlog, which accepts no connection."""
    with loopback_socket() as listener:
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):
            yield url_of(listener)


@asynccontextmanager
async def unknown_name() -> AsyncIterator[str]:
    """A host name that never resolves (RFC 6761, 6.4)."""
    yield "http://upstream.invalid/v1"


@asynccontextmanager
async def plain_http() -> AsyncIterator[str]:
    """An upstream that responds to a TLS handshake in plain HTTP."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(response(status="400 Bad Request"))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield url_of(server.sockets[0]).replace("http:", "https:")


class Doors:
    """A TLS upstream that closes connections before the handshake; `times` has their arrival
    times."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def close(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.times.append(asyncio.get_running_loop().time())
        writer.close()


@pytest.mark.parametrize(
    ("address", "limit_s", "message"),
    [
        (
            refusing_port,
            SHORT_S,
            r"No connection to upstream: connection refused\. Tried [34] times within 0\.2 s; "
            r"raise UPSTREAM_CONNECT_TIMEOUT if upstream takes longer to start\.$",
        ),
        (full_backlog, SHORT_S, rf"^Upstream did not accept a connection within {SHORT_S} s\.$"),
        (unknown_name, 1, r"its host name does not resolve\. Tried \d times within 1 s; "),
        (plain_http, 600, r"No connection to upstream: TLS failed: wrong version number\.$"),
    ],
    ids=["refused", "timeout", "unknown name", "no TLS"],
)
async def test_failure_says_what_happened_and_for_how_long(
    gate: StartGate,
    address: Callable[[], AbstractAsyncContextManager[str]],
    limit_s: float,
    message: str,
) -> None:
    async with address() as url:
        running = await gate(OPENAI_BASE_URL=url, UPSTREAM_CONNECT_TIMEOUT=limit_s)
        client = await running.send(chat())
        got = await expect_failure(running, client, "upstream_unreachable", 1)
    assert re.search(message, got.error["message"])
    assert got.head["x-should-retry"] == "true"


async def test_pauses_double_and_the_last_try_comes_just_before_the_limit(
    gate: StartGate,
) -> None:
    doors = Doors()
    async with await asyncio.start_server(doors.close, "127.0.0.1", 0) as server:
        url = url_of(server.sockets[0]).replace("http:", "https:")
        running = await gate(OPENAI_BASE_URL=url, UPSTREAM_CONNECT_TIMEOUT=1)
        client = await running.send(chat())
        got = await expect_failure(running, client, "upstream_unreachable", 1)
    assert f"Tried {len(doors.times)} times within 1 s" in got.error["message"]
    assert 5 <= len(doors.times) <= 6
    assert 0.93 < doors.times[-1] - doors.times[0] < 1.2
    pauses = [after - before for before, after in pairwise(doors.times)]
    for pause_s, expected_s in zip(pauses, (0.05, 0.1, 0.2), strict=False):
        assert 0.7 * expected_s <= pause_s < 3 * expected_s


async def test_untrusted_certificate_fails_at_once(gate: StartGate, authority: Authority) -> None:
    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("the gate trusts an unknown authority")

    context: ssl.SSLContext = authority.server_context("127.0.0.1")
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        url = url_of(server.sockets[0]).replace("http:", "https:")
        running = await gate(OPENAI_BASE_URL=url, UPSTREAM_CONNECT_TIMEOUT=600)
        client = await running.send(chat())
        got = await expect_failure(running, client, "upstream_unreachable", 1)
    assert "TLS failed: certificate verify failed" in got.error["message"]
    assert "Tried" not in got.error["message"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"UPSTREAM_RETRIES": 0},
        {"CONCURRENCY_LIMIT": 1},
        {"RATE_LIMIT": 0.001, "RATE_LIMIT_BURST": 1},
    ],
    ids=["no limit", "no retries", "one slot", "one unit"],
)
async def test_request_outlasts_a_restart_of_upstream(
    stopped_upstream: Upstream, gate: StartGate, settings: dict[str, object]
) -> None:
    running = await gate(OPENAI_BASE_URL=stopped_upstream.url, **settings)
    client = await running.send(chat())
    await running.wait_until(in_flight=1)
    await asyncio.sleep(OUTAGE_S)
    stopped_upstream.reply = response(b"there")
    await stopped_upstream.start()
    assert (await expect_success(running, client, 1)).body == b"there"


async def test_host_name_is_resolved_again_for_each_try(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream restarts at another address."""
    upstream.reply = response(b"there")
    port = int(upstream.url.split(":")[2].split("/")[0])
    nobody_there, address = "127.0.0.2", "127.0.0.1"
    looked_up: list[str] = []

    async def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        looked_up.append(address if looked_up else nobody_there)
        family = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
        return [(*family, "", (looked_up[-1], port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    running = await gate(OPENAI_BASE_URL=f"http://upstream.test:{port}/v1")
    client = await running.send(chat())
    assert (await expect_success(running, client, 1)).body == b"there"
    assert looked_up == [nobody_there, address]


@with_streamed_bodies
async def test_streamed_body_outlasts_a_restart_of_upstream(
    stopped_upstream: Upstream, gate: StartGate, sent: bytes, settings: dict[str, object]
) -> None:
    """Nothing of it was sent, so it need not be buffered."""
    running = await gate(OPENAI_BASE_URL=stopped_upstream.url, **settings)
    client = await running.send(sent)
    await running.wait_until(in_flight=1)
    await asyncio.sleep(OUTAGE_S)
    stopped_upstream.reply = response(b"there")
    await stopped_upstream.start()
    assert (await expect_success(running, client, 1)).body == b"there"


async def test_stale_connection_to_an_upstream_that_restarts_is_replaced(
    stopped_upstream: Upstream, gate: StartGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stopped_upstream.start()
    running = await gate(OPENAI_BASE_URL=stopped_upstream.url)
    pooled = await fill_pool(running, stopped_upstream)
    end_before_request(monkeypatch, pooled, "close")
    port = stopped_upstream.port
    stopped_upstream.stop_listening()
    client = await running.send(chat())
    restarted = Upstream(port=port)
    await asyncio.sleep(OUTAGE_S)
    restarted.reply = response(b"restarted")
    await restarted.start()
    assert (await expect_success(running, client, 1, 2)).body == b"restarted"
    await restarted.stop()


@pytest.mark.parametrize(
    "budget",
    [{"RATE_LIMIT": 0.001, "RATE_LIMIT_BURST": 1}, {"TOKENS_PER_MINUTE": 10}],
    ids=["requests", "tokens"],
)
@pytest.mark.parametrize("address", [refusing_port, full_backlog], ids=["refused", "silent"])
async def test_client_disconnect_during_connect_costs_nothing(
    gate: StartGate,
    address: Callable[[], AbstractAsyncContextManager[str]],
    budget: dict[str, object],
) -> None:
    """The next request finds a full budget: it is in flight at once instead of being refused."""
    async with address() as url:
        running = await gate(OPENAI_BASE_URL=url, RATE_LIMIT_TIMEOUT=2, **budget)
        first = await running.send(chat())
        await running.wait_until(in_flight=1)
        first.disconnect()
        await running.wait_until(in_flight=0)
        second = await running.send(chat())
        refusal = asyncio.create_task(second.response())
        await running.wait_until(in_flight=1, waiters=0)
        assert not refusal.done()
        refusal.cancel()
