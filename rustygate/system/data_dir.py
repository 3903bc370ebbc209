"""The directory DATA_DIR: creates it, locks it for one gate, and renames broken files.

The lock is flock(2) on a file in the directory. The kernel releases it when the process ends, even
if it is killed.
"""

import errno
import fcntl
import os
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

# Holds the lock, and the number of the process that has it.
LOCK_FILE = "gate.lock"

# Names of clients and their spending are not for other users.
_DIRECTORY_MODE = 0o700
_LOCK_MODE = 0o600

# Errors of flock(2) that mean that another process has the lock.
_LOCKED = (errno.EWOULDBLOCK, errno.EACCES)

# Longer than any process number.
_LOCK_READ_LIMIT = 32


class DataDirInUse(Exception):
    """Another gate uses the directory. The message names the directory and that process."""


class DataDir:
    """A directory that belongs to this process until it is `close`d.

    Raises DataDirInUse, or OSError if it cannot be created or written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.path.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        self._lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, _LOCK_MODE)
        try:
            self._take_lock()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<DataDir {self.path}>"

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _LOCKED:
                raise DataDirInUse(_in_use(self.path, self._lock)) from None
            raise
        # The lock also works without the number.
        with suppress(OSError):
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Release the directory for another gate."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def is_no_directory(path: str) -> bool:
    """Whether the path, or an existing part of it, is not a directory."""
    return not _existing(Path(path)).is_dir()


def data_dir_problem(path: str) -> str | None:
    """Why a gate could not keep its data there, as far as that is known in advance."""
    directory = _existing(Path(path))
    if os.access(directory, os.W_OK | os.X_OK):
        return None
    read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    return os.strerror(errno.EROFS if read_only else errno.EACCES)


def data_dir_warning(path: str, problem: str | None) -> str:
    """The warning that a gate cannot keep its data there."""
    return (
        f"DATA_DIR={path} cannot be written to ({problem}): usage and the levels of limits "
        "are kept in memory and lost when the gate stops"
    )


def _existing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if os.path.lexists(each))


def put_aside(path: Path, wall_ns: int, suffixes: tuple[str, ...] = ("",)) -> Path:
    """Rename a broken file to `NAME.broken-<UTC time>`; returns the new path.

    Args:
        wall_ns: the time of the wall clock, in nanoseconds since 1970.
        suffixes: of the files that belong together, such as a database and its log.
    """
    time = datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC)
    aside = _unused(path.with_name(f"{path.name}.broken-{time:%Y%m%dT%H%M%SZ}"))
    for suffix in suffixes:
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def _unused(path: Path) -> Path:
    """The path, with a number added if the file exists."""
    candidates = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return path if not path.exists() else next(each for each in candidates if not each.exists())


def _in_use(path: Path, lock: int) -> str:
    holder = os.pread(lock, _LOCK_READ_LIMIT, 0).decode("ascii", "replace").strip()
    process = f" (process {holder})" if holder.isdigit() else ""
    return f"DATA_DIR={path} is in use by another gate{process}; give each gate its own directory"
