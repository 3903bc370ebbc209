"""Compressed WebSocket messages: reading them from an inflated copy (RFC 7692, 7).

Messages cross the gate as they are. With context takeover each message may refer to the ones
before it, so that all messages of a side must be inflated, in order, to read any of them.
"""

import zlib

# What the sender removes from the end of each message (7.2.1).
_TAIL = b"\x00\x00\xff\xff"


class MessageInflater:
    """Inflates the messages of one side, piece by piece.

    Args:
        keeps_context: a message may refer to earlier ones.
    """

    __slots__ = ("_decoder", "_keeps_context", "_readable")

    def __init__(self, *, keeps_context: bool) -> None:
        self._keeps_context = keeps_context
        self._readable = True
        self._decoder = _decoder()

    def inflate(self, piece: bytes, last: bool, limit: int) -> bytes | None:
        """The inflated piece, at most `limit` bytes of it.

        None if it cannot be inflated; later messages cannot be read then either.
        """
        if not self._readable:
            return None
        try:
            plain = self._decoder.decompress(piece + _TAIL if last else piece, limit)
        except zlib.error:
            self._readable = False
            return None
        if last and (self._decoder.eof or not self._keeps_context):
            self._decoder = _decoder()
        return plain


def keeps_context(extension: str, sender: str) -> bool:
    """Whether messages may refer to earlier ones, as negotiated.

    Args:
        extension: the value of Sec-WebSocket-Extensions in the response.
        sender: who sends the messages, `client` or `server`.
    """
    parameters = (part.strip().lower() for part in extension.split(";"))
    return f"{sender}_no_context_takeover" not in parameters


def _decoder() -> "zlib._Decompress":
    # The largest window fits every sender's.
    return zlib.decompressobj(wbits=-zlib.MAX_WBITS)
