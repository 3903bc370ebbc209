"""How an event stream ends: with its final event, or with an error that it reports.

Chat and legacy completions end with `data: [DONE]`, the Responses API with `response.completed`
or its kin, Anthropic's Messages API with `message_stop`; streams of an image, of speech and of a
transcript have final events of their own. An error is `data: {"error": {...}}`, an `error` event
or a `response.failed`. It is one of the last events, since clients stop there.

Bodies come from outside. Whatever is in them, these functions return and do not raise.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from rustygate.core.request_schema import DECODE_ERRORS

_DONE = b"[DONE]"
_ERROR = b"error"
_FINAL_TYPE = re.compile(
    rb"(?:response\.(?:completed|incomplete|failed|cancelled)|speech\.audio\.done"
    rb"|transcript\.text\.done|image_(?:generation|edit)\.completed|message_stop)"
)
_FINAL_TYPES = frozenset(
    {
        "image_edit.completed",
        "image_generation.completed",
        "message_stop",
        "response.cancelled",
        "response.completed",
        "response.failed",
        "response.incomplete",
        "speech.audio.done",
        "transcript.text.done",
    }
)


class StreamEnd(msgspec.Struct, frozen=True):
    """The end of a stream: its final event, or an event with an error, of which `error` is the
    data."""

    error: bytes | None = None


class _Response(msgspec.Struct, gc=False):
    error: Any = None


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    error: Any = None
    response: _Response | None = None


_decode = msgspec.json.Decoder(_Event).decode


def find_end(events: bytes) -> StreamEnd | None:
    """The end of the stream, if it is among these events, whose lines end with LF."""
    if _ERROR not in events and events.endswith(b"\n\ndata: [DONE]\n\n"):
        return StreamEnd()
    ends = [end for end in map(_end_in, events.split(b"\n\n")) if end is not None]
    # After an error, there may be a usage and a `[DONE]`.
    return next((end for end in ends if end.error is not None), ends[0] if ends else None)


def _end_in(event: bytes) -> StreamEnd | None:
    if not (_DONE in event or _ERROR in event or _FINAL_TYPE.search(event)):
        return None
    name, data = b"", []
    for field, value in _fields(event):
        if field == b"event":
            name = value
        elif field == b"data":
            data.append(value)
    payload = b"\n".join(data)
    if payload == _DONE:
        return StreamEnd()
    try:
        fields = _decode(payload)
    except DECODE_ERRORS:
        return _end_by_name(name, payload)
    if _is_error(name, fields):
        return StreamEnd(payload)
    kind = fields.type
    return StreamEnd() if isinstance(kind, str) and kind in _FINAL_TYPES else None


def _fields(event: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        yield field, value.removeprefix(b" ")


def _is_error(name: bytes, fields: _Event) -> bool:
    response = fields.response
    return bool(
        name == _ERROR
        or fields.error
        or fields.type == "error"
        or (response is not None and response.error)
    )


_TYPE_FIRST = re.compile(rb'\s*\{\s*"type"\s*:\s*"([\w.]+)"')


def _end_by_name(name: bytes, payload: bytes) -> StreamEnd | None:
    """The end in an event whose data is cut or unreadable."""
    kind = _TYPE_FIRST.match(payload)
    name = kind[1] if kind else name
    if name in (_ERROR, b"response.failed"):
        return StreamEnd(payload)
    return StreamEnd() if name.decode("latin-1") in _FINAL_TYPES else None
