"""Where the gate listens: a TCP port, in the clear or by TLS, or a unix socket.

The file of a unix socket is open to its owner and group alone, from its first instant: nobody can
connect before it listens, and it has its mode by then. One that nobody answers, left by a crash,
is replaced; one that somebody answers, and any other file, is not. At the end it is taken away,
unless it has been replaced by then.
"""

import asyncio
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from yarl import URL

from rustygate.config import Settings
from rustygate.tls import server_context

# Connections that may wait to be accepted: a thousand clients may start at once.
BACKLOG = 1024

# What a TLS handshake, and a goodbye, may take before the connection is aborted. A slow phone
# needs two seconds; asyncio would give either a minute or half of one.
HANDSHAKE_TIMEOUT_S = 10.0

# Connecting takes the right to write; who may do so shares the gate's group.
SOCKET_MODE = 0o660


class Occupied(OSError):
    """A unix socket's path is taken; says by what."""


class Listener:
    """Accepts connections from `open` to `close`. `url` is where, once it does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: asyncio.Server | None = None
        self._file: tuple[int, int] | None = None
        self.url = ""

    async def open(self, connected: Callable[[], asyncio.Protocol]) -> None:
        """Bind and accept. Raises OSError if the address cannot be had."""
        path = self._settings.socket_path
        if path is None:
            await self._open_port(connected)
        else:
            await self._open_file(connected, path)

    async def _open_port(self, connected: Callable[[], asyncio.Protocol]) -> None:
        loop, settings = asyncio.get_running_loop(), self._settings
        host = settings.bind_address
        self._server = await loop.create_server(
            connected, host, settings.port, backlog=BACKLOG, **_tls_options(settings)
        )
        port = self._server.sockets[0].getsockname()[1]
        scheme = "https" if settings.tls_cert_file else "http"
        self.url = str(URL.build(scheme=scheme, host=host, port=port))

    async def _open_file(self, connected: Callable[[], asyncio.Protocol], path: str) -> None:
        sock = _listen(path)
        self._file = _identity(path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(connected, sock=sock, backlog=BACKLOG)
        self.url = self._settings.bind_address

    def close(self) -> None:
        """Accept no more. Connections stay as they are."""
        path = self._settings.socket_path
        # While the socket is open no other file can have its number.
        if path is not None and self._file is not None and _identity(path) == self._file:
            with suppress(OSError):
                os.unlink(path)
        self._file = None
        if self._server is not None:
            self._server.close()


def _tls_options(settings: Settings) -> dict[str, Any]:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return {}
    return {
        "ssl": server_context(settings.tls_cert_file, settings.tls_key_file),
        "ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S,
        "ssl_shutdown_timeout": HANDSHAKE_TIMEOUT_S,
    }


def _listen(path: str) -> socket.socket:
    """A unix socket that listens at `path`."""
    with _alone_in(os.path.dirname(path)):
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(path)
            os.chmod(path, SOCKET_MODE)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
    return sock


@contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """Keep other gates from replacing what is about to listen: two may start at once."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Occupied(f"another process has locked {directory}") from error
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody answers. Raises `Occupied` for anything else that is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise Occupied("there is a file, and it is no socket")
    if _is_answered(path):
        raise Occupied("another process listens there")
    os.unlink(path)


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            # So many connections wait there that no more fit in.
            return True
    return True


def _identity(path: str) -> tuple[int, int] | None:
    """What tells a file from one that was put in its place."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
