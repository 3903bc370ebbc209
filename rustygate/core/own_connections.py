"""Which connections from clients are the gate's own, coming back to it.

A connection has two ends, each an address and a port. If the gate has connected to itself, under
whatever name, the ends of its connection to upstream are those of a connection from a client, the
other way round. One end is not enough: at the same time the system may give the same port to a
client on this machine, for a connection to another port.

A loop through another program, such as a reverse proxy, is not seen: that connection is not ours.
"""

from collections.abc import Callable

# An address and a port, as sockets name them; IPv6 sockets add two numbers. Unix sockets have a
# path, and closed ones None.
SocketName = object

_End = tuple[str, int]

# How a dual-stack socket writes an IPv4 address (RFC 4291, 2.5.5.2).
_MAPPED = "::ffff:"


class OwnConnections:
    """The open connections to upstream, by their ends.

    Attributes:
        version: increases with each connection.
        on_added: called with the ends of each connection that this process opens.
    """

    def __init__(self) -> None:
        self._open: set[tuple[_End, _End]] = set()
        self.version = 0
        self.on_added: Callable[[SocketName, SocketName], None] = lambda local, remote: None

    def __repr__(self) -> str:
        return f"<OwnConnections {len(self._open)}>"

    def add(self, local: SocketName, remote: SocketName) -> None:
        """Add a connection to upstream."""
        self.add_sibling(local, remote)
        self.on_added(local, remote)

    def add_sibling(self, local: SocketName, remote: SocketName) -> None:
        """Add a connection of another process of this gate."""
        ends = _ends(local, remote)
        if ends is not None:
            self._open.add(ends)
            self.version += 1

    def discard(self, local: SocketName, remote: SocketName) -> None:
        """Forget a connection that is closed."""
        ends = _ends(local, remote)
        if ends is not None:
            self._open.discard(ends)

    def includes(self, local: SocketName, remote: SocketName) -> bool:
        """Whether a connection from a client is one of these."""
        return _ends(remote, local) in self._open


def _ends(first: SocketName, second: SocketName) -> tuple[_End, _End] | None:
    ends = _end(first), _end(second)
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def _end(name: SocketName) -> _End | None:
    match name:
        case (str(host), int(port), *_):
            return host.lower().removeprefix(_MAPPED), port
    return None
