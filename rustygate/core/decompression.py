"""Decoding a copy of a compressed request body (RFC 9110, 8.4.1), within bounds.

The body itself goes upstream as it was sent. The copy shows the model and the cost. A small body
may decode to gigabytes, so the copy, the memory of the decoders and the number of steps are
limited; whatever the bytes are, these functions return and do not raise.
"""

import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Codings on top of each other. One is usual.
CODINGS_LIMIT = 3

# Members of a gzip body, and frames of a zstd one. Parallel compressors write one for each
# megabyte or so.
MEMBERS_LIMIT = 64

# As large as a decoder must accept, and no larger (RFC 9659): 8 MiB.
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}

_GZIP, _ZLIB, _RAW_DEFLATE = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS

# The exceptions of decoders that cannot read their input. brotli's derive from Exception alone.
DECODER_ERRORS = (zlib.error, zstd.ZstdError, brotli.error)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded copy; `whole` if it reaches the end of the body."""

    data: bytes
    whole: bool


class _Unreadable(Exception):
    """The body is not in the coding, or has data after its end."""


def decode(body: bytes, codings: Sequence[str], limit: int) -> Decoded | None:
    """A copy of a body without its codings; None if it cannot be decoded.

    Args:
        limit: the most bytes of the copy. What is beyond them is left out.
    """
    if len(codings) > CODINGS_LIMIT:
        return None
    decoded = Decoded(body, whole=True)
    for coding in reversed(codings):
        decode_one = _DECODERS.get(coding)
        if decode_one is None:
            return None
        try:
            step = decode_one(decoded.data, limit + 1)
        except (*DECODER_ERRORS, _Unreadable):
            return None
        is_whole = decoded.whole and step.whole and len(step.data) <= limit
        decoded = Decoded(step.data[:limit], is_whole)
    return decoded


def zstd_decoder() -> zstd.ZstdDecompressor:
    """A decoder of one frame."""
    return zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)


# The decoders stop once they have written as many bytes as they are given.


def _decode_gzip(body: bytes, limit: int) -> Decoded:
    return _decode_members(body, limit, lambda: zlib.decompressobj(_GZIP))


def _decode_zstd(body: bytes, limit: int) -> Decoded:
    return _decode_members(body, limit, zstd_decoder)


def _decode_members(
    body: bytes, limit: int, make: "Callable[[], zlib._Decompress | zstd.ZstdDecompressor]"
) -> Decoded:
    """Decode members one after another, each with a decoder of its own."""
    parts: list[bytes] = []
    for _ in range(MEMBERS_LIMIT):
        decoder = make()
        parts.append(decoder.decompress(body, limit))
        limit -= len(parts[-1])
        body = decoder.unused_data
        if not decoder.eof or not body or limit <= 0:
            return Decoded(b"".join(parts), decoder.eof and not body)
    raise _Unreadable


def _decode_deflate(body: bytes, limit: int) -> Decoded:
    """The format is zlib's (RFC 1950), but some clients leave out its header."""
    try:
        return _inflate(body, limit, _ZLIB)
    except zlib.error:
        return _inflate(body, limit, _RAW_DEFLATE)


def _inflate(body: bytes, limit: int, wbits: int) -> Decoded:
    decoder = zlib.decompressobj(wbits)
    data = decoder.decompress(body, limit)
    if decoder.unused_data:
        raise _Unreadable
    return Decoded(data, decoder.eof)


def _decode_brotli(body: bytes, limit: int) -> Decoded:
    decoder = brotli.Decompressor()
    data: bytes = decoder.process(body, output_buffer_limit=limit)
    return Decoded(data, decoder.is_finished())


_DECODERS: dict[str, Callable[[bytes, int], Decoded]] = {
    "br": _decode_brotli,
    "deflate": _decode_deflate,
    "gzip": _decode_gzip,
    "x-gzip": _decode_gzip,
    "zstd": _decode_zstd,
}
