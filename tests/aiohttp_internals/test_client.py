"""How a connection to upstream ends."""

import asyncio
import socket

import pytest
from aiohttp import ClientOSError, ServerDisconnectedError

from rustygate.aiohttp_internals.client import UpstreamConnection
from rustygate.core.own_connections import OwnConnections
from rustygate.system.lockstep import Lockstep
from tests.support.http import response
from tests.support.waiting import soon
from tests.support.wire import RESET_ON_CLOSE


async def connected(
    lockstep: Lockstep | None = None,
) -> tuple[asyncio.Transport, UpstreamConnection, socket.socket]:
    """A connection with a request, and upstream's end of it."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, connection = await loop.create_connection(
            lambda: UpstreamConnection(
                loop, single_use=True, own=OwnConnections(), lockstep=lockstep or Lockstep()
            ),
            *listener.getsockname(),
        )
        upstream, _ = listener.accept()
    connection.start_request({}, 60.0, skip_body=False)
    return transport, connection, upstream


async def after_reset(sent: bytes) -> UpstreamConnection:
    """A connection on which upstream sent this and a reset, before a write."""
    transport, connection, upstream = await connected()
    with upstream:
        upstream.sendall(sent)
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    # No turn of the loop since then: the write meets the reset first.
    transport.write(b"x")
    return connection


async def test_response_before_a_reset_is_read_after_a_failed_write() -> None:
    async with soon():
        connection = await after_reset(response(b"too large", status="413 x"))
        message, body = await connection.read()
        assert (message.code, await body.read()) == (413, b"too large")
        assert connection.should_close


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 413 x\r\n"], ids=["nothing", "part of a head"])
async def test_reset_without_a_response_raises(sent: bytes) -> None:
    async with soon():
        connection = await after_reset(sent)
        with pytest.raises(ClientOSError):
            await connection.read()


async def test_upstream_that_closes_its_side_and_reads_no_more_has_ended() -> None:
    """asyncio would wait for ever to send the rest."""
    transport, connection, upstream = await connected()
    with upstream:
        while not transport.get_write_buffer_size():
            transport.write(b"x" * 1_000_000)
        upstream.shutdown(socket.SHUT_WR)
        async with soon():
            with pytest.raises(ServerDisconnectedError):
                await connection.read()
        assert not connection.is_connected()


async def test_cancelled_reader_is_not_expected_to_continue() -> None:
    lockstep = Lockstep()
    transport, connection, upstream = await connected(lockstep)
    with upstream:
        reading = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        connection.data_received(response(b"body"))
        assert repr(lockstep) == "<Lockstep 1 expected>"
        reading.cancel()
        await asyncio.wait((reading,))
        assert repr(lockstep) == "<Lockstep 0 expected>"
    transport.abort()


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 103 x\r\n\r\n"], ids=["final", "interim"])
async def test_head_is_parsed_although_what_follows_is_not_http(
    monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    """The transport is closed once, since some TLS transports cannot be used after a second."""
    transport, connection, upstream = await connected()
    closes: list[None] = []
    monkeypatch.setattr(transport, "close", lambda: closes.append(None))
    with upstream:
        if before:
            connection.data_received(before)
            assert (await connection.read())[0].code == 103
        connection.data_received(response(b"", status="204 x") + b"0\r\n\r\n")
        message, _ = await connection.read()
        assert message.code == 204
        assert connection.should_close
        assert len(closes) == 1
    transport.abort()


async def test_requests_are_counted() -> None:
    """The first on a connection is never taken for one that met a stale connection."""
    transport, connection, upstream = await connected()
    with upstream:
        assert connection.request_count == 1
        connection.data_received(response())
        await connection.read()
        connection.start_request({}, 60.0, skip_body=False)
        assert connection.request_count == 2
    transport.abort()
