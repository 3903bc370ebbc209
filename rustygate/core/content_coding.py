"""Content codings (RFC 9110, 8.4.1): is a body encoded, and what does it inflate to?"""

import zlib

# A response that inflates beyond this is not worth reading to the end.
INFLATED_LIMIT = 32 * 1024 * 1024


def is_encoded(content_encoding: str) -> bool:
    """Whether a Content-Encoding names a coding other than `identity`."""
    return content_encoding.strip().lower() not in {"", "identity"}


class Inflater:
    """Inflates a gzip or deflate body chunk by chunk, up to a limit in bytes."""

    __slots__ = ("_bytes_left", "_decoder")

    def __init__(self, limit: int = INFLATED_LIMIT) -> None:
        self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        self._bytes_left = limit

    def inflate(self, chunk: bytes) -> bytes:
        """The inflated chunk; empty after an error, and beyond the limit."""
        if not self._bytes_left:
            return b""
        try:
            plain = self._decoder.decompress(chunk, self._bytes_left)
        except zlib.error:
            self._bytes_left = 0
            return b""
        self._bytes_left -= len(plain)
        return plain
