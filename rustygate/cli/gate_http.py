"""HTTP requests to a running gate, by the standard library, which is quick to import."""

import socket
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit

from rustygate.cli.errors import CommandError
from rustygate.config import UNIX_PREFIX
from rustygate.system import tls

_EXPECTED = "expected a base URL such as http://localhost:8080, or unix:/path"


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connect(base_url: str, timeout_s: float, *, verify: bool = True) -> tuple[HTTPConnection, str]:
    """A connection that is not open yet, and what precedes the paths of the gate's own pages.

    Raises CommandError for a bad URL.

    Args:
        base_url: with or without `/v1`.
        verify: whether to verify the certificate. That of the gate on this machine names another
            host than the address used to reach it here.
    """
    try:
        connection, path = _connection_to(base_url, timeout_s, verify=verify)
    except ValueError as error:
        raise CommandError(f"{base_url!r}: {_EXPECTED}", exit_code=2) from error
    return connection, path.rstrip("/").removesuffix("/v1")


def _connection_to(base_url: str, timeout_s: float, *, verify: bool) -> tuple[HTTPConnection, str]:
    if base_url.startswith(UNIX_PREFIX):
        return _UnixConnection(base_url.removeprefix(UNIX_PREFIX), timeout_s), ""
    parts = urlsplit(base_url)
    if parts.hostname is None or parts.scheme not in ("http", "https"):
        raise ValueError("not a base URL")
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname, parts.port, timeout=timeout_s), parts.path
    context = None if verify else tls.unverified_context()
    connection = HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=context)
    return connection, parts.path
