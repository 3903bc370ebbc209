"""Listening sockets: a TCP port, with or without TLS, a unix socket, or inherited sockets.

The service manager opens inherited sockets and passes them on (sd_listen_fds(3)); they outlive
the gate.

Only the owner and the group may connect to a unix socket: it gets its mode before it listens, and
until then connections are refused. A stale socket, left by a crash, is replaced; a socket that
accepts connections, or any other file, is not. When the gate stops listening it removes its
socket, unless another file has taken its place.
"""

import asyncio
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import ceil

from yarl import URL

from rustygate.config import UNIX_PREFIX, ConfigError, Settings
from rustygate.downstream.acceptor import Acceptor, WaitForRoom
from rustygate.downstream.tls_accept import ProtocolFactory, TlsAcceptor
from rustygate.system.tls import ServerCertificate

# Connections that may wait to be accepted. A thousand clients may start at once.
BACKLOG = 1024

# Connecting needs write permission; clients run in the gate's group.
SOCKET_MODE = 0o660

# The file descriptor of the first inherited socket.
FIRST_FD = 3


class AddressInUse(OSError):
    """The path of a unix socket is taken; the message says by what."""


class Listener:
    """Accepts connections from `open` to `close`.

    With inherited sockets it listens only on those.

    Attributes:
        sockets: those that it listens on, after `bind`.
        url: its address, after `bind`.
    """

    def __init__(
        self, settings: Settings, sockets: Sequence[socket.socket] = (), processes: int = 1
    ) -> None:
        """`processes`: how many share the limit of TLS handshakes."""
        self._settings = settings
        self._inherits = bool(sockets)
        self._processes = processes
        self.sockets = list(sockets)
        self._acceptors: list[Acceptor] = []
        self._socket_file: tuple[int, int] | None = None
        # With HTTPS, after `open`.
        self._tls: TlsAcceptor | None = None
        self.url = ""

    @property
    def certificate(self) -> ServerCertificate | None:
        """The certificate that it serves HTTPS with, after `open`, if it does."""
        return None if self._tls is None else self._tls.certificate

    async def open(
        self,
        protocol_factory: ProtocolFactory,
        respond_to_plain_http: Callable[[asyncio.Transport], None] = asyncio.Transport.abort,
        wait_for_room: WaitForRoom | None = None,
    ) -> None:
        """Bind and accept. Raises OSError if the address is not available.

        Args:
            respond_to_plain_http: called with the transport of a client that speaks plain HTTP to
                a TLS port.
            wait_for_room: see `Acceptor`; only if the sockets are shared.
        """
        settings = self._settings
        if settings.tls_cert_file is not None and settings.tls_key_file is not None:
            certificate = ServerCertificate(settings.tls_cert_file, settings.tls_key_file)
            handshakes = ceil(settings.connection_limit / self._processes)
            self._tls = TlsAcceptor(
                certificate, protocol_factory, respond_to_plain_http, handshakes
            )
        if not self.url:
            await self.bind()
        for sock in self.sockets:
            is_unix = sock.family == socket.AF_UNIX
            factory = protocol_factory if is_unix else self._tls or protocol_factory
            acceptor = Acceptor(sock, factory, wait_for_room)
            acceptor.open()
            self._acceptors.append(acceptor)

    async def bind(self) -> None:
        """Listen, without accepting. Raises OSError if the address is not available."""
        path = self._settings.socket_path
        if self._inherits:
            urls = (_url(_with_address_of(self._settings, sock)) for sock in self.sockets)
            self.url = ",".join(urls)
        elif path is None:
            self.sockets = await _bind_port(self._settings.bind_address, self._settings.port)
            port = self.sockets[0].getsockname()[1]
            self.url = _url(replace(self._settings, port=port))
        else:
            self.sockets = [_listen(path)]
            self._socket_file = _identity(path)
            self.url = self._settings.bind_address

    def close(self) -> None:
        """Accept no more connections; open ones stay open."""
        path = self._settings.socket_path
        # No other file can have the socket's inode number while the socket is open.
        if (
            path is not None
            and self._socket_file is not None
            and _identity(path) == self._socket_file
        ):
            with suppress(OSError):
                os.unlink(path)
        self._socket_file = None
        for acceptor in self._acceptors:
            acceptor.close()
        for sock in self.sockets:
            sock.close()

    def abort_handshakes(self) -> None:
        """Abort the connections on which TLS has not started yet."""
        if self._tls is not None:
            self._tls.abort()


def inherited_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets that the service manager passes to this process, if any.

    Removes its variables from the environment. Raises ConfigError.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return []
    if not count.isdecimal():
        raise ConfigError([f"LISTEN_FDS={count[:9]!r}: expected a number of sockets"])
    return [_inherited_socket(number) for number in range(FIRST_FD, FIRST_FD + int(count))]


def _inherited_socket(number: int) -> socket.socket:
    """The listening socket of a file descriptor. Raises ConfigError if it is anything else."""
    expected = f"inherited file descriptor {number}: expected a listening stream socket"
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


def with_inherited_address(settings: Settings, sockets: Sequence[socket.socket]) -> Settings:
    """The settings with the address of the inherited sockets, if any, in place of their own.

    Of several addresses, one that other machines can reach is chosen, since the operator is
    warned about that.
    """
    candidates = [_with_address_of(settings, sock) for sock in sockets]
    return max(candidates, key=lambda candidate: candidate.exposed, default=settings)


def _with_address_of(settings: Settings, sock: socket.socket) -> Settings:
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


async def _bind_port(host: str, port: int) -> list[socket.socket]:
    """The sockets of a port, one for each address of the host."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    sockets = [sock.dup() for sock in server.sockets]
    server.close()
    for sock in sockets:
        sock.listen(BACKLOG)
    return sockets


def _listen(path: str) -> socket.socket:
    """A unix socket that listens at `path`."""
    with _locked(os.path.dirname(path)):
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
def _locked(directory: str) -> Iterator[None]:
    """Lock a directory, so that two gates that start at once do not replace each other's socket.

    The lock is held from the check of the path until the socket listens.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AddressInUse(f"another process has locked {directory}") from error
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: str) -> None:
    """Remove a stale socket. Raises `AddressInUse` if the path is taken by anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise AddressInUse("the path exists and is not a socket")
    if _is_listening(path):
        raise AddressInUse("another process is listening on it")
    os.unlink(path)


def _is_listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            # The backlog is full.
            return True
    return True


def _identity(path: str) -> tuple[int, int] | None:
    """The device and inode number of a file: another file at the same path has others."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
