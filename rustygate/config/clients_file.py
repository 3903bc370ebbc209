"""The file of `CLIENTS_FILE`: read as a whole or rejected, and replaced as a whole.

`core.clients` parses it.
"""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from tempfile import NamedTemporaryFile

from rustygate.config.table_files import TableFileError, read_table
from rustygate.core.clients import Clients, ClientsError, parse_clients

# The gate may run as another user of the group; the file contains hashes, no keys.
_NEW_FILE_MODE = 0o640


def read_clients_file(path: str) -> Clients:
    """The clients in a file. Raises ClientsError."""
    return parse_clients(_read(path))


def modification_time(path: str) -> int:
    """When the file was changed, in microseconds; 0 if it is not there."""
    try:
        return os.stat(path).st_mtime_ns // 1000
    except OSError:
        return 0


def append_to_clients_file(
    path: str, name: str, table: str, before: Callable[[], None] = lambda: None
) -> None:
    """Add the table of a new client at the end of a file, which is created if it is missing.

    `before` is called when the new content is on the disk and only has to take the place of the
    old one; if it raises, nothing is changed.

    The file keeps its mode and, where allowed, its owner. Raises ClientsError and changes nothing
    if the file is invalid or has a client of that name, and OSError if it cannot be replaced.
    Anything but a regular file is invalid: to replace a device would remove it for everybody.
    """
    path = os.path.realpath(path)
    _require_regular_file(path)
    with _locked(os.path.dirname(path)):
        text = _read(path) if os.path.lexists(path) else ""
        if name in parse_clients(text).by_name:
            raise ClientsError([f"client.{name} already exists; choose another name"])
        separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        text += f"{separator}{table}\n"
        parse_clients(text)
        _replace(path, text, before)


def _require_regular_file(path: str) -> None:
    """Raises ClientsError if the path leads to something else; it may lead to nothing."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ClientsError(["expected a regular file, such as clients.toml"])


def _replace(path: str, text: str, before: Callable[[], None]) -> None:
    """Replace a file atomically: readers get the old content or the new one."""
    with NamedTemporaryFile(
        "w", encoding="utf-8", newline="", dir=os.path.dirname(path), delete=False
    ) as file:
        try:
            _copy_owner_and_mode(path, file.fileno())
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            before()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _copy_owner_and_mode(path: str, descriptor: int) -> None:
    try:
        old = os.stat(path)
    except FileNotFoundError:
        os.fchmod(descriptor, _NEW_FILE_MODE)
        return
    with suppress(PermissionError):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """One writer at a time. The file itself cannot be locked, because it is replaced."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: str) -> str:
    """The text of a file. Raises ClientsError."""
    try:
        return read_table(path)
    except TableFileError as error:
        raise ClientsError([str(error)]) from error
