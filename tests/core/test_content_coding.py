"""Content codings: which headers name one, and inflating bodies in every format."""

import gzip
import sys
import zlib
from collections.abc import Callable
from itertools import pairwise

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from rustygate.core.content_coding import INFLATED_LIMIT, PIECE_BYTES, Inflater, codings_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

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
    "br": lambda data: brotli.compress(data),
    "zstd": lambda data: zstd.compress(data),
    "zstd, two frames": lambda data: zstd.compress(data[:700]) + zstd.compress(data[700:]),
}


def inflater_of(name: str, limit: int = INFLATED_LIMIT) -> Inflater:
    return Inflater([name.partition(",")[0] if name[0] in "bz" else "gzip"], limit)


@pytest.mark.parametrize(
    ("lines", "codings"),
    [
        ([], []),
        ([""], []),
        (["identity"], []),
        ([" Identity "], []),
        (["none"], []),
        (["NONE"], []),
        (["identity, none"], []),
        (["identity", "none"], []),
        (["gzip"], ["gzip"]),
        (["identity, gzip"], ["gzip"]),
        (["identity", "gzip"], ["gzip"]),
        (["gzip", "identity"], ["gzip"]),
        (["br"], ["br"]),
        (["identity2"], ["identity2"]),
        ([" GZIP , identity,, zstd "], ["gzip", "zstd"]),
        (["gzip", "zstd,br"], ["gzip", "zstd", "br"]),
        (["aws-chunked"], ["aws-chunked"]),
    ],
)
def test_codings_of_a_body(lines: list[str], codings: list[str]) -> None:
    """Several header lines are one list; `identity` and `none` are ignored."""
    headers = CIMultiDict([("X-Other", "x"), *(("Content-Encoding", line) for line in lines)])
    assert codings_of(headers) == codings


def test_headers_may_be_a_plain_mapping() -> None:
    assert codings_of({"content-encoding": "gzip, br"}) == ["gzip", "br"]
    assert codings_of({}) == []


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [1, 3, 100, 10**6])
def test_body_inflates_however_it_is_cut(name: str, size: int) -> None:
    body, inflater = FORMATS[name](TEXT), inflater_of(name)
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    assert b"".join(map(inflater.inflate, chunks)) == TEXT


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "zstd"])
def test_what_arrived_of_a_cut_body_is_inflated(name: str) -> None:
    got = inflater_of(name).inflate(FORMATS[name](TEXT)[:-100])
    assert TEXT.startswith(got)
    assert len(got) > (600 if name == "zstd, two frames" else len(TEXT) // 2)


@pytest.mark.parametrize("name", ["gzip", "zlib", "zstd", "br"])
def test_pieces_are_small_however_well_the_body_compresses(name: str) -> None:
    body = FORMATS[name](bytes(10 * PIECE_BYTES + 7))
    sizes = [len(piece) for piece in inflater_of(name).pieces(body)]
    assert sizes == [PIECE_BYTES] * 10 + [7]


@pytest.mark.parametrize("name", ["gzip", "zlib", "zstd", "br"])
@pytest.mark.parametrize("limit", [1, 1000, PIECE_BYTES + 1])
def test_nothing_is_inflated_beyond_the_limit(name: str, limit: int) -> None:
    inflater = inflater_of(name, limit)
    body = FORMATS[name](bytes(1 << 20))
    assert len(inflater.inflate(body)) == limit
    assert inflater.inflate(body) == b""


def test_body_in_an_unknown_coding_cannot_be_read() -> None:
    assert Inflater(["zstd", "br"]).inflate(brotli.compress(zstd.compress(TEXT))) == b""


@pytest.mark.parametrize("garbage", [b"\0" * 100, b"garbage"], ids=["zeros", "text"])
def test_data_behind_the_body_is_ignored(garbage: bytes) -> None:
    for name in FORMATS.keys() - {"br"}:
        assert inflater_of(name).inflate(FORMATS[name](TEXT) + garbage) == TEXT


@given(st.binary(max_size=2000), st.sampled_from([*FORMATS]), st.data())
def test_how_the_body_is_cut_makes_no_difference(
    content: bytes, name: str, data: st.DataObject
) -> None:
    body, inflater = FORMATS[name](content), inflater_of(name)
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=5).map(sorted))
    parts = (body[a:b] for a, b in pairwise([0, *cuts, len(body)]))
    assert b"".join(map(inflater.inflate, parts)) == content


@given(st.lists(st.binary(max_size=60)), st.sampled_from(["", "zstd", "br"]))
def test_any_bytes_are_accepted(chunks: list[bytes], coding: str) -> None:
    inflater = Inflater([coding])
    for chunk in chunks:
        inflater.inflate(chunk)
