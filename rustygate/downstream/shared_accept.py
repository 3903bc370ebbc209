"""Accepts connections from a socket that other processes accept from, too.

When many connections arrive at once, the process that runs first could accept most of them before
the others run. So each process pauses for a moment after each connection. Of 64 connections at
once, the busiest of three processes then accepts 34 to 45%, instead of 47 to 89%. SO_REUSEPORT
would give 38 to 41%, but would also give connections to a process that hangs, and is not available
for unix sockets and those of a service manager.

If the limit of connections is reached and none is idle here, other processes are asked to close an
idle one. Meanwhile no more connections are accepted.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from loguru import logger

from rustygate.downstream.tls_accept import ProtocolFactory
from rustygate.system.background import start_task

# After a connection: long enough for other processes to run, and short enough for a crowd.
_PAUSE_S = 0.0005

WaitForRoom = Callable[[], Awaitable[None]]

# When the system has no room for another connection.
_RETRY_S = 1.0


class SharedAcceptor:
    """Accepts connections from `open` to `close`.

    Args:
        wait_for_room: called before each connection starts.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol_factory: ProtocolFactory,
        wait_for_room: WaitForRoom,
    ) -> None:
        self._sock = sock
        self._protocol_factory = protocol_factory
        self._wait_for_room = wait_for_room
        self._is_open = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

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
        self._loop.add_reader(self._sock, self._accept)

    def _resume_after(self, seconds: float) -> None:
        if self._is_open:
            self._timer = self._loop.call_later(seconds, self._resume)

    def _accept(self) -> None:
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process has it
        except OSError as error:
            logger.error("cannot accept connections for {:g} s: {}", _RETRY_S, error.strerror)
            self._loop.remove_reader(self._sock)
            self._resume_after(_RETRY_S)
            return
        self._loop.remove_reader(self._sock)
        connection.setblocking(False)
        start_task("accepting a connection", self._start(connection))

    async def _start(self, connection: socket.socket) -> None:
        try:
            await self._wait_for_room()
        except BaseException:
            connection.close()
            raise
        finally:
            self._resume_after(_PAUSE_S)
        await self._loop.connect_accepted_socket(self._protocol_factory, connection)
