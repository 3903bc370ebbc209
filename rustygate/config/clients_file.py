"""The file of `CLIENTS_FILE`: read as a whole or rejected; `core.clients` parses it."""

import os
import stat

from rustygate.core.clients import Clients, ClientsError, parse_clients

# A client takes a few hundred bytes; a much larger file is the wrong one.
_FILE_SIZE_LIMIT = 16 << 20


def read_clients_file(path: str) -> Clients:
    """The clients in a file. Raises ClientsError."""
    try:
        # Opening a pipe would block until it has a writer, and a pipe can be read only once.
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise ClientsError(["expected a file that can be read again, not a pipe"])
        with open(path, "rb") as file:
            content = file.read(_FILE_SIZE_LIMIT + 1)
    except OSError as error:
        raise ClientsError([f"expected a readable file ({error.strerror})"]) from error
    # Reading only a part could lose clients, or the limits of a client.
    if len(content) > _FILE_SIZE_LIMIT:
        raise ClientsError([f"expected a file of at most {_FILE_SIZE_LIMIT} bytes"])
    try:
        return parse_clients(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ClientsError(["expected a UTF-8 file"]) from error
