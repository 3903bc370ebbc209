"""The program of a worker process. A supervisor starts it; its arguments are file descriptors:
its end of the channel, the counts that it shares with other workers, and the sockets to accept
connections from."""

import asyncio
import signal
import socket
import sys

from rustygate.system.shared_counts import SharedCounts
from rustygate.workers.worker import Worker


async def _run(channel: int, counts: int, sockets: list[int]) -> None:
    worker = Worker([_socket(each) for each in sockets], SharedCounts(counts))
    await worker.run(_socket(channel))


def _socket(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


def main() -> int:
    # The terminal sends its signals to all processes; the supervisor says what to do.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel, counts, *sockets = map(int, sys.argv[1:])
    asyncio.run(_run(channel, counts, sockets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
