"""Where the gate listens: a TCP port, in the clear or by TLS, a unix socket, or sockets that the
service manager has opened and hands over (sd_listen_fds(3)), which outlast the gate.

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
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from yarl import URL

from rustygate.config import UNIX_PREFIX, ConfigError, Settings
from rustygate.system.tls import server_context

# Connections that may wait to be accepted: a thousand clients may start at once.
BACKLOG = 1024

# What a TLS handshake, and a goodbye, may take before the connection is aborted. A slow phone
# needs two seconds; asyncio would give either a minute or half of one.
HANDSHAKE_TIMEOUT_S = 10.0

# Connecting takes the right to write; who may do so shares the gate's group.
SOCKET_MODE = 0o660


# The first file descriptor that is handed over.
FIRST_FD = 3


class Occupied(OSError):
    """A unix socket's path is taken; says by what."""


class Listener:
    """Accepts connections from `open` to `close`. `url` is where, once it does.

    With sockets that were handed over it listens on these, and on nothing of its own.
    """

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket] = ()) -> None:
        self._settings = settings
        self._sockets = sockets
        self._servers: list[asyncio.Server] = []
        self._file: tuple[int, int] | None = None
        self.url = ""

    async def open(self, connected: Callable[[], asyncio.Protocol]) -> None:
        """Bind and accept. Raises OSError if the address cannot be had."""
        path = self._settings.socket_path
        if self._sockets:
            await self._open_sockets(connected)
        elif path is None:
            await self._open_port(connected)
        else:
            await self._open_file(connected, path)

    async def _open_sockets(self, connected: Callable[[], asyncio.Protocol]) -> None:
        loop, urls = asyncio.get_running_loop(), []
        for sock in self._sockets:
            tls = {} if sock.family == socket.AF_UNIX else _tls_options(self._settings)
            server = await loop.create_server(connected, sock=sock, backlog=BACKLOG, **tls)
            self._servers.append(server)
            urls.append(_url(_stated(self._settings, sock)))
        self.url = ",".join(urls)

    async def _open_port(self, connected: Callable[[], asyncio.Protocol]) -> None:
        loop, settings = asyncio.get_running_loop(), self._settings
        host = settings.bind_address
        server = await loop.create_server(
            connected, host, settings.port, backlog=BACKLOG, **_tls_options(settings)
        )
        self._servers.append(server)
        self.url = _url(replace(settings, port=server.sockets[0].getsockname()[1]))

    async def _open_file(self, connected: Callable[[], asyncio.Protocol], path: str) -> None:
        sock = _listen(path)
        self._file = _identity(path)
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(connected, sock=sock, backlog=BACKLOG))
        self.url = self._settings.bind_address

    async def retire(self) -> None:
        """Close, and cut off nobody who came by a socket that was handed over.

        asyncio drops what it accepted in the turn of the loop in which it closes. By a socket of
        the gate's own, those that are not accepted yet are cut off all the same.
        """
        if self._sockets:
            loop = asyncio.get_running_loop()
            for sock in self._sockets:
                loop.remove_reader(sock.fileno())
            await asyncio.sleep(0)
        self.close()

    def close(self) -> None:
        """Accept no more. Connections stay as they are."""
        path = self._settings.socket_path
        # While the socket is open no other file can have its number.
        if path is not None and self._file is not None and _identity(path) == self._file:
            with suppress(OSError):
                os.unlink(path)
        self._file = None
        for server in self._servers:
            server.close()


def handed_over(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets that the service manager hands over to this process, if it does.

    Its variables are taken out of the environment. Raises ConfigError.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return []
    if not count.isdecimal():
        raise ConfigError([f"LISTEN_FDS={count[:9]!r}: expected a number of sockets"])
    return [_take(number) for number in range(FIRST_FD, FIRST_FD + int(count))]


def _take(number: int) -> socket.socket:
    """A file descriptor as the socket that it is to be."""
    expected = f"file descriptor {number}, handed over: expected a stream socket that listens"
    try:
        sock = socket.socket(fileno=number)
        sock.set_inheritable(False)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError([f"{expected} ({error.strerror})"]) from error
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if not listens or sock.type != socket.SOCK_STREAM or sock.family not in families:
        sock.close()
        raise ConfigError([f"{expected}, TCP or unix"])
    return sock


def stated(settings: Settings, sockets: Sequence[socket.socket]) -> Settings:
    """The settings with the address of what was handed over in place of their own.

    Of several the one that others can connect to counts, for that is what must be told.
    """
    each = [_stated(settings, sock) for sock in sockets]
    return max(each, key=lambda one: one.exposed, default=settings)


def _stated(settings: Settings, sock: socket.socket) -> Settings:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = os.fsdecode(name).replace("\0", "@", 1)
        return replace(settings, bind_address=UNIX_PREFIX + path)
    return replace(settings, bind_address=name[0], port=name[1])


def _url(settings: Settings) -> str:
    if settings.socket_path is not None:
        return settings.bind_address
    scheme = "https" if settings.tls_cert_file else "http"
    return str(URL.build(scheme=scheme, host=settings.bind_address, port=settings.port))


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
