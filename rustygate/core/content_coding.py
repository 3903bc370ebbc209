"""Content codings: whether a body is encoded, and inflating it."""

import zlib

# An encoded answer is inflated to be read; one that inflates beyond this is not worth it.
INFLATED_LIMIT = 32 * 1024 * 1024


def is_encoded(content_encoding: str) -> bool:
    """Whether a Content-Encoding names one; `identity` is none (RFC 9110, 8.4.1)."""
    return content_encoding.strip().lower() not in {"", "identity"}


class Inflater:
    """Inflates gzip and deflate as far as there is something to inflate."""

    __slots__ = ("_decoder", "_left")

    def __init__(self, limit: int = INFLATED_LIMIT) -> None:
        self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        self._left = limit

    def inflate(self, chunk: bytes) -> bytes:
        """The end of what the chunk inflates to; nothing once it is broken or too much."""
        if not self._left:
            return b""
        try:
            plain = self._decoder.decompress(chunk, self._left)
        except zlib.error:
            self._left = 0
            return b""
        self._left -= len(plain)
        return plain
