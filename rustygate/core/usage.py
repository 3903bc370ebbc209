"""The usage in a response: how many model tokens it took, as upstream counts them.

It is read from a copy: the bytes that cross the gate are never changed. Nothing else of a body is
parsed: the usage object is found by a scan, wherever it stands.

Bodies come from outside. Whatever is in them, these functions return and do not raise.
"""

import re
from typing import Any

import msgspec

from rustygate.core.request_schema import DECODE_ERRORS

# The longest usage object that is read, details included.
USAGE_BYTES = 4096

# A greater number of tokens is an error of upstream's.
MAX_TOKENS = 1_000_000_000


# Made for each exchange: a Struct costs a tenth of a frozen dataclass.
class Usage(msgspec.Struct, frozen=True):
    """The model tokens of a response, as upstream counts them.

    Args:
        tokens_cached: the part of `tokens_in` that upstream had cached; None if it does not say.
        tokens_reasoning: the part of `tokens_out` that nobody sees; None likewise.
        tokens_written: the part of `tokens_in` that upstream cached now.
        tokens_media: the tokens that are audio or images.
    """

    tokens_in: int
    tokens_out: int
    tokens_cached: int | None = None
    tokens_reasoning: int | None = None
    tokens_written: int = 0
    tokens_media: int = 0


def may_contain_usage(content_type: str) -> bool:
    """Whether a body of this Content-Type may contain a usage."""
    return "json" in content_type or "event-stream" in content_type


# The end of `prompt_tokens`, `input_tokens`, `total_tokens` and others. Searching for it skips the
# `"usage": null` in each event of a stream. In a JSON string the quote would be escaped.
_MARK = b'_tokens"'
_KEY = b'"usage"'


def find_usage(body: bytes | bytearray, before: Usage | None = None) -> Usage | None:
    """The last usage in a body, or in a part of one, without content coding.

    Args:
        before: the last usage before this part, returned if there is none in it. The input is
            taken from it if the usage names only the output, as at the end of Anthropic's streams.
    """
    output: int | None = None
    mark = body.rfind(_MARK)
    while mark >= 0:
        start = body.rfind(_KEY, 0, mark)
        if start < 0:
            break
        fields = _fields_at(body, start)
        if fields is not None:
            usage = _usage(fields)
            if usage is not None:
                return usage if output is None else _with_output(usage, output)
            output = output or _output(fields) or None
        mark = body.rfind(_MARK, 0, start)
    return before if before is None or output is None else _with_output(before, output)


def _with_output(usage: Usage, output: int) -> Usage:
    return msgspec.structs.replace(usage, tokens_out=output, tokens_reasoning=None)


# How many objects a usage contains at most.
_MAX_OBJECTS = 16
_OBJECT = re.compile(rb'(?<!\\)"usage"\s*:\s*(?=\{)')


class Details(msgspec.Struct, gc=False):
    """What the details of an input or an output say about its tokens."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


# Some servers write whole numbers as floats.
class _UsageObject(msgspec.Struct, gc=False):
    prompt_tokens: int | float | None = None
    input_tokens: int | float | None = None
    completion_tokens: int | float | None = None
    output_tokens: int | float | None = None
    total_tokens: int | float | None = None
    # As in chat completions, in the Responses API, and in transcriptions, images and Realtime.
    prompt_tokens_details: Details | None = None
    input_tokens_details: Details | None = None
    input_token_details: Details | None = None
    completion_tokens_details: Details | None = None
    output_tokens_details: Details | None = None
    output_token_details: Details | None = None


# A usage with details that make no sense counts without these.
class _UsageWithOddDetails(_UsageObject, gc=False):
    prompt_tokens_details: Any = None
    input_tokens_details: Any = None
    input_token_details: Any = None
    completion_tokens_details: Any = None
    output_tokens_details: Any = None
    output_token_details: Any = None


_decode = msgspec.json.Decoder(_UsageObject).decode
_decode_with_odd_details = msgspec.json.Decoder(_UsageWithOddDetails).decode


# Between the lines of an event that has its data on several.
_NEXT_LINE = b"\ndata:"


def _fields_at(body: bytes | bytearray, start: int) -> _UsageObject | None:
    """The usage object whose key is at `start`, if it is complete and readable."""
    match = _OBJECT.match(body, start)
    if match is None:
        return None
    begin = end = match.end()
    limit = start + USAGE_BYTES
    for _ in range(_MAX_OBJECTS):
        end = body.find(b"}", end, limit) + 1
        if not end:
            return None
        candidate = body[begin:end]
        # It is too early if a string has a closing brace. None has an opening one.
        if candidate.count(b"{") <= candidate.count(b"}"):
            if _NEXT_LINE in candidate:
                candidate = candidate.replace(_NEXT_LINE, b"\n")
            try:
                return _decode(candidate)
            except DECODE_ERRORS:
                pass
            try:
                return _decode_with_odd_details(candidate)
            except DECODE_ERRORS:
                continue
    return None


def _usage(fields: _UsageObject) -> Usage | None:
    """The usage in an object; None if it shows no input, or only zeros, which servers that do not
    count tokens write."""
    tokens_in, tokens_out = fields.prompt_tokens, _output(fields) or 0
    if tokens_in is None:
        tokens_in = fields.input_tokens
    if tokens_in is None and fields.total_tokens is not None:
        tokens_in = fields.total_tokens - tokens_out
    if tokens_in is None or not 0 <= tokens_in <= MAX_TOKENS or not tokens_in + tokens_out:
        return None
    of_input = (
        fields.prompt_tokens_details or fields.input_tokens_details or fields.input_token_details
    )
    of_output = (
        fields.completion_tokens_details
        or fields.output_tokens_details
        or fields.output_token_details
    )
    if of_input is None and of_output is None:
        return Usage(int(tokens_in), tokens_out)
    return detailed_usage(int(tokens_in), tokens_out, of_input, of_output)


def detailed_usage(
    tokens_in: int, tokens_out: int, input_details: object, output_details: object
) -> Usage:
    """A usage with what the details of its input and output say, if they make sense."""
    cached = reasoning = None
    written = media = 0
    if input_details is not None:
        of_input = input_details if type(input_details) is Details else _details(input_details)
        cached = _part(of_input.cached_tokens, tokens_in)
        if of_input.cache_write_tokens:
            written = _part(of_input.cache_write_tokens, tokens_in) or 0
        if of_input.audio_tokens or of_input.image_tokens:
            media = _media(of_input, tokens_in)
    if output_details is not None:
        of_output = output_details if type(output_details) is Details else _details(output_details)
        reasoning = _part(of_output.reasoning_tokens, tokens_out)
        if of_output.audio_tokens or of_output.image_tokens:
            media += _media(of_output, tokens_out)
    return Usage(tokens_in, tokens_out, cached, reasoning, written, media)


def _details(details: object) -> Details:
    if not isinstance(details, dict):
        return _NO_DETAILS
    counts = {name: details.get(name) for name in Details.__struct_fields__}
    return Details(**{name: count for name, count in counts.items() if type(count) is int})


_NO_DETAILS = Details()


def _media(details: Details, limit: int) -> int:
    audio, image = _part(details.audio_tokens, limit), _part(details.image_tokens, limit)
    return min((audio or 0) + (image or 0), limit)


def _part(count: int | None, whole: int) -> int | None:
    """A part of a number of tokens; None if it is missing or makes no sense."""
    if count is None or count < 0:
        return None
    return count if count < whole else whole


def _output(fields: _UsageObject) -> int | None:
    """The output in a usage object; None if it makes no sense."""
    output = fields.completion_tokens
    if output is None:
        output = fields.output_tokens
    return None if output is None or not 0 <= output <= MAX_TOKENS else int(output)
