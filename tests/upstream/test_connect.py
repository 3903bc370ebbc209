"""Connecting to upstream: what is tried again, for how long, and what clients see."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from errno import ECONNREFUSED, EMFILE
from itertools import pairwise
from socket import EAI_AGAIN, gaierror
from typing import NamedTuple, cast

import pytest
from aiohttp import ClientConnectorError

from rustygate.admission.waiter import clock_ns
from rustygate.aiohttp_internals.client import Destination, UpstreamConnector
from rustygate.downstream.request_body import RequestBody
from rustygate.errors import UpstreamUnreachable
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock
from rustygate.system.lockstep import Lockstep
from rustygate.upstream import client as upstream_client
from rustygate.upstream.client import UpstreamClient
from tests.conftest import StartGate
from tests.support.attempts import (
    end_before_request,
    expect_failure,
    expect_success,
    fill_pool,
    with_streamed_bodies,
)
from tests.support.certificates import Authority
from tests.support.harness import DEFAULTS
from tests.support.http import chat, response
from tests.support.upstream import Upstream, loopback_socket, url_of
from tests.support.waiting import until

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
            r"^No connection to upstream: connection refused\.( Tried [234] times within .*)?$",
        ),
        (full_backlog, SHORT_S, rf"^Upstream did not accept a connection within {SHORT_S} s\.$"),
        (
            unknown_name,
            # The resolver may take its time.
            2,
            r"^No connection to upstream: its host name does not resolve\.( Tried .*)?$",
        ),
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


@pytest.mark.parametrize(
    ("limit_s", "drawn", "times"),
    [
        (1, 0, [0, 0.05, 0.15, 0.35, 0.75, 0.95]),
        (1, 0.5, [0, 0.0425, 0.1275, 0.2975, 0.6375, 0.95]),
        (1, 1, [0, 0.035, 0.105, 0.245, 0.525, 0.95]),
        (5, 0, [0, 0.05, 0.15, 0.35, 0.75, 1.55, 2.55, 3.55, 4.55, 4.95]),
        (0.05, 0, [0]),
    ],
    ids=["longest", "medium", "shortest", "long limit", "no second try"],
)
def test_pauses_double_and_the_last_try_comes_just_before_the_limit(
    monkeypatch: pytest.MonkeyPatch, limit_s: float, drawn: float, times: list[float]
) -> None:
    tries = connect_until_limit(monkeypatch, limit_s, drawn)
    assert tries.times == pytest.approx(times)
    assert tries.ended == tries.times[-1]
    expected = "No connection to upstream: connection refused."
    if len(times) > 1:
        expected += (
            f" Tried {len(times)} times within {limit_s} s; raise UPSTREAM_CONNECT_TIMEOUT if "
            "upstream takes longer to start."
        )
    assert tries.message == expected


def test_time_that_a_try_takes_counts_towards_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth try is cut off, and the failure is the third one's."""
    tries = connect_until_limit(monkeypatch, 1, 0, takes_s=0.22)
    assert tries.times == pytest.approx([0, 0.27, 0.59, 0.95])
    assert tries.ended == pytest.approx(1)
    assert tries.message.startswith("No connection to upstream: connection refused. Tried 4 ")


def test_failure_for_lack_of_descriptors_says_what_to_raise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later try may not even find the address."""
    unresolved = gaierror(EAI_AGAIN, "")
    tries = connect_until_limit(monkeypatch, 1, 0, error=OSError(EMFILE, ""), later=unresolved)
    assert tries.message == (
        "No connection to upstream: its host name does not resolve. Tried 6 times within 1 s; "
        "raise the gate's limit of open files, or lower CONNECTION_LIMIT."
    )


class Tries(NamedTuple):
    """When a client tried to connect, when it gave up, and what it then said."""

    times: list[float]
    ended: float
    message: str


REFUSED = ConnectionRefusedError(ECONNREFUSED, "")


def connect_until_limit(
    monkeypatch: pytest.MonkeyPatch,
    limit_s: float,
    drawn: float,
    takes_s: float = 0,
    error: OSError = REFUSED,
    later: OSError | None = None,
) -> Tries:
    """Tries to connect to an upstream where each connection fails after `takes_s`, on a virtual
    clock. `drawn` is the random number for each pause; `later` replaces the error after the first
    time."""

    async def main() -> Tries:
        loop = asyncio.get_running_loop()
        began, times = loop.time(), []

        async def refuse(_: UpstreamConnector, to: Destination, *__: object) -> None:
            times.append(loop.time() - began)
            await asyncio.sleep(takes_s)
            cause = error if len(times) == 1 else later or error
            raise ClientConnectorError(to.connection_key, cause)

        monkeypatch.setattr(UpstreamConnector, "_create_connection", refuse)
        monkeypatch.setattr(upstream_client, "monotonic_ns", lambda: clock_ns(loop))
        monkeypatch.setattr("random.random", lambda: drawn)
        settings = replace(DEFAULTS, upstream_connect_timeout=limit_s)
        client = UpstreamClient(settings, Lockstep())
        no_body = cast(RequestBody, None)
        with pytest.raises(UpstreamUnreachable) as failure:
            await client.send(Exchange("a", "POST", "/v1/x"), "/v1/x", b"", no_body)
        ended = loop.time() - began
        await client.close()
        return Tries(times, ended, failure.value.message)

    return virtual_clock.run(main)


async def test_pauses_between_connections_that_upstream_closes_double(gate: StartGate) -> None:
    """Upstream ends four TLS handshakes. A busy machine may prolong pauses, but not shorten any:
    a connection's time is taken before it is closed."""
    doors = Doors()
    async with await asyncio.start_server(doors.close, "127.0.0.1", 0) as server:
        url = url_of(server.sockets[0]).replace("http:", "https:")
        running = await gate(OPENAI_BASE_URL=url, UPSTREAM_CONNECT_TIMEOUT=600)
        client = await running.send(chat())
        await until(lambda: len(doors.times) >= 4)
        client.disconnect()
        await running.wait_until(in_flight=0)
    pauses = [after - before for before, after in pairwise(doors.times)]
    for pause_s, expected_s in zip(pauses, (0.05, 0.1, 0.2), strict=False):
        assert pause_s >= 0.7 * expected_s


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
    restarted = Upstream(port=port)
    client = await running.send(chat())
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
        # Before another process may listen at the address.
        second.disconnect()
        await running.wait_until(in_flight=0)
