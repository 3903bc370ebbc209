"""Storage of uploaded files, and its limit."""

from hashlib import sha256
from typing import Any

import pytest

from rustygate.simulator.storage.file_store import FileStore, StoredFile, ZeroFile


def write_file(file_store: FileStore, *chunks: bytes) -> StoredFile:
    file = file_store.create("f")
    for chunk in chunks:
        file.write(chunk)
    return file


def test_oldest_file_is_discarded_when_space_runs_out() -> None:
    file_store = FileStore(capacity=10)
    first, second, third = (write_file(file_store, b"abcd") for _ in range(3))
    assert first.chunks is None
    assert second.chunks == third.chunks == [b"abcd"]
    assert repr(file_store) == "<FileStore files=2, 8 of 10 bytes>"


def test_file_above_the_capacity_is_counted_and_hashed_but_not_kept() -> None:
    file_store = FileStore(capacity=10)
    file = write_file(file_store, b"abcd", b"efgh", b"ijkl")
    assert (file.size, file.sha256) == (12, sha256(b"abcdefghijkl").hexdigest())
    assert file.chunks is None
    assert file_store.used_bytes == 0


def test_file_in_a_body_that_is_too_large_displaces_no_other() -> None:
    file_store = FileStore(capacity=10)
    other = write_file(file_store, b"abcd")
    large = file_store.factory_for(11)("f")
    large.write(bytes(11))
    assert (large.size, large.chunks, other.chunks) == (11, None, [b"abcd"])
    for length in (10, None):
        assert file_store.factory_for(length)("f").chunks == []


def test_concurrent_files_share_the_capacity() -> None:
    file_store = FileStore(capacity=10)
    first, second = file_store.create("1"), file_store.create("2")
    for _ in range(3):
        first.write(b"xx")
        second.write(b"yy")
    assert first.chunks is None
    assert second.chunks == [b"yy", b"yy", b"yy"]
    assert file_store.used_bytes == 6


def test_unreferenced_file_gives_back_its_space() -> None:
    file_store = FileStore(capacity=10)
    file, other = write_file(file_store, b"abcd"), write_file(file_store, b"ef")
    del file
    assert repr(file_store) == "<FileStore files=1, 2 of 10 bytes>"
    other.discard()
    del other
    assert repr(file_store) == "<FileStore files=0, 0 of 10 bytes>"


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 200_000])
def test_zero_file_has_the_requested_size(size: int) -> None:
    zero_file: Any = ZeroFile(size)
    assert b"".join(zero_file.chunks) == bytes(size)
