"""`rustygate health`: check that the running gate responds.

A container runs it every few seconds, so it uses the standard library's HTTP client, which is
quick to import.
"""

import argparse
import os
import socket
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from rustygate.cli.environment import DOTENV, WITHOUT_KEYS
from rustygate.cli.errors import CommandError, describe_error
from rustygate.cli.output import OutputError, print_lines
from rustygate.cli.urls import local_url
from rustygate.config import UNIX_PREFIX, load
from rustygate.system import tls

# A gate that works responds to /health at once.
TIMEOUT_S = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "base_url",
        nargs="?",
        metavar="BASE-URL",
        help="the gate's URL (default: from BIND_ADDRESS and PORT)",
    )


def run(arguments: argparse.Namespace) -> int:
    base_url = arguments.base_url or _configured_url()
    try:
        connection, path = _connection_to(base_url, verify=arguments.base_url is not None)
    except ValueError as error:
        expected = "expected a base URL such as http://localhost:8080, or unix:/path"
        raise CommandError(f"{base_url!r}: {expected}", exit_code=2) from error
    try:
        connection.request("GET", f"{path.rstrip('/').removesuffix('/v1')}/health")
        status = connection.getresponse().status
    except (OSError, HTTPException, ValueError) as error:
        raise CommandError(f"{base_url} does not respond: {describe_error(error)}") from error
    finally:
        connection.close()
    if status != 200:
        raise CommandError(f"{base_url} responds to /health with status {status}")
    # What matters about a health check is its exit code.
    with suppress(OutputError):
        print_lines("OK")
    return 0


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def _connection_to(base_url: str, *, verify: bool) -> tuple[HTTPConnection, str]:
    """A connection that is not open yet, and the URL's path. Raises ValueError for a bad URL.

    Args:
        verify: whether to verify the certificate. That of the gate on this machine names another
            host than the address used to reach it here.
    """
    if base_url.startswith(UNIX_PREFIX):
        return _UnixConnection(base_url.removeprefix(UNIX_PREFIX)), ""
    parts = urlsplit(base_url)
    if parts.hostname is None or parts.scheme not in ("http", "https"):
        raise ValueError("not a base URL")
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S), parts.path
    context = None if verify else tls.unverified_context()
    connection = HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_S, context=context)
    return connection, parts.path


def _configured_url() -> str:
    """The URL at which this machine reaches a gate with the current settings."""
    settings = load({**os.environ, **WITHOUT_KEYS, "CLIENTS_FILE": ""}, dotenv=DOTENV)
    return local_url(settings, settings.port)
