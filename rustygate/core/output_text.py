"""The text that a model wrote, in the events of a stream or in a plain body.

It is read to estimate the tokens of responses without a usage. The shapes are those of chat and
legacy completions and of the Responses API, with the reasoning fields of look-alikes. Of the
Responses API's events, only those that add text count (`....delta`): the text comes again in
`....done`, and in the final event.

Bodies come from outside. Whatever is in them, these functions return and do not raise.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

from rustygate.core.request_schema import DECODE_ERRORS

# A call of a tool: the place of its choice or item, its own place there, and the tool's name.
# Look-alikes repeat the name with each part of the input.
Call = tuple[int | None, int | None, str]


class _Function(msgspec.Struct, gc=False):
    """A function that is called, or a custom tool, or a part of the call."""

    name: Any = None
    arguments: Any = None
    input: Any = None

    def texts(self) -> Iterator[str]:
        yield from _strings(self.arguments)
        yield from _strings(self.input)


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None
    custom: _Function | None = None
    index: int | None = None


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
        for _, function in self._functions():
            yield from function.texts()

    def calls(self, choice: int | None) -> Iterator[Call]:
        for index, function in self._functions():
            yield from ((choice, index, name) for name in _strings(function.name))

    def _functions(self) -> Iterator[tuple[int | None, _Function]]:
        if self.function_call is not None:
            yield None, self.function_call
        for call in self.tool_calls or ():
            function = call.function or call.custom
            if function is not None:
                yield call.index, function


class _Choice(msgspec.Struct, gc=False):
    delta: _Message | None = None
    message: _Message | None = None
    text: Any = None
    index: int | None = None

    def texts(self) -> Iterator[str]:
        if self.delta is not None:
            yield from self.delta.texts()
        elif self.message is not None:
            yield from self.message.texts()
        if self.text:
            yield from _strings(self.text)

    def calls(self) -> Iterator[Call]:
        message = self.delta or self.message
        return iter(()) if message is None else message.calls(self.index)


class _Item(msgspec.Struct, gc=False):
    """An item of a response's output."""

    name: Any = None
    content: Any = None
    summary: Any = None
    arguments: Any = None
    input: Any = None
    code: Any = None

    def texts(self) -> Iterator[str]:
        for value in (self.summary, self.content, self.arguments, self.input, self.code):
            yield from _strings(value)

    def calls(self, output_index: int | None = None) -> Iterator[Call]:
        return ((output_index, None, name) for name in _strings(self.name))


class _Event(msgspec.Struct, gc=False):
    """The data of an event."""

    choices: list[_Choice] | None = None
    type: Any = None
    delta: Any = None
    item: _Item | None = None
    output_index: int | None = None

    def texts(self) -> Iterator[str]:
        for choice in self.choices or ():
            yield from choice.texts()
        kind = self.type
        if self.delta and not (isinstance(kind, str) and kind.endswith("audio.delta")):
            yield from _strings(self.delta)

    def calls(self) -> Iterator[Call]:
        for choice in self.choices or ():
            yield from choice.calls()
        if self.item is not None and self.type == "response.output_item.added":
            yield from self.item.calls(self.output_index)


class _Body(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    output: list[_Item] | None = None

    def texts(self) -> Iterator[str]:
        for part in self._parts():
            yield from part.texts()

    def calls(self) -> Iterator[Call]:
        for part in self._parts():
            yield from part.calls()

    def _parts(self) -> Iterator[_Choice | _Item]:
        return chain(self.choices or (), self.output or ())


_decode_lines = msgspec.json.Decoder(_Event).decode_lines
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_body = msgspec.json.Decoder(_Body).decode

# Fields with text in the objects of a content list.
_TEXT_FIELDS = ("text", "refusal", "thinking", "transcript", "summary", "content")


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


def text_of_events(events: bytes) -> tuple[int, str, Sequence[Call]]:
    """How many deltas in some events have text, all of it, and the calls that begin in them.

    Lines end with LF.
    """
    texts = _find_texts(events)
    if texts is not None:
        return len(texts) - texts.count(b""), _unescape(b"".join(texts)), ()
    parsed, calls = _parse(events)
    return len(parsed), "".join(parsed), calls


def deltas_of_events(events: bytes) -> list[str]:
    """The non-empty texts in some events, one by one."""
    texts = _find_texts(events)
    return _parse(events)[0] if texts is None else [_unescape(text) for text in texts if text]


def _find_texts(events: bytes) -> list[bytes] | None:
    """The texts of the deltas, escaped; None if they can only be found by parsing."""
    texts = _plain_chat_texts(events) or _CHAT_DELTA.findall(events)
    if not texts and not _MORE_THAN_DELTAS.search(events):
        texts = _RESPONSES_DELTA.findall(events)
    return texts if texts and len(texts) == events.count(b'"delta"') else None


def _parse(events: bytes) -> tuple[list[str], list[Call]]:
    data = [line[5:] for line in events.split(b"\n") if line.startswith(_DATA)]
    try:
        return _read(_decode_lines(b"\n".join(data)))
    except DECODE_ERRORS:
        read = map(_read_event, events.split(b"\n\n"))
        texts, calls = zip(*read, strict=True)
        return list(chain.from_iterable(texts)), list(chain.from_iterable(calls))


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


def _read_event(event: bytes) -> tuple[list[str], list[Call]]:
    """The texts and calls of an event, whose data may be on several lines."""
    lines = (line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))
    data = b"\n".join(lines)
    try:
        return _read([_decode_event(data)])
    except DECODE_ERRORS:
        return texts_of_fragment(data), []


def text_of_body(body: bytes) -> tuple[str, Sequence[Call]]:
    """All text in a plain body, or in the beginning of one, and the calls of tools."""
    try:
        texts, calls = _read([_decode_body(body)])
    except DECODE_ERRORS:
        texts, calls = texts_of_fragment(body), []
    return "\n".join(texts), calls


def _read(parts: Sequence[_Event | _Body]) -> tuple[list[str], list[Call]]:
    """The texts in some parts, and the calls of tools."""
    texts = [text for part in parts for text in part.texts()]
    return texts, [call for part in parts for call in part.calls()]


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
