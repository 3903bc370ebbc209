"""Uploaded files: counted and hashed as they come, and kept while there is room.

What is kept is bounded over all files, since a test may well upload more than fits in memory.
"""

from collections.abc import Iterable
from hashlib import sha256
from itertools import chain, repeat

# Bytes kept of all files together.
ROOM = 64 * 1024 * 1024

_ZEROS = bytes(64 * 1024)


class UploadedFile:
    """A file as it comes: what it is called, how long it is, its hash, and no byte of it."""

    def __init__(self, name: str, type: str) -> None:
        self.name = name
        self.type = type
        self.size = 0
        self._hash = sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self._hash.update(data)

    def drop(self) -> None:
        """Nobody wants it any more."""


class KeptFile(UploadedFile):
    """A file that is kept on a shelf while there is room.

    `pieces` are its bytes; None, if there was no room.
    """

    def __init__(self, shelf: "Shelf", name: str, type: str) -> None:
        super().__init__(name, type)
        self._shelf = shelf
        self.pieces: list[bytes] | None = []

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.pieces is not None:
            self.pieces.append(data)
            self._shelf.take(self, len(data))

    def drop(self) -> None:
        self._shelf.drop(self)


class Zeros:
    """A file of so many zero bytes, which takes no room."""

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def pieces(self) -> Iterable[bytes]:
        whole, rest = divmod(self.size, len(_ZEROS))
        return chain(repeat(_ZEROS, whole), (_ZEROS[:rest],))


class Shelf:
    """The files that are kept; beyond the room there is, the oldest go.

    A file takes room from its first byte on: many that come at once stay within bounds together.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._sizes: dict[KeptFile, int] = {}
        self.used = 0

    def file(self, name: str, type: str) -> KeptFile:
        """A file to be written."""
        return KeptFile(self, name, type)

    def take(self, file: KeptFile, size: int) -> None:
        """Give a file more room; if there is not enough of it, it is the last to go."""
        self._sizes[file] = self._sizes.get(file, 0) + size
        self.used += size
        while self.used > self._room:
            self.drop(next(iter(self._sizes)))

    def drop(self, file: KeptFile) -> None:
        """Keep a file no longer."""
        self.used -= self._sizes.pop(file, 0)
        file.pieces = None

    def __repr__(self) -> str:
        return f"<Shelf {len(self._sizes)} files, {self.used} of {self._room} bytes>"
