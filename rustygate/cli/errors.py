"""What goes wrong with a command, and how it is printed."""

import os
import ssl
import sys
from errno import EADDRNOTAVAIL

from rustygate.system import tls


class CommandError(Exception):
    """A failure that has been understood; its text is for the person at the terminal."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def print_errors(*lines: str) -> None:
    for line in lines:
        print(f"rustygate: {line}", file=sys.stderr)


def reason_of(error: Exception) -> str:
    """What an error means, in words that hold no value of anybody's."""
    if isinstance(error, ssl.SSLError):
        return tls.words(error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return type(error).__name__


def cannot_listen(host: str, port: int | None, error: OSError) -> CommandError:
    where = host if port is None else f"{host}, port {port}"
    # Python 3.13 passes over addresses that are another machine's, and then has no number for it.
    reason = os.strerror(EADDRNOTAVAIL) if error.errno is None else reason_of(error)
    return CommandError(f"cannot listen on {where}: {reason}")
