"""What a request says of itself and may cost, and what an answer says it took.

Both are read from the side: the bytes that cross the gate are never touched. A request's cost is
reckoned as OpenAI does before it has counted ("Rate limits", in its guides): the characters of
the input, four to a token, and the most that the answer may take. An answer's usage stands near
the end of its body, in plain answers (`"usage": {...}`), in chat's last chunk before `[DONE]`
and in the Responses API's `response.completed`, so only a tail of the body is kept.

Bodies come from strangers: whatever is in them, these functions answer and do not raise.
"""

import re
import zlib
from urllib.parse import parse_qs

import msgspec

from rustygate.core.request_schema import CHARACTERS_PER_TOKEN, read_request

# What follows the usage in an answer is short (`user`, `metadata`, `service_tier`): this much of
# the end holds it in all but odd answers, and a thousand streams keep few megabytes.
TAIL_BYTES = 4096

# An encoded answer is inflated to be read; one that inflates beyond this is not worth it.
INFLATED_LIMIT = 32 * 1024 * 1024

# A model name is a label in logs; a longer one is nobody's model.
MODEL_NAME_LIMIT = 128

# How long a usage object may be, details included.
USAGE_BYTES = 1024

# Where a model writes text: chat's and the older completions, and the Responses API.
_WRITERS = ("/completions", "/responses")


# The two below are values like others, but made for each exchange: a Struct is a tenth of a
# frozen dataclass's cost.


class RequestFacts(msgspec.Struct, frozen=True):
    """What matters of a request's body; the defaults are what an empty one tells.

    Args:
        input_characters: of text and definitions; media and token ids as what they are worth.
        output_cap: the most tokens that the answer may take, all choices together; 0 if it takes
            none, None if the request does not say.
        readable: whether it could be told at all what it asks.
    """

    model: str | None = None
    streaming: bool = False
    input_characters: int = 0
    output_cap: int | None = 0
    readable: bool = True

    def cost(self, typical_output: int) -> int:
        """The model's tokens to reserve; `typical_output` stands in for a cap not said."""
        output = typical_output if self.output_cap is None else self.output_cap
        return -(-self.input_characters // CHARACTERS_PER_TOKEN) + output


class Usage(msgspec.Struct, frozen=True):
    """The model's tokens that an answer took, as upstream counts them."""

    tokens_in: int
    tokens_out: int


NO_FACTS = RequestFacts()


def request_facts(body: bytes, path: str | None = None) -> RequestFacts:
    """Read a held body. One that is not a JSON object tells nothing and costs its length.

    Args:
        path: the request's, by which answers that a model writes are told from embeddings and
            the like; without it, any request is taken for one that wants such an answer.
    """
    if not body:
        return NO_FACTS
    not_said = None if path is None or path.endswith(_WRITERS) else 0
    request = read_request(body)
    if request is None:
        return RequestFacts(input_characters=len(body), output_cap=not_said, readable=False)
    cap = request.output_cap()
    return RequestFacts(
        _model_name(request.model),
        request.stream is True,
        request.input_characters(),
        not_said if cap is None else cap,
    )


def model_in(target: str) -> str | None:
    """The model that a target's query names, as a WebSocket's does.

    None if there are several: which of them upstream takes nobody knows.
    """
    models = parse_qs(target.partition("?")[2], keep_blank_values=True).get("model", [])
    return _model_name(models[0]) if len(models) == 1 else None


def _model_name(model: object) -> str | None:
    return model if isinstance(model, str) and 0 < len(model) <= MODEL_NAME_LIMIT else None


def is_encoded(content_encoding: str) -> bool:
    """Whether a Content-Encoding names one; `identity` is none (RFC 9110, 8.4.1)."""
    return content_encoding.strip().lower() not in {"", "identity"}


def may_hold_usage(content_type: str) -> bool:
    """Whether a body of that Content-Type may hold a usage."""
    return "json" in content_type or "event-stream" in content_type


class UsageReader:
    """Follows an answer's body and finds the usage in its tail."""

    __slots__ = ("_inflater", "_tail")

    def __init__(self, content_encoding: str) -> None:
        self._tail = bytearray()
        self._inflater = Inflater() if is_encoded(content_encoding) else None

    def feed(self, chunk: bytes) -> None:
        """Note bytes that passed."""
        if self._inflater is not None:
            chunk = self._inflater.inflate(chunk)
        self._tail += chunk
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]

    def usage(self) -> Usage | None:
        """The last usage that the body told so far."""
        return usage_in(self._tail)


class RunningUsage:
    """Adds up what a WebSocket's events tell, since each answer in it takes its own."""

    __slots__ = ("_event", "total")

    def __init__(self) -> None:
        self._event = UsageReader("")
        self.total: Usage | None = None

    def feed(self, piece: bytes, last: bool) -> None:
        """Note a piece of an event, and with the last one what the event told."""
        self._event.feed(piece)
        if last:
            usage = self._event.usage()
            if usage is not None:
                self._add(usage)
            self._event = UsageReader("")

    def _add(self, usage: Usage) -> None:
        before = self.total or Usage(0, 0)
        self.total = Usage(
            before.tokens_in + usage.tokens_in, before.tokens_out + usage.tokens_out
        )


def usage_in(body: bytes | bytearray) -> Usage | None:
    """The last usage that stands in the end of a plain body."""
    start = body.rfind(_KEY, -TAIL_BYTES)
    while start >= 0:
        usage = _usage_at(body, start)
        if usage is not None:
            return usage
        start = body.rfind(_KEY, -TAIL_BYTES, start)
    return None


class Inflater:
    """Inflates gzip and deflate as far as there is something to inflate."""

    __slots__ = ("_decoder", "_left")

    def __init__(self, limit: int = INFLATED_LIMIT) -> None:
        self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        self._left = limit

    def inflate(self, chunk: bytes) -> bytes:
        """The end of what the chunk inflates to; nothing once it is broken or too much."""
        if not self._left:
            return b""
        try:
            plain = self._decoder.decompress(chunk, self._left)
        except zlib.error:
            self._left = 0
            return b""
        self._left -= len(plain)
        return plain


_KEY = b'"usage"'
_OBJECT = re.compile(rb'"usage"\s*:\s*{')
_TOKENS_IN = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})\s*[,}]')
_TOKENS_OUT = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})\s*[,}]')


def _usage_at(body: bytes | bytearray, start: int) -> Usage | None:
    """The usage object whose key is at `start`, if it is one and is whole."""
    found = _OBJECT.match(body, start)
    end = start + USAGE_BYTES
    tokens_in = found and _TOKENS_IN.search(body, start, end)
    if not tokens_in:
        return None
    tokens_out = _TOKENS_OUT.search(body, start, end)
    return Usage(int(tokens_in[1]), int(tokens_out[1]) if tokens_out else 0)
