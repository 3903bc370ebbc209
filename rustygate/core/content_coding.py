"""Content codings (RFC 9110, 8.4.1): which ones a body has, and decoding it as it arrives.

Bodies come from outside. Whatever is in them, an `Inflater` returns what it could read.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import brotli
from multidict import MultiMapping, istr

from rustygate.core.decompression import DECODER_ERRORS, zstd_decoder

# A response that inflates beyond this is not worth reading to the end.
INFLATED_LIMIT = 32 * 1024 * 1024

# The most that is inflated in one step. A few compressed bytes may hold a thousand times as many.
PIECE_BYTES = 64 * 1024

_CONTENT_ENCODING = istr("content-encoding")

# `none` is not registered, but servers send it.
_NO_CODING = frozenset({"", "identity", "none"})

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = zlib.MAX_WBITS | 16
_ZLIB = zlib.MAX_WBITS
_RAW_DEFLATE = -zlib.MAX_WBITS


def codings_of(headers: Mapping[str, str]) -> list[str]:
    """The codings of a body with these headers, in the order in which they were applied.

    Several Content-Encoding lines are one list (RFC 9110, 5.3).

    Args:
        headers: any mapping that finds headers by their lower-case names.
    """
    if _CONTENT_ENCODING not in headers:
        return []
    listed = (
        ",".join(headers.getall(_CONTENT_ENCODING))
        if isinstance(headers, MultiMapping)
        else headers[_CONTENT_ENCODING]
    )
    codings = (coding.strip().lower() for coding in listed.split(","))
    return [coding for coding in codings if coding not in _NO_CODING]


class _Decoder(Protocol):
    """Decodes one member of a body. The interface is zlib's."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _ZstdDecoder:
    """A frame of zstd. It keeps the data that it has not decoded yet."""

    unconsumed_tail = b""

    def __init__(self) -> None:
        self._decoder = zstd_decoder()
        self.decompress = self._decoder.decompress

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


class _BrotliDecoder:
    """A brotli body. It keeps the data that it has not decoded yet, and rejects any after it."""

    unconsumed_tail = unused_data = b""

    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()
        # The library returns some 32 KB more than it is asked for.
        self._decoded = b""

    @property
    def eof(self) -> bool:
        return bool(self._decoder.is_finished()) and not self._decoded

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if len(self._decoded) < max_length and not self._decoder.is_finished():
            self._decoded += self._decoder.process(data, output_buffer_limit=max_length)
        piece, self._decoded = self._decoded[:max_length], self._decoded[max_length:]
        return piece


class Inflater:
    """Decodes a gzip, deflate, zstd or brotli body chunk by chunk, up to a limit in bytes.

    gzip and zstd bodies may have several members (RFC 1952, 2.2; RFC 8878, 3.1). `deflate` is read
    with and without the zlib header that it should have (RFC 9110, 8.4.1.2).

    Args:
        codings: those of the body. Only zstd and brotli need them; other formats show what they
            are.
    """

    __slots__ = ("_bytes_left", "_coding", "_decoder", "_held", "_wbits")

    def __init__(self, codings: Sequence[str] = (), limit: int = INFLATED_LIMIT) -> None:
        self._bytes_left = limit
        self._coding = ",".join(codings)
        self._decoder: _Decoder | None = None
        self._wbits = 0
        # The beginning of a member, until it shows the member's format.
        self._held = b""

    def inflate(self, chunk: bytes) -> bytes:
        """The inflated chunk; empty after an error, and beyond the limit."""
        return b"".join(self.pieces(chunk))

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """The inflated chunk in pieces of at most `PIECE_BYTES`."""
        rest: bytes | None = chunk
        while rest is not None and self._bytes_left:
            piece, rest = self._step(rest)
            if piece:
                yield piece

    def _step(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Inflate a piece; returns it and what is to be inflated next, None to wait for more."""
        if self._decoder is None:
            data = self._held = self._held + data
            if len(data) < len(_GZIP_MAGIC):
                return b"", None
            self._start_member(data)
        assert self._decoder is not None
        limit = min(PIECE_BYTES, self._bytes_left)
        try:
            piece = self._decoder.decompress(data, limit)
        except DECODER_ERRORS:
            self._bytes_left = 0
            return b"", None
        self._bytes_left -= len(piece)
        if self._decoder.eof:
            return piece, self._end_member(self._decoder.unused_data)
        # A full piece may have more behind it, even if all of the input was taken.
        rest = self._decoder.unconsumed_tail
        return piece, rest if rest or len(piece) == limit else None

    def _start_member(self, data: bytes) -> None:
        if self._coding == "zstd":
            self._decoder = _ZstdDecoder()
        elif self._coding == "br":
            self._decoder = _BrotliDecoder()
        else:
            self._wbits = self._wbits or _window_bits(data)
            self._decoder = zlib.decompressobj(wbits=self._wbits)
        self._held = b""

    def _end_member(self, rest: bytes) -> bytes | None:
        """Expect another member, if the format has several."""
        if self._wbits != _GZIP and self._coding != "zstd":
            self._bytes_left = 0
        self._decoder = None
        return rest or None


def _window_bits(start: bytes) -> int:
    """zlib's name of the format that a body begins in (RFC 1950, 2.2; RFC 1952, 2.3.1)."""
    if start.startswith(_GZIP_MAGIC):
        return _GZIP
    header = start[0] << 8 | start[1]
    return _RAW_DEFLATE if header % 31 or start[0] & 0x0F != 8 else _ZLIB
