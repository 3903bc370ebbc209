"""The text that a model wrote, in the events of a stream or in a plain body.

It is read to estimate the tokens of responses without a usage. The shapes are those of chat and
legacy completions and of the Responses API, with the reasoning fields of look-alikes. Of the
Responses API's events, only those that add text count (`....delta`): the text comes again in
`....done`, and in the final event.

Bodies come from outside. Whatever is in them, these functions return and do not raise.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from rustygate.core.request_schema import DECODE_ERRORS


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None
    custom: Any = None


class _Message(msgspec.Struct, gc=False):
    """A message of a chat, or a delta of one."""

    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    audio: Any = None

    def texts(self) -> Iterator[str]:
        for value in (
            self.reasoning_content or self.reasoning, self.content, self.refusal, self.audio
        ):  # fmt: skip
            if value:
                yield from _strings(value)
        for call in self.tool_calls or ():
            yield from _texts_of_function(call.function)
            yield from _strings(call.custom)
        yield from _texts_of_function(self.function_call)


class _Choice(msgspec.Struct, gc=False):
    delta: _Message | None = None
    message: _Message | None = None
    text: Any = None

    def texts(self) -> Iterator[str]:
        if self.delta is not None:
            yield from self.delta.texts()
        elif self.message is not None:
            yield from self.message.texts()
        if self.text:
            yield from _strings(self.text)


class _Item(msgspec.Struct, gc=False):
    """An item of a response's output."""

    name: Any = None
    content: Any = None
    summary: Any = None
    arguments: Any = None
    input: Any = None
    code: Any = None

    def texts(self) -> Iterator[str]:
        # The name of a function that the model calls.
        for value in (
            self.name, self.summary, self.content, self.arguments, self.input, self.code
        ):  # fmt: skip
            yield from _strings(value)


class _Event(msgspec.Struct, gc=False):
    """The data of an event."""

    choices: list[_Choice] | None = None
    type: Any = None
    delta: Any = None
    item: _Item | None = None

    def texts(self) -> Iterator[str]:
        for choice in self.choices or ():
            yield from choice.texts()
        kind = self.type
        if self.delta and not (isinstance(kind, str) and kind.endswith("audio.delta")):
            yield from _strings(self.delta)
        if self.item is not None and kind == "response.output_item.added":
            yield from _strings(self.item.name)


class _Body(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    output: list[_Item] | None = None

    def texts(self) -> Iterator[str]:
        for part in (*(self.choices or ()), *(self.output or ())):
            yield from part.texts()


_decode_lines = msgspec.json.Decoder(_Event).decode_lines
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_body = msgspec.json.Decoder(_Body).decode

# Fields with text in the objects of a content list.
_TEXT_FIELDS = ("text", "refusal", "thinking", "transcript", "summary", "content", "input", "name")


def _strings(value: Any) -> Iterator[str]:
    """The non-empty texts of a value: a string, a list of parts, or a part."""
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, dict):
        for field in _TEXT_FIELDS:
            yield from _strings(value.get(field))


def _texts_of_function(function: _Function | None) -> Iterator[str]:
    if function is not None:
        yield from _strings(function.name)
        yield from _strings(function.arguments)


def text_of_events(events: bytes) -> tuple[int, str]:
    """How many deltas in some events have text, and all of it. Lines end with LF."""
    texts = _find_texts(events)
    if texts is not None:
        return len(texts) - texts.count(b""), _unescape(b"".join(texts))
    parsed = _parse(events)
    return len(parsed), "".join(parsed)


def deltas_of_events(events: bytes) -> list[str]:
    """The non-empty texts in some events, one by one."""
    texts = _find_texts(events)
    return _parse(events) if texts is None else [_unescape(text) for text in texts if text]


def _find_texts(events: bytes) -> list[bytes] | None:
    """The texts of the deltas, escaped; None if they can only be found by parsing."""
    texts = _plain_chat_texts(events) or _CHAT_DELTA.findall(events)
    if not texts and not _MORE_THAN_DELTAS.search(events):
        texts = _RESPONSES_DELTA.findall(events)
    return texts if texts and len(texts) == events.count(b'"delta"') else None


def _parse(events: bytes) -> list[str]:
    data = [line[5:] for line in events.split(b"\n") if line.startswith(_DATA)]
    try:
        return _texts(_decode_lines(b"\n".join(data)))
    except DECODE_ERRORS:
        return [text for event in events.split(b"\n\n") for text in _texts_of_event(event)]


# Nearly all events of a stream have one kind of delta. Finding those takes a fraction of parsing.
_STRING = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_CHAT_DELTA = re.compile(rb'"delta"\s*:\s*\{\s*"content"\s*:\s*%b\s*\}' % _STRING)
_MORE_THAN_DELTAS = re.compile(rb"audio\.delta|output_item\.added")
_RESPONSES_DELTA = re.compile(rb'"delta"\s*:\s*%b' % _STRING)


def _plain_chat_texts(events: bytes) -> list[bytes]:
    """The texts of a chat's deltas, if they have no escapes and are written without spaces."""
    parts = events.split(b'"delta":{"content":"')
    texts = [part.partition(b'"}')[0] for part in parts[1:]]
    text = b"".join(texts)
    return [] if b'"' in text or b"\\" in text else texts


_DATA = (b"data: {", b"data:{")


def _texts_of_event(event: bytes) -> list[str]:
    """The texts of an event, whose data may be on several lines."""
    lines = (line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))
    data = b"\n".join(lines)
    try:
        return _texts([_decode_event(data)])
    except DECODE_ERRORS:
        return texts_of_fragment(data)


def text_of_body(body: bytes) -> str:
    """All text in a plain body, or in the beginning of one."""
    try:
        texts = _texts([_decode_body(body)])
    except DECODE_ERRORS:
        texts = texts_of_fragment(body)
    return "\n".join(texts)


def _texts(parts: Iterable[_Event | _Body]) -> list[str]:
    return [text for part in parts for text in part.texts()]


_FIELD = re.compile(
    rb'"(?:content|text|refusal|reasoning|reasoning_content|arguments|delta)"\s*:\s*'
    rb'"([^"\\]*(?:\\.[^"\\]*)*)',
    re.DOTALL,
)
# The halves of a character that is split over two texts cannot be decoded.
_ESCAPED = re.compile(rb"\\u[0-9a-fA-F]{4}")


def texts_of_fragment(json: bytes) -> list[str]:
    """The texts in a piece of JSON that is cut, or of unknown shape; the last may be cut too."""
    return [text for text in map(_unescape, _FIELD.findall(json)) if text]


def _unescape(content: bytes) -> str:
    """The text of a JSON string."""
    if b"\\" not in content:
        return content.decode(errors="replace")
    try:
        return msgspec.json.decode(b'"%b"' % content, type=str)
    except DECODE_ERRORS:
        return _ESCAPED.sub(b"?", content).decode(errors="replace")
