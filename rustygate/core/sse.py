"""Server-sent events, as far as the pipe needs them (WHATWG HTML, 9.2 "Server-sent events").

Streams are never decoded. The pipe only needs to know whether the gate may write into a stream:
between events, that is after a blank line, after comment lines that follow one, or at the
beginning. The module also builds what the gate itself writes into a stream: keepalives and error
events.
"""

import json
from collections.abc import Mapping
from typing import Any

# A single newline: a blank line after a comment makes some SDKs dispatch an empty event.
KEEPALIVE = b": keep-alive\n"

# What almost every chunk of a stream ends with.
_BLANK_LINE = b"\n\n"


class EventBoundary:
    """Follows the bytes of a stream. True if they end between two events.

    How the bytes are cut makes no difference. Lines end with LF, CRLF or CR. A CR at the very end
    may be half of a CRLF, so it counts only if the line before ended with a lone CR too.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        # The shortest stream that every continuation makes the same of: empty between two events.
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Note the next bytes of the stream."""
        if chunk.endswith(_BLANK_LINE):
            self._rest = b""
        elif chunk:
            self._rest = _shortest(_after_last_event(self._rest + chunk))

    def __bool__(self) -> bool:
        return self._rest in _BETWEEN_EVENTS


_BETWEEN_EVENTS = (b"", b"\r\r")


def _after_last_event(stream: bytes) -> bytes:
    """What follows the last blank line; with the two CRs, if it consists of them."""
    two_crs = stream.rfind(b"\r\r")
    return stream[max(_end_of(_BLANK_LINE, stream), _end_of(b"\r\n\r\n", stream), two_crs, 0) :]


def _end_of(mark: bytes, stream: bytes) -> int:
    """The end of the last `mark`; 0 if there is none."""
    start = stream.rfind(mark)
    return 0 if start < 0 else start + len(mark)


def _shortest(stream: bytes) -> bytes:
    """The shortest stream that continues like this one."""
    lines = stream.splitlines(keepends=True)
    last = lines[-1] if lines else b""
    in_event = _ends_in_event(lines)
    if not last or last.endswith(b"\n"):
        return b"x\n" if in_event else b""
    after_cr = b"\r" if len(lines) > 1 and lines[-2].endswith(b"\r") else b""
    if last.endswith(b"\r"):
        return b"x\r" if in_event else after_cr + b"\r"
    if last.startswith(b":"):
        return b"x\n:" if in_event else after_cr + b":"
    return b"x"


def _ends_in_event(lines: list[bytes]) -> bool:
    """Whether the last line, or the lines before it if that is a comment, belong to an event."""
    in_event = False
    for line in lines:
        if line in (b"\n", b"\r\n", b"\r"):
            in_event = False
        elif not line.startswith(b":"):
            in_event = True
    return in_event


def is_event_stream(content_type: str | None) -> bool:
    """Whether a Content-Type is that of an event stream, whatever its parameters."""
    return (content_type or "").partition(";")[0].strip().lower() == "text/event-stream"


def error_event(path: str, error: Mapping[str, Any]) -> bytes:
    """An error event that OpenAI's SDKs raise, in the form of chat or of the Responses API.

    The SDKs raise if any event has a truthy `error`. The Responses API's own error event has the
    fields of the error at its top level. On its paths the event has both.

    Args:
        path: the request's path, `/v1/...`, which distinguishes the two APIs.
        error: OpenAI's error object, with `message`, `type`, `param` and `code`.
    """
    if path.split("/", 3)[2:3] != ["responses"]:
        return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
    event = dict(error) | {"type": "error", "sequence_number": 0, "error": error}
    return b"event: error\ndata: " + json.dumps(event).encode() + b"\n\n"
