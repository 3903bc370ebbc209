"""Content codings (RFC 9110, 8.4.1): whether a body is encoded, and inflating it.

Bodies come from outside. Whatever is in them, an `Inflater` returns what it could read.
"""

import zlib
from collections.abc import Iterator

# A response that inflates beyond this is not worth reading to the end.
INFLATED_LIMIT = 32 * 1024 * 1024

# The most that is inflated in one step. A few compressed bytes may hold a thousand times as many.
PIECE_BYTES = 64 * 1024

# `none` is not registered, but servers send it.
_NO_CODING = frozenset({"", "identity", "none"})

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = zlib.MAX_WBITS | 16
_ZLIB = zlib.MAX_WBITS
_RAW_DEFLATE = -zlib.MAX_WBITS


def is_encoded(content_encoding: str) -> bool:
    """Whether a Content-Encoding names a coding: anything but `identity` and `none`."""
    if not content_encoding:
        return False
    codings = content_encoding.lower().split(",")
    return not all(coding.strip() in _NO_CODING for coding in codings)


class Inflater:
    """Inflates a gzip or deflate body chunk by chunk, up to a limit in bytes.

    A gzip body may have several members (RFC 1952, 2.2). `deflate` is read with and without the
    zlib header that it should have (RFC 9110, 8.4.1.2).
    """

    __slots__ = ("_bytes_left", "_decoder", "_held", "_wbits")

    def __init__(self, limit: int = INFLATED_LIMIT) -> None:
        self._bytes_left = limit
        self._decoder: zlib._Decompress | None = None
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
        except zlib.error:
            self._bytes_left = 0
            return b"", None
        self._bytes_left -= len(piece)
        if self._decoder.eof:
            return piece, self._end_member(self._decoder.unused_data)
        # A full piece may have more behind it, even if all of the input was taken.
        rest = self._decoder.unconsumed_tail
        return piece, rest if rest or len(piece) == limit else None

    def _start_member(self, data: bytes) -> None:
        self._wbits = self._wbits or _window_bits(data)
        self._decoder = zlib.decompressobj(wbits=self._wbits)
        self._held = b""

    def _end_member(self, rest: bytes) -> bytes | None:
        """Expect another member, if the format has several."""
        if self._wbits != _GZIP:
            self._bytes_left = 0
        self._decoder = None
        return rest or None


def _window_bits(start: bytes) -> int:
    """zlib's name of the format that a body begins in (RFC 1950, 2.2; RFC 1952, 2.3.1)."""
    if start.startswith(_GZIP_MAGIC):
        return _GZIP
    header = start[0] << 8 | start[1]
    return _RAW_DEFLATE if header % 31 or start[0] & 0x0F != 8 else _ZLIB
