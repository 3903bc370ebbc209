"""How many tokens a model wrote, estimated from the text that passed.

Most streams report their usage at the end, and reading all text of a long one would cost a tenth
of passing it on. So the beginning and samples of the events after it are kept, and read when the
stream ends without a usage, or when too much is kept. Bytes between samples count like these.

OpenAI sends one token per event. If it looks as if upstream did, the number of events is the
better figure: it is close to the estimate, and the deltas do not end within words.
"""

import re
from collections.abc import Iterable

from rustygate.core.output_text import Call, deltas_of_events, text_of_body, text_of_events
from rustygate.core.token_estimate import estimate_tokens

# The number of bytes kept from the start, and after each gap.
BEGINNING = 24 * 1024
SAMPLE = 2 * 1024
GAP = 6 * 1024

# If more is kept, it is read before the stream ends.
KEPT_BYTES = 40 * 1024

# Up to this many characters, all of a text is counted. From a longer one, parts of `PART`
# characters are counted, spread evenly: one part in `COUNTED_PART`, at most `MAX_PARTS`.
COUNTED_AS_A_WHOLE = 512
COUNTED_PART = 3
PART = 256
MAX_PARTS = 64

# How close the estimate and the number of deltas must be: within this part of the estimate, or
# within so few tokens.
CLOSE_PART = 1 / 6
CLOSE_TOKENS = 3

# How much is kept of the first events with text, to see whether their deltas are tokens.
FIRST_BYTES = 2 * 1024

# The part of the deltas that may end within a word. Few tokens do, most pieces of a fixed size do.
SPLIT_WORDS = 0.25

# How far the end of a word is looked for.
WORD_CHARACTERS = 16

# What OpenAI counts for each call of a tool besides its name and its input.
CALL_OVERHEAD = 7

# The number of calls that are remembered per stream.
MAX_CALLS = 1000

_BLANK_LINE = b"\n\n"


class StreamEstimate:
    """The tokens in the events of a stream so far."""

    __slots__ = (
        "_beginning", "_call_tokens", "_calls", "_deltas", "_first", "_kept_bytes", "_left",
        "_repeats", "_samples", "_skipped", "_to_skip", "_tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        # Of what was read: the deltas with text, their tokens, and the tokens of calls without
        # their input.
        self._deltas = self._tokens = self._call_tokens = 0.0
        self._beginning: list[bytes] = []
        self._samples: list[bytes] = []
        self._kept_bytes = self._skipped = 0
        # What is left of the beginning, and of the gap before the next sample.
        self._left, self._to_skip = BEGINNING, GAP
        # Whether these are events of the Responses API.
        self._repeats = False
        self._first = b""
        # Those that have begun.
        self._calls: set[Call] = set()

    def feed(self, events: bytes) -> None:
        """Note the next batch of events, whose lines end with LF."""
        if self._left > 0 and events.find(_RESPONSES, 0, _BEGINNING_BYTES) >= 0:
            self._repeats = True
        if self._repeats and (b'.done"' in events or _RESPONSE in events):
            events = _without_repetitions(events)
        if self._left <= 0:
            self._sample(events, 0)
            return
        end = _end_of_event(events, self._left)
        self._left -= end
        self._keep(self._beginning, events[:end])
        if end < len(events):
            self._sample(events, end)

    def skip(self, size: int) -> None:
        """Note bytes of the stream that are not read."""
        self._skipped += size

    def tokens(self) -> int:
        """The estimate."""
        self._read_kept()
        return round(self._call_tokens + (self._deltas if self._are_tokens() else self._tokens))

    def _sample(self, events: bytes, start: int) -> None:
        """Keep samples of a batch of events from `start` on."""
        while start + self._to_skip < len(events):
            begin = _end_of_event(events, start + self._to_skip)
            end = _end_of_event(events, begin + SAMPLE)
            self._skipped += begin - start
            self._to_skip = 0
            if begin == end:
                return
            self._keep(self._samples, events[begin:end])
            self._to_skip = GAP
            start = end
        self._skipped += len(events) - start
        self._to_skip -= len(events) - start

    def _keep(self, kept: list[bytes], events: bytes) -> None:
        if self._kept_bytes + len(events) > KEPT_BYTES:
            self._read_kept()
        kept.append(events)
        self._kept_bytes += len(events)

    def _read_kept(self) -> None:
        """Read what was kept. Bytes that were skipped count like the samples, if there are any."""
        if self._samples:
            self._read(self._beginning, 0)
            self._read(self._samples, self._skipped)
        else:
            self._read(self._beginning, self._skipped)
        self._kept_bytes = self._skipped = 0

    def _read(self, kept: list[bytes], skipped: int) -> None:
        """Read some events, which also stand for bytes that were skipped."""
        events = b"".join(kept)
        kept.clear()
        deltas, text, calls = text_of_events(events)
        if deltas and not self._first:
            events = _from_first_delta(events)
            self._first = _first_events(events, FIRST_BYTES)
        scale = 1 + skipped / len(events) if deltas else 1.0
        self._deltas += deltas * scale
        self._tokens += _count(text) * scale
        if calls:
            self._call_tokens += _tokens_of_calls(self._new(calls)) * scale

    def _are_tokens(self) -> bool:
        """Whether the deltas that were read are tokens, so that their number is what counts."""
        distance = abs(self._tokens - self._deltas)
        if distance <= CLOSE_TOKENS:
            return True
        return distance <= self._tokens * CLOSE_PART and are_tokens(deltas_of_events(self._first))

    def _new(self, calls: Iterable[Call]) -> set[Call]:
        """The calls that are new; all of them are remembered."""
        new = set(calls) - self._calls
        if len(self._calls) < MAX_CALLS:
            self._calls |= new
        return new


def _count(text: str) -> float:
    """The tokens of a text; those of a long one are estimated from parts of it."""
    if len(text) <= COUNTED_AS_A_WHOLE:
        return estimate_tokens(text)
    step = max(COUNTED_PART * PART, len(text) // MAX_PARTS)
    parts = [_to_word_end(text, at, PART) for at in range(0, len(text), step)]
    return sum(map(estimate_tokens, parts)) * len(text) / sum(map(len, parts))


def _to_word_end(text: str, start: int, size: int) -> str:
    """A part of a text, to the end of a word if there is one soon."""
    end = text.find(" ", start + size, start + size + WORD_CHARACTERS)
    return text[start : start + size if end < 0 else end]


def _end_of_event(events: bytes, at: int) -> int:
    """The end of the event at a place, or of the one that ends there."""
    end = events.find(_BLANK_LINE, max(0, at - len(_BLANK_LINE)))
    return len(events) if end < 0 else end + len(_BLANK_LINE)


# What events of the Responses API begin with, and what those with the whole response contain.
_RESPONSES = b"response."
_RESPONSE = b'"response":'

# The beginning of an event of that API that adds no text, but may repeat the request or the text
# of other events, and how long it is.
_REPETITION = re.compile(rb'\.done["\n]|response\.(?:created|queued|in_progress|completed)["\n]')
_BEGINNING_BYTES = 128


def _without_repetitions(events: bytes) -> bytes:
    """Events without those that repeat what is not in a delta: they would count as much."""
    kept = [
        event
        for event in events.split(_BLANK_LINE)
        if not _REPETITION.search(event, 0, _BEGINNING_BYTES)
    ]
    return _BLANK_LINE.join(kept)


def _first_events(events: bytes, size: int) -> bytes:
    """The first of some events, of `size` bytes together or a little more."""
    end = events.find(_BLANK_LINE, size)
    return events if end < 0 else events[: end + len(_BLANK_LINE)]


def _from_first_delta(events: bytes) -> bytes:
    """Events without those before the first delta."""
    end_before = events.rfind(_BLANK_LINE, 0, max(0, events.find(b'"delta"')))
    return events if end_before < 0 else events[end_before + len(_BLANK_LINE) :]


def are_tokens(deltas: list[str]) -> bool:
    """Whether deltas end where tokens can end: few of them within a word."""
    splits = sum(map(_splits_word, deltas, deltas[1:]))
    return splits <= len(deltas) * SPLIT_WORDS


def _splits_word(delta: str, following: str) -> bool:
    return delta[-1].isascii() and delta[-1].isalpha() and "a" <= following[0] <= "z"


def _tokens_of_calls(calls: Iterable[Call]) -> int:
    """The tokens of calls without their input."""
    return sum(CALL_OVERHEAD + estimate_tokens(name) for _, _, name in calls)


def estimate_body(start: bytes, size: int) -> int:
    """The tokens in a plain body of `size` bytes, of which `start` was kept."""
    text, calls = text_of_body(start)
    tokens = estimate_tokens(text) + _tokens_of_calls(calls)
    return round(tokens * size / len(start)) if start else 0
