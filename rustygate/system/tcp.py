"""What the kernel knows about a TCP connection (tcp(7)).

Only Linux is supported. On other systems, which answer differently, nothing is known.
"""

import asyncio
import sys
from fcntl import ioctl
from struct import Struct
from termios import TIOCOUTQ

_INT = Struct("i")


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
