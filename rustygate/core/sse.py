"""Server-sent events as far as a pipe needs them (WHATWG HTML, 9.2 "Server-sent events").

Streams are never decoded: all that is asked is whether the bytes passed so far end at an event
boundary, which their last four tell. What the gate itself may put into a stream is made here.
"""

import json
from collections.abc import Mapping
from typing import Any

# One newline: after a comment a blank line makes some SDKs dispatch an empty event.
KEEPALIVE = b": keep-alive\n"

_BOUNDARIES = (b"\n\n", b"\r\n\r\n", b"\r\r")
_LONGEST = max(map(len, _BOUNDARIES))


class EventBoundary:
    """Follows a stream's bytes; tells whether they end at an event boundary.

    Nothing passed yet counts as one. The answer does not depend on how the bytes were cut.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Note bytes that passed."""
        self._tail = chunk[-_LONGEST:] if len(chunk) >= _LONGEST else self._join(chunk)

    def _join(self, chunk: bytes) -> bytes:
        return (self._tail + chunk)[-_LONGEST:]

    def __bool__(self) -> bool:
        return not self._tail or self._tail.endswith(_BOUNDARIES)


def is_event_stream(content_type: str | None) -> bool:
    """Whether a Content-Type names an event stream, parameters aside."""
    return (content_type or "").partition(";")[0].strip().lower() == "text/event-stream"


def error_event(path: str, error: Mapping[str, Any]) -> bytes:
    """An in-stream error that OpenAI's SDKs raise: chat's form, or the Responses API's.

    The SDKs raise on a truthy `error` in any event; the Responses API's own error event spreads
    the same fields over the event, so on its paths both are there.

    Args:
        path: the request's path, `/v1/...`; the Responses API is known by it.
        error: OpenAI's error object, with `message`, `type`, `param` and `code`.
    """
    if path.split("/", 3)[2:3] != ["responses"]:
        return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
    event = dict(error) | {"type": "error", "sequence_number": 0, "error": error}
    return b"event: error\ndata: " + json.dumps(event).encode() + b"\n\n"
