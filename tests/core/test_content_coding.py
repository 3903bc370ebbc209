"""Content codings: which headers name one, and inflating bodies in every format."""

import gzip
import zlib
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.content_coding import PIECE_BYTES, Inflater, is_encoded

TEXT = b"".join(b"%d words of a body; " % number for number in range(500))


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(data) + encoder.flush()


def two_members(data: bytes) -> bytes:
    return gzip.compress(data[:700]) + gzip.compress(data[700:])


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data),
    "zlib": lambda data: zlib.compress(data),
    "zlib, fastest": lambda data: zlib.compress(data, 1),
    "raw deflate": raw_deflate,
    "gzip, two members": two_members,
}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("identity", False),
        (" Identity ", False),
        ("none", False),
        ("NONE", False),
        ("identity, none", False),
        ("gzip", True),
        ("identity, gzip", True),
        ("br", True),
        ("identity2", True),
    ],
)
def test_identity_and_none_are_not_codings(header: str, expected: bool) -> None:
    assert is_encoded(header) is expected


@pytest.mark.parametrize("encode", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("size", [1, 3, 100, 10**6])
def test_body_inflates_however_it_is_cut(encode: Callable[[bytes], bytes], size: int) -> None:
    body, inflater = encode(TEXT), Inflater()
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    assert b"".join(map(inflater.inflate, chunks)) == TEXT


@pytest.mark.parametrize("encode", FORMATS.values(), ids=FORMATS)
def test_what_arrived_of_a_cut_body_is_inflated(encode: Callable[[bytes], bytes]) -> None:
    got = Inflater().inflate(encode(TEXT)[:-100])
    assert TEXT.startswith(got)
    assert len(got) > len(TEXT) // 2


def test_pieces_are_small_however_well_the_body_compresses() -> None:
    body = gzip.compress(bytes(10 * PIECE_BYTES + 7))
    sizes = [len(piece) for piece in Inflater().pieces(body)]
    assert sizes == [PIECE_BYTES] * 10 + [7]


@pytest.mark.parametrize("limit", [1, 1000, PIECE_BYTES + 1])
def test_nothing_is_inflated_beyond_the_limit(limit: int) -> None:
    inflater = Inflater(limit)
    body = gzip.compress(bytes(1 << 20))
    assert len(inflater.inflate(body)) == limit
    assert inflater.inflate(body) == b""


@pytest.mark.parametrize("garbage", [b"\0" * 100, b"garbage"], ids=["zeros", "text"])
def test_data_behind_the_body_is_ignored(garbage: bytes) -> None:
    for encode in FORMATS.values():
        assert Inflater().inflate(encode(TEXT) + garbage) == TEXT


@given(st.binary(max_size=2000), st.sampled_from([*FORMATS]), st.data())
def test_how_the_body_is_cut_makes_no_difference(
    content: bytes, name: str, data: st.DataObject
) -> None:
    body, inflater = FORMATS[name](content), Inflater()
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=5).map(sorted))
    parts = (body[a:b] for a, b in pairwise([0, *cuts, len(body)]))
    assert b"".join(map(inflater.inflate, parts)) == content


@given(st.lists(st.binary(max_size=60)))
def test_any_bytes_are_accepted(chunks: list[bytes]) -> None:
    inflater = Inflater()
    for chunk in chunks:
        inflater.inflate(chunk)
