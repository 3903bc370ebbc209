"""What the kernel knows about a TCP connection (`struct tcp_info` in linux/tcp.h).

Only Linux is read. Other systems have other layouts; there, nothing is known.
"""

import asyncio
import socket
import struct
import sys
from typing import Final

# The length up to and including `tcpi_bytes_acked`. Linux before 4.1 returns less.
_INFO_LENGTH: Final = 128
_BYTES_ACKED: Final = struct.Struct("=120xQ")

# `tcpi_state`, the first byte, is this while neither side has closed the connection.
_ESTABLISHED: Final = 1

UNKNOWN: Final = b""


def tcp_info(transport: asyncio.BaseTransport | None) -> bytes:
    """The state of a connection, to be passed to the functions below."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sys.platform != "linux" or sock is None:
        return UNKNOWN
    try:
        info: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_LENGTH)
    except OSError:
        return UNKNOWN
    return info if len(info) == _INFO_LENGTH else UNKNOWN


def is_closed(info: bytes) -> bool:
    """Whether the other side is known to have closed or reset the connection."""
    return bool(info) and info[0] != _ESTABLISHED


def nothing_acknowledged(before: bytes, after: bytes) -> bool:
    """Whether the other side's TCP has provably received none of the bytes sent between two states
    of a connection over which data had been sent already."""
    if not before or not after:
        return False
    acknowledged = _bytes_acked(before)
    # Some kernels do not count, and always report 0. The handshake counts as one byte.
    return acknowledged > 1 and _bytes_acked(after) == acknowledged


def _bytes_acked(info: bytes) -> int:
    acked: int = _BYTES_ACKED.unpack(info)[0]
    return acked
