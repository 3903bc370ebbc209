"""Uploaded files: counted and hashed as they come, and kept while there is room.

What is kept is bounded over all files, since a test may well upload more than fits in memory. A
file that nobody refers to any more gives back its room by itself.
"""

from collections.abc import Callable, Iterable
from hashlib import sha256
from itertools import chain, repeat
from typing import Protocol
from weakref import WeakKeyDictionary

# Bytes kept of all files together.
ROOM = 64 * 1024 * 1024

_ZEROS = bytes(64 * 1024)


class Content(Protocol):
    """What a file holds; `pieces` is None if it was not kept."""

    @property
    def size(self) -> int: ...

    @property
    def pieces(self) -> Iterable[bytes] | None: ...


class UploadedFile:
    """A file as it comes: what it is called, how long it is, its hash, and no byte of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        self._hash = sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self._hash.update(data)


class KeptFile(UploadedFile):
    """A file that is kept on a shelf while there is room."""

    def __init__(self, shelf: "Shelf", name: str) -> None:
        super().__init__(name)
        self._shelf = shelf
        self.pieces: list[bytes] | None = []

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.pieces is not None:
            self.pieces.append(data)
            self._shelf.take(self, len(data))

    def let_go(self) -> None:
        """Keep its bytes no longer."""
        if self.pieces is not None:
            self._shelf.used -= self.size
        self.pieces = None

    def __del__(self) -> None:
        self.let_go()


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
        self._files: WeakKeyDictionary[KeptFile, None] = WeakKeyDictionary()
        self.used = 0

    def file(self, name: str) -> KeptFile:
        """A file to be written."""
        return KeptFile(self, name)

    def maker(self, length: int | None) -> Callable[[str], KeptFile]:
        """What makes the files of a body of that length, if it is known; one that has no room
        is not begun to be kept, and drives out no other."""
        return self._unkept if length is not None and length > self._room else self.file

    def _unkept(self, name: str) -> KeptFile:
        file = self.file(name)
        file.let_go()
        return file

    def take(self, file: KeptFile, size: int) -> None:
        """Give a file more room; where there is not enough, the oldest go, itself the last."""
        self._files[file] = None
        self.used += size
        while self.used > self._room:
            oldest = next(iter(self._files))
            del self._files[oldest]
            oldest.let_go()

    def __repr__(self) -> str:
        return f"<Shelf {len(self._files)} files, {self.used} of {self._room} bytes>"
