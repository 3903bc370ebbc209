"""The usage in a response: how many model tokens it took, as upstream counts them.

It is read from a copy: the bytes that cross the gate are never changed. The usage is near the end
of the body, in plain responses (`"usage": {...}`), in the last chunk of a chat stream before
`[DONE]`, and in the Responses API's `response.completed`. Only the tail of a body is kept.

Bodies come from outside. Whatever is in them, these functions return and do not raise.
"""

import re

import msgspec

from rustygate.core.content_coding import Inflater, is_encoded

# What follows the usage is short (`user`, `metadata`, `service_tier`): a tail of this size holds
# the usage in all but odd responses, and a thousand streams keep only a few megabytes.
TAIL_BYTES = 4096

# The longest usage object that is read, details included.
USAGE_BYTES = 1024


# Made for each exchange: a Struct costs a tenth of a frozen dataclass.
class Usage(msgspec.Struct, frozen=True):
    """The model tokens of a response, as upstream counts them."""

    tokens_in: int
    tokens_out: int


def may_contain_usage(content_type: str) -> bool:
    """Whether a body of this Content-Type may contain a usage."""
    return "json" in content_type or "event-stream" in content_type


class UsageReader:
    """Follows the body of a response and finds the usage in its tail."""

    __slots__ = ("_inflater", "_tail")

    def __init__(self, content_encoding: str) -> None:
        self._tail = bytearray()
        self._inflater = Inflater() if is_encoded(content_encoding) else None

    def feed(self, chunk: bytes) -> None:
        """Note the next chunk of the body."""
        if self._inflater is not None:
            chunk = self._inflater.inflate(chunk)
        self._tail += chunk
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]

    def usage(self) -> Usage | None:
        """The last usage in the body so far."""
        return find_usage(self._tail)


def find_usage(body: bytes | bytearray) -> Usage | None:
    """The last usage in the tail of a body without content coding."""
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
    """The usage object whose key is at `start`, if it is complete and readable."""
    match = _OBJECT.match(body, start)
    end = start + USAGE_BYTES
    tokens_in = match and _TOKENS_IN.search(body, start, end)
    if not tokens_in:
        return None
    tokens_out = _TOKENS_OUT.search(body, start, end)
    return Usage(int(tokens_in[1]), int(tokens_out[1]) if tokens_out else 0)
