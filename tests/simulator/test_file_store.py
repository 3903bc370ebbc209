"""The bytes of uploaded files, and their bound."""

from hashlib import sha256
from typing import Any

import pytest

from rustygate.simulator.storage.file_store import KeptFile, Shelf, Zeros


def written(shelf: Shelf, *pieces: bytes) -> KeptFile:
    file = shelf.file("f")
    for piece in pieces:
        file.write(piece)
    return file


def test_oldest_file_goes_when_there_is_no_room() -> None:
    shelf = Shelf(room=10)
    first, second, third = (written(shelf, b"abcd") for _ in range(3))
    assert first.pieces is None
    assert second.pieces == third.pieces == [b"abcd"]
    assert repr(shelf) == "<Shelf 2 files, 8 of 10 bytes>"


def test_file_longer_than_the_room_is_counted_and_hashed_but_not_kept() -> None:
    shelf = Shelf(room=10)
    file = written(shelf, b"abcd", b"efgh", b"ijkl")
    assert (file.size, file.sha256) == (12, sha256(b"abcdefghijkl").hexdigest())
    assert file.pieces is None
    assert shelf.used == 0


def test_file_whose_body_is_known_to_have_no_room_drives_out_no_other() -> None:
    shelf = Shelf(room=10)
    other = written(shelf, b"abcd")
    large = shelf.maker(11)("f")
    large.write(bytes(11))
    assert (large.size, large.pieces, other.pieces) == (11, None, [b"abcd"])
    for length in (10, None):
        assert shelf.maker(length)("f").pieces == []


def test_files_that_come_at_once_share_the_room() -> None:
    shelf = Shelf(room=10)
    one, two = shelf.file("1"), shelf.file("2")
    for _ in range(3):
        one.write(b"xx")
        two.write(b"yy")
    assert one.pieces is None
    assert two.pieces == [b"yy", b"yy", b"yy"]
    assert shelf.used == 6


def test_file_that_nobody_wants_gives_back_its_room() -> None:
    shelf = Shelf(room=10)
    file, other = written(shelf, b"abcd"), written(shelf, b"ef")
    del file
    assert repr(shelf) == "<Shelf 1 files, 2 of 10 bytes>"
    other.let_go()
    del other
    assert repr(shelf) == "<Shelf 0 files, 0 of 10 bytes>"


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 200_000])
def test_zeros_are_as_many_as_they_say(size: int) -> None:
    zeros: Any = Zeros(size)
    assert b"".join(zeros.pieces) == bytes(size)
