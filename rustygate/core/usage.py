"""What a request says of itself and may cost, and what an answer says it took.

Both are read from the side: the bytes that cross the gate are never touched. A request's cost is
reckoned as OpenAI does before it has counted ("Rate limits", in its guides): the characters of
the input, four to a token, and the most that the answer may take. An answer's usage stands near
the end of its body, in plain answers (`"usage": {...}`), in chat's last chunk before `[DONE]`
and in the Responses API's `response.completed`, so only a tail of the body is kept.

Bodies come from strangers: whatever is in them, these functions answer and do not raise.
"""

import re

import msgspec

from rustygate.core.content_coding import Inflater, is_encoded

# What follows the usage in an answer is short (`user`, `metadata`, `service_tier`): this much of
# the end holds it in all but odd answers, and a thousand streams keep few megabytes.
TAIL_BYTES = 4096

# How long a usage object may be, details included.
USAGE_BYTES = 1024


class Usage(msgspec.Struct, frozen=True):
    """The model's tokens that an answer took, as upstream counts them."""

    tokens_in: int
    tokens_out: int


def may_contain_usage(content_type: str) -> bool:
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
        return find_usage(self._tail)


class UsageTotal:
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


def find_usage(body: bytes | bytearray) -> Usage | None:
    """The last usage that stands in the end of a plain body."""
    start = body.rfind(_KEY, -TAIL_BYTES)
    while start >= 0:
        usage = _usage_at(body, start)
        if usage is not None:
            return usage
        start = body.rfind(_KEY, -TAIL_BYTES, start)
    return None


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
