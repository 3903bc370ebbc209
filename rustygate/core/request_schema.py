"""The fields of a request body that the gate reads: scalars, and the size of the input.

A typed decoder reads the body in one pass. It builds the text and skips the rest. Only if a field
has an unexpected type are the fields read one by one, so that one odd field does not spoil the
others. The types are those of chat and legacy completions, the Responses API, embeddings and
moderations.

Input is measured in characters. Tool definitions and tool calls count with the length of their
JSON, as does input of unknown type. An image, a recording or a file counts as a constant, because
the length of its base64 says nothing about its tokens.
"""

import re
from codecs import BOM_UTF8
from mmap import mmap
from typing import Any

import msgspec

from rustygate.core.forms import Form
from rustygate.core.json_start import members_in_start

CHARACTERS_PER_TOKEN = 4

# 765 tokens, what an image of 1024 x 1024 in high detail takes (OpenAI, "Images and vision").
MEDIA_CHARACTERS = 765 * CHARACTERS_PER_TOKEN

# More than any model writes. Clients that want no cap send a greater number.
NUMBER_LIMIT = 10_000_000

# The exceptions of a decoder that cannot read its input.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_MEDIA = frozenset(
    {
        "computer_screenshot",
        "file",
        "image_generation_call",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
    }
)

_ABSENT = msgspec.Raw()

# The structs form no cycles, so the garbage collector can ignore them (`gc=False`).


class _Part(msgspec.Struct, gc=False):
    """A part of a message's content."""

    type: str | None = None
    text: str | None = None

    def characters(self) -> int:
        media = MEDIA_CHARACTERS if self.type in _MEDIA else 0
        return media + len(self.text) if self.text else media


_Content = str | list[str | _Part] | _Part | None


class _Item(_Part, gc=False):
    """An item of a conversation: a message, a tool call, a tool's output, or a summary."""

    content: _Content = None
    output: _Content = None
    summary: _Content = None
    arguments: str | None = None
    input: str | None = None
    tool_calls: msgspec.Raw = _ABSENT

    def characters(self) -> int:
        content = self.content
        # Most are plain text.
        count = len(content) if type(content) is str else _characters(content)
        if self.tool_calls:
            count += _json_characters(self.tool_calls)
        # Chat messages, the most frequent items, have no type.
        return count if self.type is None else count + self._characters_of_other_fields()

    def _characters_of_other_fields(self) -> int:
        others = (self.output, self.summary, self.arguments, self.input)
        return _Part.characters(self) + sum(map(_characters, others))


_Scalar = bool | int | float | str | None
# Numbers are token ids; with several inputs, there is a list for each.
_Input = str | list[str | int | list[int] | _Item] | _Item | None


class Request(msgspec.Struct, gc=False):
    """The fields that were read. One that is absent, or makes no sense, is None."""

    model: _Scalar = None
    stream: _Scalar = None
    max_tokens: _Scalar = None
    max_completion_tokens: _Scalar = None
    max_output_tokens: _Scalar = None
    n: _Scalar = None
    messages: _Input = None
    input: _Input = None
    prompt: _Input = None
    instructions: _Input = None
    tools: msgspec.Raw = _ABSENT
    functions: msgspec.Raw = _ABSENT
    response_format: msgspec.Raw = _ABSENT
    text: msgspec.Raw = _ABSENT

    def output_cap(self) -> int | None:
        """The most tokens that the response may take, all choices together; None if not set."""
        highest: int | None = None
        for field in (self.max_tokens, self.max_completion_tokens, self.max_output_tokens):
            cap = None if field is None else _number(field)
            if cap is not None and (highest is None or cap > highest):
                highest = cap
        if highest is None or self.n is None:
            return highest
        return highest * (_number(self.n) or 1)

    def input_characters(self) -> int:
        """Characters of the input; media and token ids count at a fixed rate."""
        count = 0
        for text in (self.messages, self.input, self.prompt, self.instructions):
            if text:
                count += _characters(text)
        for definitions in (self.tools, self.functions, self.response_format, self.text):
            if definitions:
                count += _json_characters(definitions)
        return count


_decode = msgspec.json.Decoder(Request).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_field_decoders = {
    field.name: msgspec.json.Decoder(field.type).decode
    for field in msgspec.structs.fields(Request)
}
# Fields that are text in forms.
TEXTS = frozenset({"input", "prompt", "instructions"})
_INPUTS = frozenset({"messages", "input", "prompt", "instructions"})
_SCALARS = frozenset(
    field.name for field in msgspec.structs.fields(Request) if field.type == _Scalar
)
_SCALARS_IN_JSON = frozenset(map(str.encode, _SCALARS))

# The texts in forms and queries that stand for true, in lower case.
_TRUE = frozenset({"true", "1"})


def read_request(body: bytes | mmap) -> Request | None:
    """Read any body. None if it is not a JSON object."""
    try:
        return _decode(body)
    except DECODE_ERRORS:
        return _read_field_by_field(bytes(body).removeprefix(BOM_UTF8))


def read_request_start(start: bytes) -> Request:
    """Read the scalars in the start of a body that is a JSON object."""
    request = Request()
    members = members_in_start(start.removeprefix(BOM_UTF8), _SCALARS_IN_JSON)
    for name, value in members.items():
        setattr(request, name.decode(), _field(name.decode(), msgspec.Raw(value)))
    return request


def request_in_form(form: Form) -> Request:
    """The request in a form's fields, which are all text."""
    request = Request()
    for name in form.fields.keys() & (_SCALARS | TEXTS):
        text = form.fields[name]
        value: _Scalar = text
        if name == "stream":
            value = is_true(text)
        elif name in _SCALARS and name != "model":
            value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
        setattr(request, name, value)
    return request


def is_true(text: str) -> bool:
    """Whether a text in a form or a query stands for true."""
    return text.lower() in _TRUE


def _read_field_by_field(body: bytes) -> Request | None:
    try:
        fields = _decode_fields(body)
    except DECODE_ERRORS:
        return None
    request = Request()
    for name in _field_decoders.keys() & fields.keys():
        setattr(request, name, _field(name, fields[name]))
    return request


def _field(name: str, raw: msgspec.Raw) -> object:
    """The value of a field. For input of unknown type, this is the text of its JSON."""
    try:
        return _field_decoders[name](raw)
    except DECODE_ERRORS:
        return _as_text(_without_data(bytes(raw))) if name in _INPUTS else None


def _number(value: _Scalar) -> int | None:
    """A whole number of plausible size."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= NUMBER_LIMIT else None


def _characters(value: Any) -> int:
    """Characters of an `_Input` or a `_Content`."""
    # Types are compared by identity: for a struct, `isinstance` takes three times as long.
    if type(value) is str:
        return len(value)
    if type(value) is list:
        if value and type(value[0]) is int:
            return CHARACTERS_PER_TOKEN * len(value)
        return sum(map(_characters, value))
    if type(value) is int:
        return CHARACTERS_PER_TOKEN
    count: int = 0 if value is None else value.characters()
    return count


def _json_characters(raw: msgspec.Raw) -> int:
    """The length of JSON as text, without the data URLs in it."""
    text = bytes(raw)
    # Most JSON has no semicolon, and finding one byte is fifty times faster than finding several.
    if b";" in text and b";base64," in text:
        text = _without_data(text)
    return len(_as_text(text))


# A long string without a space or an escape is data. The pattern begins with the quote so that
# it is not tried again at each character of a string.
_DATA = re.compile(rb'"[\w+/=:;,.-]{512,}"')
_ESCAPED = re.compile(rb"\\u[0-9a-fA-F]{4}")


def _without_data(json: bytes) -> bytes:
    return _DATA.sub(b'""', json)


def _as_text(json: bytes) -> str:
    """JSON as text, with one character for each escape sequence."""
    if b"\\" in json:
        json = _ESCAPED.sub(b"?", json)
    return json.decode(errors="replace")
