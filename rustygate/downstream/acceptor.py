"""Accepts connections, a few at a time, so that a crowd of clients does not hold up streams.

asyncio's own server would accept all that wait in one turn of the event loop.

If other processes accept from the same socket, the one that runs first could accept most of a
crowd before the others run. So each process pauses for a moment after each connection. Of 64
connections at once, the busiest of three processes then accepts 34 to 45%, instead of 47 to 89%.
SO_REUSEPORT would give 38 to 41%, but would also give connections to a process that hangs, and is
not available for unix sockets and those of a service manager.

If the limit of connections is reached and none is idle here, other processes are asked to close an
idle one. Meanwhile no more connections are accepted.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from loguru import logger

from rustygate.downstream.tls_accept import ProtocolFactory
from rustygate.system.background import start_task

# How many connections are accepted in one turn of the event loop. They take half a millisecond.
CONNECTIONS_PER_TURN = 16

# After a connection from a shared socket: long enough for other processes to run, and short enough
# for a crowd.
PAUSE_S = 0.0005

# What a task does, in the log.
ACCEPTING = "accepting a connection"

WaitForRoom = Callable[[], Awaitable[None]]

# When to try again if the system has no room for another connection. The pause doubles while that
# lasts, as in Go's net/http. If many clients have connected and left, each try accepts only as
# many of their dead connections as there are free descriptors, so it may take many tries to reach
# live ones.
FIRST_RETRY_S, LONGEST_RETRY_S = 0.005, 1.0

# The least time between two log lines about that.
LOG_INTERVAL_S = 60.0


class Acceptor:
    """Accepts connections from `open` to `close`.

    Args:
        wait_for_room: called before each connection starts, if other processes accept from the
            socket, too.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol_factory: ProtocolFactory,
        wait_for_room: WaitForRoom | None = None,
    ) -> None:
        self._sock = sock
        self._protocol_factory = protocol_factory
        self._wait_for_room = wait_for_room
        self._is_open = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._retry_s = FIRST_RETRY_S
        self._log_again_at = 0.0

    def open(self) -> None:
        self._is_open = True
        self._sock.setblocking(False)
        self._resume()

    def close(self) -> None:
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)

    def _resume(self) -> None:
        accept = self._accept_several if self._wait_for_room is None else self._accept_shared
        self._loop.add_reader(self._sock, accept)

    def _resume_after(self, seconds: float) -> None:
        if self._is_open:
            self._timer = self._loop.call_later(seconds, self._resume)

    def _accept_several(self) -> None:
        for _ in range(CONNECTIONS_PER_TURN):
            connection = self._accept()
            if connection is None:
                break
            start_task(ACCEPTING, self._start(connection))

    def _accept_shared(self) -> None:
        connection = self._accept()
        if connection is not None:
            self._loop.remove_reader(self._sock)
            start_task(ACCEPTING, self._start_with_room(connection))

    def _accept(self) -> socket.socket | None:
        """Accept a connection, if there is one."""
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return None  # another process has it, or the client has left
        except OSError as error:
            self._retry_later(error)
            return None
        self._retry_s = FIRST_RETRY_S
        return connection

    def _retry_later(self, error: OSError) -> None:
        """Stop accepting, and try again after a pause."""
        self._log(error)
        self._loop.remove_reader(self._sock)
        self._resume_after(self._retry_s)
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    def _log(self, error: OSError) -> None:
        now = self._loop.time()
        if now >= self._log_again_at:
            self._log_again_at = now + LOG_INTERVAL_S
            logger.error("cannot accept connections, will keep trying: {}", error.strerror)

    async def _start(self, connection: socket.socket) -> None:
        await self._loop.connect_accepted_socket(self._protocol_factory, connection)

    async def _start_with_room(self, connection: socket.socket) -> None:
        assert self._wait_for_room is not None
        try:
            await self._wait_for_room()
        except BaseException:
            connection.close()
            raise
        finally:
            self._resume_after(PAUSE_S)
        await self._start(connection)
