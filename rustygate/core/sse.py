"""Server-sent events, as far as the pipe needs them (WHATWG HTML, 9.2 "Server-sent events").

Streams are never decoded. The pipe only needs to know whether the bytes so far end at an event
boundary, which the last four bytes show. The module also builds what the gate itself writes into
a stream: keepalives and error events.
"""

import json
from collections.abc import Mapping
from typing import Any

# A single newline: a blank line after a comment makes some SDKs dispatch an empty event.
KEEPALIVE = b": keep-alive\n"

_BOUNDARIES = (b"\n\n", b"\r\n\r\n", b"\r\r")
_LONGEST = max(map(len, _BOUNDARIES))


class EventBoundary:
    """Follows the bytes of a stream. True if they end at an event boundary.

    The beginning of the stream is a boundary too. How the bytes are cut makes no difference.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Note the next bytes of the stream."""
        self._tail = chunk[-_LONGEST:] if len(chunk) >= _LONGEST else self._join(chunk)

    def _join(self, chunk: bytes) -> bytes:
        return (self._tail + chunk)[-_LONGEST:]

    def __bool__(self) -> bool:
        return not self._tail or self._tail.endswith(_BOUNDARIES)


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
