"""Uploaded files: counted and hashed while they arrive, and kept while there is space.

The space of all files together is limited, since a test may upload more than fits in memory. A
file gives back its space when nothing refers to it any more.
"""

from collections.abc import Callable, Iterable
from hashlib import sha256
from itertools import chain, repeat
from typing import Protocol
from weakref import WeakKeyDictionary

# For all files together.
CAPACITY_BYTES = 64 * 1024 * 1024

_ZERO_CHUNK = bytes(64 * 1024)


class FileContent(Protocol):
    """The content of a file; `chunks` is None if it was not kept."""

    @property
    def size(self) -> int: ...

    @property
    def chunks(self) -> Iterable[bytes] | None: ...


class UploadedFile:
    """The name, size and hash of a file while it arrives; its bytes are not kept."""

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


class StoredFile(UploadedFile):
    """A file whose bytes are kept while its store has space."""

    def __init__(self, file_store: "FileStore", name: str) -> None:
        super().__init__(name)
        self._file_store = file_store
        self.chunks: list[bytes] | None = []

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.chunks is not None:
            self.chunks.append(data)
            self._file_store.reserve(self, len(data))

    def discard(self) -> None:
        """Drop the bytes of the file."""
        if self.chunks is not None:
            self._file_store.used_bytes -= self.size
        self.chunks = None

    def __del__(self) -> None:
        self.discard()


class ZeroFile:
    """A file of `size` zero bytes, generated when it is read."""

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def chunks(self) -> Iterable[bytes]:
        full_chunks, remainder = divmod(self.size, len(_ZERO_CHUNK))
        return chain(repeat(_ZERO_CHUNK, full_chunks), (_ZERO_CHUNK[:remainder],))


class FileStore:
    """Keeps the bytes of files; the oldest are discarded when there is no more space.

    A file takes space from its first byte on, so concurrent uploads share the limit.
    """

    def __init__(self, capacity: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity
        self._files: WeakKeyDictionary[StoredFile, None] = WeakKeyDictionary()
        self.used_bytes = 0

    def create(self, name: str) -> StoredFile:
        """A new file to write to."""
        return StoredFile(self, name)

    def factory_for(self, content_length: int | None) -> Callable[[str], StoredFile]:
        """What creates the files in a body of that length, or of unknown length (None).

        Files of a body that cannot fit are not kept at all, so they displace no others.
        """
        if content_length is not None and content_length > self._capacity:
            return self._create_discarded
        return self.create

    def _create_discarded(self, name: str) -> StoredFile:
        file = self.create(name)
        file.discard()
        return file

    def reserve(self, file: StoredFile, size: int) -> None:
        """Give a file more space; if there is too little, the oldest files are discarded."""
        self._files[file] = None
        self.used_bytes += size
        while self.used_bytes > self._capacity:
            oldest = next(iter(self._files))
            del self._files[oldest]
            oldest.discard()

    def __repr__(self) -> str:
        usage = f"{self.used_bytes} of {self._capacity} bytes"
        return f"<FileStore files={len(self._files)}, {usage}>"
