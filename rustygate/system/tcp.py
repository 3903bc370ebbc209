"""What the kernel knows about a TCP connection (tcp(7)), and what it holds for it.

Only Linux is asked for numbers. On other systems, which answer differently, nothing is known.
"""

import asyncio
import os
import select
import sys
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl
from struct import Struct
from termios import TIOCOUTQ

_INT = Struct("i")

# How much of what is left in the kernel's receive queue is read at once, and in all.
_READ_SIZE, _READ_LIMIT = 64 * 1024, 1024 * 1024


def unacknowledged_bytes(transport: asyncio.BaseTransport | None) -> int | None:
    """The number of bytes in the kernel's send queue: those that the other side's TCP has not
    acknowledged. None if it is unknown."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sys.platform != "linux" or sock is None:
        return None
    try:
        answer = ioctl(sock.fileno(), TIOCOUTQ, bytes(_INT.size))
    except (OSError, ValueError):
        return None
    count: int = _INT.unpack(answer)[0]
    return count


def unread_data(transport: asyncio.Transport) -> Iterator[bytes]:
    """What arrived on a connection that asyncio no longer reads, but has not closed yet; up to a
    limit. Nothing on a TLS connection, whose socket is out of reach by then."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    with suppress(OSError):
        for _ in range(0, _READ_LIMIT, _READ_SIZE):
            data = os.read(sock.fileno(), _READ_SIZE)
            if not data:
                return
            yield data


def poll(transport: asyncio.BaseTransport, events: int) -> int:
    """Which of these events of `select.poll` a socket has now; POLLNVAL if it is closed."""
    sock, poller = transport.get_extra_info("socket"), select.poll()
    with suppress(OSError, ValueError):
        poller.register(-1 if sock is None else sock.fileno(), events)
        return sum(found for _, found in poller.poll(0))
    return select.POLLNVAL
