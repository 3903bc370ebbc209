"""What the gate needs to know about a request: its model, whether it streams, what it may cost.

It is read from a copy: the bytes that cross the gate are never changed. The cost is estimated as
OpenAI does before it has counted the tokens (OpenAI's guide "Rate limits"): the characters of the
input, four to a token, plus the most tokens that the response may take.

Bodies come from outside. Whatever is in them, these functions return and do not raise.
"""

import re
from collections.abc import Sequence
from mmap import mmap
from urllib.parse import parse_qs

import msgspec
from msgspec.structs import replace

from rustygate.core.decompression import decode
from rustygate.core.forms import Form, is_form, read_form
from rustygate.core.request_schema import (
    CHARACTERS_PER_TOKEN,
    TEXTS,
    Request,
    is_true,
    read_request,
    read_request_start,
    request_in_form,
)

# A model name is a label in logs. No model has a longer name.
MODEL_NAME_LIMIT = 128

# How much of a body is read if not all of it is. What names the model comes first.
START_LIMIT = 64 * 1024

# The same for a compressed body. zstd shows nothing before the end of a block, which may take
# 128 KiB if its content cannot be compressed, behind two headers (RFC 8878, 3.1.1.2.4).
COMPRESSED_START_LIMIT = 132 * 1024

# Endpoints at which a model writes text: chat and legacy completions, and the Responses API.
_TEXT_ENDPOINTS = ("/completions", "/responses")

# A POST to these paths makes no model work: batches have limits of their own, cancelling or
# changing an object returns the usage that it already had, and counting tokens takes none.
_WITHOUT_WORK = re.compile(
    r"/v1/batches(?:/|$)|/(?:cancel|input_tokens|count_tokens)/?$|/(?:completions|runs)/[^/]+/?$"
)


# Made for each exchange: a Struct costs a tenth of a frozen dataclass.
class RequestFacts(msgspec.Struct, frozen=True):
    """What matters in a request's body. The defaults are those of an empty body.

    Args:
        input_characters: of text and definitions; media and token ids count at a fixed rate.
        output_cap: the most tokens that the response may take, all choices together; 0 if the
            response takes no tokens, None if the request sets no cap.
        readable: whether all of the body could be read, so that it has no other model.
    """

    model: str | None = None
    streaming: bool = False
    input_characters: int = 0
    output_cap: int | None = 0
    readable: bool = True

    def cost(self, typical_output: int) -> int:
        """The model tokens to reserve, with `typical_output` if the request sets no cap."""
        output = typical_output if self.output_cap is None else self.output_cap
        return -(-self.input_characters // CHARACTERS_PER_TOKEN) + output


NO_FACTS = RequestFacts()
NO_FACTS_IN_START = RequestFacts(readable=False)
STREAM_FACTS = RequestFacts(streaming=True)

# A client that does not set the Content-Type of its JSON may send that of a form, as curl does.
_JSON_OBJECT = b"{"
_NOTHING = Request()


def writes_text(path: str) -> bool:
    """Whether a model writes text at an endpoint."""
    return path.endswith(_TEXT_ENDPOINTS)


def is_work(method: str, path: str) -> bool:
    """Whether a request makes a model work. The usage in a response to any other is that of
    earlier work."""
    return method == "POST" and (writes_text(path) or not _WITHOUT_WORK.search(path))


def read_request_facts(body: bytes | mmap, path: str | None = None) -> RequestFacts:
    """Read a buffered body. One that is not a JSON object costs its length.

    Args:
        path: the request's path, which distinguishes text generation from embeddings and others.
            Without a path, the request counts as text generation.
    """
    if not body:
        return NO_FACTS
    request = read_request(body)
    if request is None:
        cap = _default_cap(path)
        return RequestFacts(input_characters=len(body), output_cap=cap, readable=False)
    return _facts(request, path)


def read_form_facts(body: bytes, path: str, content_type: str) -> RequestFacts:
    """Read a buffered form."""
    if body.startswith(_JSON_OBJECT):
        return read_request_facts(body, path)
    form = read_form(body, content_type)
    return _facts(request_in_form(form), path, _long_characters(form), form.clear)


def read_compressed_facts(
    body: bytes, path: str, content_type: str, codings: Sequence[str], limit: int
) -> RequestFacts:
    """Read a buffered body that has content codings.

    Args:
        limit: how many bytes of the decoded body are read. If there are more, what else is in the
            body is not known.
    """
    decoded = decode(body, codings, limit)
    if decoded is None:
        return RequestFacts(
            input_characters=len(body), output_cap=_default_cap(path), readable=False
        )
    if not decoded.whole:
        facts = read_facts_in_start(decoded.data[:START_LIMIT], path, content_type)
        return replace(facts, input_characters=len(body))
    if is_form(content_type):
        return read_form_facts(decoded.data, path, content_type)
    return read_request_facts(decoded.data, path)


def read_facts_in_start(
    start: bytes, path: str, content_type: str, codings: Sequence[str] = ()
) -> RequestFacts:
    """Read the start of a body that is streamed: a form's first fields, or an object's first
    members. What else is in the body is not known."""
    if codings:
        decoded = decode(start, codings, START_LIMIT)
        start = b"" if decoded is None else decoded.data
    if is_form(content_type) and not start.startswith(_JSON_OBJECT):
        # The last field of a URL-encoded form may go on.
        whole = (
            start if content_type[:10].lower() == "multipart/" else start[: start.rfind(b"&") + 1]
        )
        request = request_in_form(read_form(whole, content_type))
    else:
        request = read_request_start(start)
    if request == _NOTHING:
        return NO_FACTS_IN_START
    return _facts(request, path, readable=False)


def facts_in_query(target: str) -> RequestFacts:
    """What matters in the target of a request without a body."""
    stream = parse_qs(target.partition("?")[2]).get("stream", [])
    return STREAM_FACTS if any(map(is_true, stream)) else NO_FACTS


def model_in_query(target: str) -> str | None:
    """The model in a target's query, where WebSocket requests name it.

    None if it is named more than once, because upstream might use any of them.
    """
    models = parse_qs(target.partition("?")[2], keep_blank_values=True).get("model", [])
    return _model_name(models[0]) if len(models) == 1 else None


def _facts(
    request: Request, path: str | None, more_characters: int = 0, readable: bool = True
) -> RequestFacts:
    cap, model = request.output_cap(), _model_name(request.model)
    if model is None and request.model:
        # A name too long to be logged, or no text.
        readable = False
    return RequestFacts(
        model,
        request.stream is True,
        request.input_characters() + more_characters,
        _default_cap(path) if cap is None else cap,
        readable,
    )


def _default_cap(path: str | None) -> int | None:
    return None if path is None or writes_text(path) else 0


def _long_characters(form: Form) -> int:
    """Characters of the texts that are too long to be read, as if each had one byte."""
    return sum(length for name, length in form.lengths.items() if name in TEXTS)


def _model_name(model: object) -> str | None:
    return model if isinstance(model, str) and 0 < len(model) <= MODEL_NAME_LIMIT else None
