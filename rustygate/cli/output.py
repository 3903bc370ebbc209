"""What commands print: results on stdout, the rest on stderr.

A result that cannot be printed is an error: `check > file` must not succeed on a full disk. Errors
and warnings that cannot be printed are dropped; the exit code still reports errors.
"""

import os
import sys
from contextlib import suppress
from errno import EBADF, EPIPE
from typing import Literal, TextIO

from rustygate.cli.errors import CommandError

Stream = Literal["stdout", "stderr"]


class OutputError(CommandError):
    """A stream is closed, its reader has left, or the disk is full.

    It has no lines if the reader has left, as `head` does on purpose.
    """

    def __init__(self, stream: Stream, error: OSError) -> None:
        self.reason = os.strerror(error.errno or 0)
        lines = [] if error.errno == EPIPE else [f"cannot write to {stream}: {self.reason}"]
        super().__init__(*lines)


def print_lines(*lines: str, stream: Stream = "stdout") -> None:
    """Print lines at once. Raises OutputError if that fails."""
    output: TextIO | None = getattr(sys, stream)
    try:
        if output is None:
            # It was closed when the process started. `print` would use stdout instead.
            raise OSError(EBADF, os.strerror(EBADF))
        print(*(_encodable(line, output) for line in lines), sep="\n", file=output, flush=True)
    except OSError as error:
        raise OutputError(stream, error) from error


def _encodable(line: str, output: TextIO) -> str:
    """A line, with escapes for characters that the locale's encoding lacks."""
    encoding = output.encoding or "utf-8"
    try:
        line.encode(encoding, output.errors or "strict")
        return line
    except UnicodeEncodeError:
        return line.encode(encoding, "backslashreplace").decode(encoding)


def flush_help() -> None:
    """Write out the help that argparse has printed. Raises OutputError if that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        raise OutputError("stdout", error) from error


def drop_unwritten() -> None:
    """Drop what could not be printed: flushing it at exit would fail, and change the exit code."""
    for output in (sys.stdout, sys.stderr):
        try:
            if output is not None:
                output.flush()
        except OSError:
            with suppress(OSError), open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), output.fileno())


def printable(text: str) -> str:
    """A text with escapes for control characters and for marks that change the direction."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
