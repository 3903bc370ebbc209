"""Ending a client's connection in the middle of a response.

A response that is cut is never ended cleanly, so that a client can always tell a complete
response from a cut one.
"""

import asyncio
import socket
import struct
from contextlib import suppress

from aiohttp import HttpVersion11, web

from rustygate.system import tls
from rustygate.system.tls import socket_transport, unsent_bytes

# How long a client may take to read what was written before its connection is aborted.
FLUSH_TIMEOUT_S = 5.0

# How often a TLS connection is checked for bytes that are still unsent.
TLS_POLL_INTERVAL_S = 0.02

# SO_LINGER enabled with a timeout of zero: closing sends a reset.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


async def flush_and_abort(request: web.Request, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
    """Abort a client's connection once what was written has been sent, or after `timeout_s`."""
    transport = request.transport
    if transport is None:
        return
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(timeout_s):
            await _flush(request, transport)
    abort(request, transport)


def abort(request: web.Request, transport: asyncio.Transport) -> None:
    """Abort a connection so that a partial body cannot pass for a complete one.

    In HTTP/1.0 closing the connection ends a body, so only a reset marks it as cut.
    """
    if request.version < HttpVersion11:
        with suppress(OSError):
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    tls.abort(transport)


async def _flush(request: web.Request, transport: asyncio.Transport) -> None:
    """Wait until the kernel has taken what was written."""
    if socket_transport(transport) is transport:
        transport.set_write_buffer_limits(high=0)
        await request.writer.drain()
        return
    # A TLS transport reports when it has passed its bytes to the transport below. Nothing reports
    # when that one has sent them.
    while unsent_bytes(transport):  # noqa: ASYNC110
        await asyncio.sleep(TLS_POLL_INTERVAL_S)
