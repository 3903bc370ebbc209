"""Errors of a command, and how they are printed."""

import os
import ssl
import sys
from contextlib import suppress
from errno import EADDRNOTAVAIL

from rustygate.system import tls


class CommandError(Exception):
    """An expected failure. Its lines are printed for the user, without a traceback."""

    def __init__(self, *lines: str, exit_code: int = 1) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.exit_code = exit_code


def print_errors(*lines: str) -> None:
    """Print lines on stderr, if it can be written to."""
    # If stderr is closed, it is None, and `print` would use stdout instead.
    if sys.stderr is not None:
        with suppress(OSError):
            for line in lines:
                print(f"rustygate: {line}", file=sys.stderr, flush=True)


def print_warnings(*lines: str) -> None:
    print_errors(*(f"warning: {line}" for line in lines))


def describe_error(error: Exception) -> str:
    """The reason for an error, in words that contain none of the values involved."""
    if isinstance(error, ssl.SSLError):
        return tls.describe_ssl_error(error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return type(error).__name__


def cannot_listen(host: str, port: int | None, error: OSError) -> CommandError:
    address = host if port is None else f"{host}, port {port}"
    # Python 3.13 skips addresses of other machines, and then raises an error without a number.
    reason = os.strerror(EADDRNOTAVAIL) if error.errno is None else describe_error(error)
    return CommandError(f"cannot listen on {address}: {reason}")
