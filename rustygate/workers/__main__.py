"""The program of a worker process. A supervisor starts it; its arguments are file descriptors:
its end of the channel, and the sockets to accept connections from."""

import asyncio
import signal
import socket
import sys

from rustygate.workers.worker import Worker


async def _run(channel: socket.socket, sockets: list[socket.socket]) -> None:
    await Worker(sockets).run(channel)


def main() -> int:
    # The terminal sends its signals to all processes; the supervisor says what to do.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel, *sockets = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    asyncio.run(_run(channel, sockets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
