"""Decoding copies of compressed bodies, and what must not take long."""

import gzip
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.decompression import (
    CODINGS_LIMIT,
    MEMBERS_LIMIT,
    Decoded,
    decode,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = 1 << 20
TEXT = b'{"model": "gpt-4o", "input": "Hello!"}' * 20


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def streamed_zstd(data: bytes) -> bytes:
    """A frame that does not say how much it decodes to, flushed after each write."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.content_size_flag: 0})
    parts = [
        compressor.compress(data[i : i + 9], zstd.ZstdCompressor.FLUSH_BLOCK)
        for i in range(0, len(data), 9)
    ]
    return b"".join(parts) + compressor.flush()


def streamed_gzip(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=31)
    parts = [
        compressor.compress(data[i : i + 9]) + compressor.flush(zlib.Z_SYNC_FLUSH)
        for i in range(0, len(data), 9)
    ]
    return b"".join(parts) + compressor.flush()


def checked_zstd(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "gzip, streamed": ("gzip", streamed_gzip),
    "gzip, two members": ("gzip", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:])),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd.compress),
    "zstd, streamed": ("zstd", streamed_zstd),
    "zstd, checksum": ("zstd", checked_zstd),
    "zstd, two frames": ("zstd", lambda data: zstd.compress(data[:5]) + zstd.compress(data[5:])),
    "zstd, skippable frame": (
        "zstd",
        lambda data: b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + zstd.compress(data),
    ),
}
each_coding = pytest.mark.parametrize(("coding", "encode"), ENCODERS.values(), ids=ENCODERS)


@each_coding
def test_body_is_decoded(coding: str, encode: Callable[[bytes], bytes]) -> None:
    assert decode(encode(TEXT), [coding], LIMIT) == Decoded(TEXT, True)
    assert decode(encode(b""), [coding], LIMIT) == Decoded(b"", True)


@each_coding
def test_copy_ends_at_the_limit(coding: str, encode: Callable[[bytes], bytes]) -> None:
    body = encode(TEXT)
    assert decode(body, [coding], len(TEXT)) == Decoded(TEXT, True)
    assert decode(body, [coding], len(TEXT) - 1) == Decoded(TEXT[:-1], False)
    assert decode(body, [coding], 10) == Decoded(TEXT[:10], False)


@each_coding
def test_start_of_a_body_is_decoded(coding: str, encode: Callable[[bytes], bytes]) -> None:
    text = bytes(range(256)) * 2000
    body = encode(text)
    decoded = decode(body[: len(body) - 1], [coding], LIMIT)
    assert decoded is not None
    assert text.startswith(decoded.data)
    assert not decoded.whole


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("body", [b"\x00" * 50, TEXT, b"\xff" * 50], ids=["zeros", "text", "ones"])
def test_body_that_is_not_in_its_coding_is_not_decoded(coding: str, body: bytes) -> None:
    assert decode(body, [coding], LIMIT) is None


@each_coding
def test_data_after_the_end_is_not_ignored(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """Upstream might read it."""
    decoded = decode(encode(TEXT) + b"\x00" * 20, [coding], LIMIT)
    assert decoded is None or not decoded.whole


def test_several_codings_are_decoded_in_reverse() -> None:
    body = brotli.compress(zstd.compress(gzip.compress(TEXT)))
    assert decode(body, ["gzip", "zstd", "br"], LIMIT) == Decoded(TEXT, True)
    assert decode(body, ["br", "zstd", "gzip"], LIMIT) is None
    assert decode(body[:-1], ["gzip", "zstd", "br"], LIMIT) != Decoded(TEXT, True)


def test_unknown_coding_is_not_decoded() -> None:
    assert decode(TEXT, ["compress"], LIMIT) is None
    assert decode(gzip.compress(TEXT), ["aws-chunked", "gzip"], LIMIT) is None


def test_no_coding_is_a_copy() -> None:
    assert decode(TEXT, [], LIMIT) == Decoded(TEXT, True)


def test_number_of_codings_is_limited() -> None:
    body = TEXT
    for _ in range(CODINGS_LIMIT):
        body = gzip.compress(body)
    assert decode(body, ["gzip"] * CODINGS_LIMIT, LIMIT) == Decoded(TEXT, True)
    assert decode(gzip.compress(body), ["gzip"] * (CODINGS_LIMIT + 1), LIMIT) is None


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_number_of_members_is_limited(coding: str, encode: Callable[[bytes], bytes]) -> None:
    allowed = decode(encode(b"x") * MEMBERS_LIMIT, [coding], LIMIT)
    assert allowed == Decoded(b"x" * MEMBERS_LIMIT, True)
    assert decode(encode(b"x") * (MEMBERS_LIMIT + 1), [coding], LIMIT) is None


def test_zstd_window_is_limited() -> None:
    """A decoder allocates as much memory as the frame asks for."""
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 24}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(b"x" * 100) + compressor.flush()
    assert decode(body, ["zstd"], LIMIT) is None


ZEROS = bytes(64 << 20)
BOMBS = {
    "gzip": (["gzip"], gzip.compress(ZEROS)),
    "deflate": (["deflate"], zlib.compress(ZEROS)),
    "br": (["br"], brotli.compress(ZEROS, quality=4)),
    "zstd": (["zstd"], zstd.compress(ZEROS)),
    "gzip twice": (["gzip", "gzip"], gzip.compress(gzip.compress(ZEROS))),
    "zstd in gzip": (["zstd", "gzip"], gzip.compress(zstd.compress(ZEROS))),
    "many members": (["gzip"], gzip.compress(b"") * 100_000),
    "many frames": (["zstd"], zstd.compress(b"") * 100_000),
    "large members": (["gzip"], gzip.compress(ZEROS[: LIMIT // 2]) * 60),
    "large frames": (["zstd"], zstd.compress(ZEROS[: LIMIT // 2]) * 60),
}


@pytest.mark.parametrize(("codings", "body"), BOMBS.values(), ids=BOMBS)
def test_bomb_takes_little_time_and_memory(codings: list[str], body: bytes) -> None:
    tracemalloc.start()
    try:
        start = time.process_time()
        decoded = decode(body, codings, LIMIT)
        # A few milliseconds; a collection of garbage may come in between.
        assert time.process_time() - start < 0.5
        assert tracemalloc.get_traced_memory()[1] < 16 * LIMIT
    finally:
        tracemalloc.stop()
    assert decoded is None or (not decoded.whole and len(decoded.data) == LIMIT)


@given(st.binary(), st.lists(st.sampled_from(["gzip", "deflate", "br", "zstd"]), max_size=4))
def test_any_bytes_decode_or_do_not(body: bytes, codings: list[str]) -> None:
    decoded = decode(body, codings, 100)
    assert decoded is None or len(decoded.data) <= 100


@given(st.binary(max_size=2000), st.sampled_from(sorted(ENCODERS)), st.integers(1, 2000))
def test_decoded_copy_is_what_was_encoded(text: bytes, name: str, limit: int) -> None:
    coding, encode = ENCODERS[name]
    assert decode(encode(text), [coding], limit) == Decoded(text[:limit], len(text) <= limit)
