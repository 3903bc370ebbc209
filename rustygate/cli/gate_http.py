"""HTTP requests to a running gate, with the standard library's client, which imports quickly."""

import json
import re
import socket
from http.client import HTTPConnection, HTTPException, HTTPSConnection, InvalidURL
from urllib.parse import urlsplit

from rustygate.cli.errors import CommandError, describe_error
from rustygate.cli.output import printable
from rustygate.config import UNIX_PREFIX, names
from rustygate.system import tls

# How much of a gate's error message is shown.
_MESSAGE_LENGTH = 500

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
    """A connection that is not open yet, and the prefix of the paths of the gate's own pages.

    Raises CommandError for a bad URL.

    Args:
        base_url: with or without `/v1`.
        verify: whether to verify the certificate. That of the gate on this machine names another
            host than the address used to reach it here.
    """
    try:
        connection, path = _connection_to(base_url, timeout_s, verify=verify)
    except (ValueError, InvalidURL) as error:
        raise CommandError(f"{base_url!r}: {_EXPECTED}", exit_code=2) from error
    return connection, path.rstrip("/").removesuffix("/v1")


def _connection_to(base_url: str, timeout_s: float, *, verify: bool) -> tuple[HTTPConnection, str]:
    if base_url.startswith(UNIX_PREFIX):
        return _UnixConnection(base_url.removeprefix(UNIX_PREFIX), timeout_s), ""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        raise ValueError("not a base URL")
    if not re.fullmatch(r"[!-~]*", parts.path):
        raise ValueError("not a path that can be sent")
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname, parts.port, timeout=timeout_s), parts.path
    context = None if verify else tls.unverified_context()
    connection = HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=context)
    return connection, parts.path


class AdminPages:
    """The pages of a gate that may need its admin key.

    Args:
        refuses: the start of the error if a page fails, such as "does not report usage".
        verify: as in `connect`.
    """

    def __init__(
        self,
        url: str,
        admin_key: str | None,
        timeout_s: float,
        refuses: str,
        *,
        verify: bool = True,
    ) -> None:
        self._url = url
        self._headers = {} if admin_key is None else {"Authorization": f"Bearer {admin_key}"}
        self._refuses = refuses
        self._connection, self._path = connect(url, timeout_s, verify=verify)

    def __repr__(self) -> str:
        return f"<AdminPages {self._url}>"

    def get(self, target: str) -> bytes:
        """The body of a page. Raises CommandError."""
        try:
            self._connection.request("GET", self._path + target, headers=self._headers)
            response = self._connection.getresponse()
            status, body = response.status, response.read()
        except (OSError, HTTPException, ValueError) as error:
            # The next request connects again.
            self._connection.close()
            raise CommandError(f"{self._url} does not respond: {describe_error(error)}") from error
        if status != 200:
            raise self.error(_reason(status, body))
        return body

    def error(self, reason: str) -> CommandError:
        """The error for a page that cannot be used."""
        return CommandError(f"{self._url} {self._refuses}: {reason}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _reason(status: int, body: bytes) -> str:
    """Why a gate refuses: its own message if there is one."""
    if status == 401:
        return f"set {names.ADMIN_KEY} or {names.ADMIN_KEY_FILE} to its admin key"
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"status {status}"
    return printable(message[:_MESSAGE_LENGTH])
