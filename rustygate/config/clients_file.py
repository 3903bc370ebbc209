"""The file of clients: read whole or not at all."""

import os
import stat
from collections.abc import Mapping

from rustygate.config.masking import shown
from rustygate.core.clients import Clients, ClientsError, parse_clients

CLIENTS = "CLIENTS_FILE"

# A few hundred bytes a client; what is much larger was named by mistake.
_CLIENTS_SIZE = 16 << 20


def read_clients_file(path: str) -> Clients:
    """The clients of a file. Raises ClientsError."""
    try:
        # Opening a pipe would wait for who writes to it, and it can be read only once.
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise ClientsError(["expected a file that can be read again, no pipe"])
        with open(path, "rb") as file:
            text = file.read(_CLIENTS_SIZE + 1)
    except OSError as error:
        raise ClientsError([f"expected a readable file ({error.strerror})"]) from error
    # What is cut off may be clients, or the limits of one.
    if len(text) > _CLIENTS_SIZE:
        raise ClientsError([f"expected a file of at most {_CLIENTS_SIZE} bytes"])
    try:
        return parse_clients(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ClientsError(["expected a file in UTF-8"]) from error


def clients_problems(given: Mapping[str, str]) -> list[str]:
    try:
        read_clients_file(given[CLIENTS])
    except ClientsError as error:
        return [f"{CLIENTS}={shown(given[CLIENTS])}: {each}" for each in error.problems]
    return []
