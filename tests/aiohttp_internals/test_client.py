"""What a connection to upstream makes of its end."""

import asyncio
import socket
import struct

import pytest
from aiohttp import ClientOSError

from rustygate.aiohttp_internals.client import UpstreamConnection
from rustygate.core.own_connections import OwnConnections
from rustygate.system.lockstep import Lockstep
from tests.support.http import response
from tests.support.waiting import soon

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


async def after_reset(sent: bytes) -> UpstreamConnection:
    """A connection on which upstream sent this and a reset, before a write."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, connection = await loop.create_connection(
            lambda: UpstreamConnection(
                loop, single_use=True, own=OwnConnections(), lockstep=Lockstep()
            ),
            *listener.getsockname(),
        )
        upstream, _ = listener.accept()
    connection.start_request({}, 60.0, skip_body=False)
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
