"""The body of a request to a model, as far as it matters: scalars, and how much input there is.

One pass of a typed decoder over the body, which builds the text and passes over the rest. Only
where a field is not of its shape are the fields read one by one, so that an odd one spoils no
other. The shapes are those of chat's and the older completions, the Responses API, embeddings
and moderations.

Input is counted in characters. Definitions and calls of tools count as the JSON they are, so does
input of no known shape. An image, a recording or a file counts as a constant: the length of its
base64 says nothing.
"""

import re
from typing import Any

import msgspec

CHARACTERS_PER_TOKEN = 4

# 765 tokens, what an image of 1024 x 1024 in high detail takes (OpenAI, "Images and vision").
MEDIA_CHARACTERS = 765 * CHARACTERS_PER_TOKEN

# More than any model writes: a greater cap is how a client says that it wants none.
NUMBER_LIMIT = 10_000_000

# What a decoder raises for bytes that it cannot read.
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

_NOTHING = msgspec.Raw()

# The shapes make no cycles, so the garbage collector need not know of them.


class _Part(msgspec.Struct, gc=False):
    """A part of a message's content."""

    type: str | None = None
    text: str | None = None

    def characters(self) -> int:
        media = MEDIA_CHARACTERS if self.type in _MEDIA else 0
        return media + len(self.text) if self.text else media


_Content = str | list[str | _Part] | _Part | None


class _Item(_Part, gc=False):
    """A message, or what else a conversation holds: a call of a tool, its output, a summary."""

    content: _Content = None
    output: _Content = None
    summary: _Content = None
    arguments: str | None = None
    input: str | None = None
    tool_calls: msgspec.Raw = _NOTHING

    def characters(self) -> int:
        count = _characters(self.content) if self.content else 0
        if self.tool_calls:
            count += _json_characters(self.tool_calls)
        # A chat's messages, the most there are, have no type.
        return count if self.type is None else count + self._characters_beside_content()

    def _characters_beside_content(self) -> int:
        others = (self.output, self.summary, self.arguments, self.input)
        return _Part.characters(self) + sum(map(_characters, others))


_Scalar = bool | int | float | str | None
# Numbers are ids of tokens, in a list for each of several inputs.
_Input = str | list[str | int | list[int] | _Item] | _Item | None


class Request(msgspec.Struct, gc=False):
    """What was read of a body; what was not there, or made no sense, is None."""

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
    tools: msgspec.Raw = _NOTHING
    functions: msgspec.Raw = _NOTHING
    response_format: msgspec.Raw = _NOTHING
    text: msgspec.Raw = _NOTHING

    def output_cap(self) -> int | None:
        """The most tokens that the answer may take, all choices together; None if not said."""
        said = (self.max_tokens, self.max_completion_tokens, self.max_output_tokens)
        caps = [cap for cap in map(_number, said) if cap is not None]
        return max(caps) * (_number(self.n) or 1) if caps else None

    def input_characters(self) -> int:
        """Characters of the input, media and tokens as what they are worth."""
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
_INPUTS = frozenset({"messages", "input", "prompt", "instructions"})


def read_request(body: bytes) -> Request | None:
    """Read a body, whatever is in it; None if it is not a JSON object."""
    try:
        return _decode(body)
    except DECODE_ERRORS:
        return _read_one_by_one(body)


def _read_one_by_one(body: bytes) -> Request | None:
    try:
        fields = _decode_fields(body)
    except DECODE_ERRORS:
        return None
    request = Request()
    for name in _field_decoders.keys() & fields.keys():
        setattr(request, name, _field(name, fields[name]))
    return request


def _field(name: str, raw: msgspec.Raw) -> object:
    """A field's value; input of no known shape is the text of its JSON."""
    try:
        return _field_decoders[name](raw)
    except DECODE_ERRORS:
        return _as_text(_without_data(bytes(raw))) if name in _INPUTS else None


def _number(value: _Scalar) -> int | None:
    """A whole number within reason."""
    if value is None or isinstance(value, bool | str):
        return None
    return int(value) if 0 <= value <= NUMBER_LIMIT and value == int(value) else None


def _characters(value: Any) -> int:
    """Characters of an `_Input` or a `_Content`."""
    # Compared by identity: `isinstance` takes three times as long to say no to a struct.
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
    """How long JSON is as text, without the data URLs in it."""
    text = bytes(raw)
    # Most hold no semicolon at all, and one byte is found fifty times faster than several.
    if b";" in text and b";base64," in text:
        text = _without_data(text)
    return len(_as_text(text))


# A string so long without a space or an escape is data. It begins with a quote so that the
# pattern is not tried anew within a string.
_DATA = re.compile(rb'"[\w+/=:;,.-]{512,}"')
_ESCAPED = re.compile(rb"\\u[0-9a-fA-F]{4}")


def _without_data(json: bytes) -> bytes:
    return _DATA.sub(b'""', json)


def _as_text(json: bytes) -> str:
    """JSON as text, in which an escaped character counts as one."""
    if b"\\" in json:
        json = _ESCAPED.sub(b"?", json)
    return json.decode(errors="replace")
