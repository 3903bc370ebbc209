"""`rustygate health`: ask the running gate."""

import argparse
import os
import socket
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from rustygate.cli.environment import DOTENV, WITHOUT_KEY
from rustygate.cli.errors import CommandError, reason_of
from rustygate.cli.urls import reachable
from rustygate.config import UNIX, load
from rustygate.system import tls

# The gate answers /health at once or not at all.
HEALTH_TIMEOUT_S = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "base_url", nargs="?", metavar="BASE-URL", help="default: as BIND_ADDRESS and PORT say"
    )


def run(arguments: argparse.Namespace) -> int:
    base_url = arguments.base_url or _own_url()
    try:
        connection, path = _connection_to(base_url, own=arguments.base_url is None)
    except ValueError as error:
        expected = "expected a base URL such as http://localhost:8080, or unix:/path"
        raise CommandError(f"{base_url!r}: {expected}", exit_code=2) from error
    try:
        connection.request("GET", f"{path.rstrip('/').removesuffix('/v1')}/health")
        status = connection.getresponse().status
    except (OSError, HTTPException, ValueError) as error:
        raise CommandError(f"{base_url} does not answer: {reason_of(error)}") from error
    finally:
        connection.close()
    if status != 200:
        raise CommandError(f"{base_url} answers /health with {status}")
    print("OK", flush=True)
    return 0


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=HEALTH_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(HEALTH_TIMEOUT_S)
        self.sock.connect(self._path)


def _connection_to(base_url: str, *, own: bool) -> tuple[HTTPConnection, str]:
    """A connection, not made yet, and the path below it. Raises ValueError if it is no URL.

    Args:
        own: it is this machine, whose certificate has other names than it is asked by here.
    """
    if base_url.startswith(UNIX):
        return _UnixConnection(base_url.removeprefix(UNIX)), ""
    parts = urlsplit(base_url)
    if parts.hostname is None or parts.scheme not in ("http", "https"):
        raise ValueError("no base URL")
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname, parts.port, timeout=HEALTH_TIMEOUT_S), parts.path
    context = tls.unverified_context() if own else None
    connection = HTTPSConnection(
        parts.hostname, parts.port, timeout=HEALTH_TIMEOUT_S, context=context
    )
    return connection, parts.path


def _own_url() -> str:
    """Where a gate with these settings is reached from this machine."""
    settings = load({**os.environ, **WITHOUT_KEY, "CLIENTS_FILE": ""}, dotenv=DOTENV)
    return reachable(settings, settings.port)
