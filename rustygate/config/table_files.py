"""Reading the TOML files that settings name: as a whole or not at all."""

import os
import stat

# A client takes a few hundred bytes; a much larger file is the wrong one.
_FILE_SIZE_LIMIT = 16 << 20


class TableFileError(ValueError):
    """A file cannot be read: the message says what was expected."""


def read_table(path: str) -> str:
    """The text of a file. Raises TableFileError."""
    try:
        # Opening a pipe would block until it has a writer, and a pipe can be read only once.
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise TableFileError("expected a file that can be read again, not a pipe")
        with open(path, "rb") as file:
            content = file.read(_FILE_SIZE_LIMIT + 1)
    except OSError as error:
        raise TableFileError(f"expected a readable file ({error.strerror})") from error
    # Reading only a part could lose clients, or the limits of a client.
    if len(content) > _FILE_SIZE_LIMIT:
        raise TableFileError(f"expected a file of at most {_FILE_SIZE_LIMIT} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableFileError("expected a UTF-8 file") from error
