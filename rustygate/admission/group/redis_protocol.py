"""RESP2, the protocol of Redis: https://redis.io/docs/latest/develop/reference/protocol-spec/

Commands to bytes, and bytes to replies. Integers are read as int, strings as bytes, arrays as
lists, null as None.
"""

from typing import Any

Reply = Any

_LINE_END = b"\r\n"


class ErrorReply(Exception):
    """An error reply. The message starts with its code in capitals; the generic code `ERR` is
    removed."""


class ProtocolError(Exception):
    """The other side does not speak this protocol."""


class _Array(list[Reply]):
    """An array that is not complete yet."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


def packed(*arguments: str | bytes | int, more: int = 0) -> bytes:
    """A command, or the beginning of one if `more` arguments follow."""
    return b"*%d\r\n%b" % (len(arguments) + more, b"".join(map(packed_argument, arguments)))


def packed_argument(argument: str | bytes | int) -> bytes:
    text = argument if isinstance(argument, bytes) else str(argument).encode()
    return b"$%d\r\n%b\r\n" % (len(text), text)


class ReplyReader:
    """Reads replies as their bytes arrive."""

    def __init__(self) -> None:
        self._unread = b""
        self._complete: list[Reply] = []
        # The arrays that are not complete, the outermost one first.
        self._open: list[_Array] = []

    def __repr__(self) -> str:
        return f"<ReplyReader {len(self._unread)} bytes unread, {len(self._open)} arrays open>"

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that these bytes complete. Raises ProtocolError."""
        unread, at = self._unread + data, 0
        while (found := _element(unread, at)) is not None:
            element, at = found
            self._add(element)
        self._unread = unread[at:]
        complete, self._complete = self._complete, []
        return complete

    def _add(self, element: Reply) -> None:
        """Put an element into the innermost array that is not complete."""
        while not (isinstance(element, _Array) and len(element) < element.size):
            if not self._open:
                self._complete.append(element)
                return
            array = self._open.pop()
            array.append(element)
            element = array
        self._open.append(element)


def _element(data: bytes, start: int) -> tuple[Reply, int] | None:
    """The element at `start`, and where it ends; None if it is incomplete. Of an array, only the
    header is read."""
    end = data.find(_LINE_END, start)
    if end < 0:
        return None
    kind, line, end = data[start : start + 1], data[start + 1 : end], end + 2
    if kind == b"+":
        return line, end
    if kind == b"-":
        return ErrorReply(line.decode(errors="replace").removeprefix("ERR ")), end
    try:
        number = int(line)
    except ValueError:
        raise ProtocolError from None
    if kind == b":":
        return number, end
    if kind == b"*":
        return (_Array(number) if number >= 0 else None), end
    if kind != b"$":
        raise ProtocolError
    return _bulk_string(data, end, number)


def _bulk_string(data: bytes, start: int, length: int) -> tuple[bytes | None, int] | None:
    if length < 0:
        return None, start
    end = start + length
    return (data[start:end], end + 2) if end + 2 <= len(data) else None
