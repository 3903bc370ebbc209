"""How many tokens a model wrote, estimated from the text that passed.

Reading all text of a long stream would cost a tenth of passing it on. So its beginning is read as
a whole, then one batch of events in several; the others count like those, by their size.

OpenAI sends one token per event. If it looks as if upstream did, the number of events is the
better figure: it is close to the estimate, and the deltas do not end within words.
"""

import re
from collections.abc import Iterable

from rustygate.core.output_text import Call, deltas_of_events, text_of_body, text_of_events
from rustygate.core.token_estimate import estimate_tokens

# So many bytes of a stream are read as a whole, then one batch in `SAMPLE_EVERY`.
READ_AS_A_WHOLE = 24 * 1024
SAMPLE_EVERY = 4

# So many characters of what was read are counted as tokens one by one, then one part in
# `COUNTED_PART`. Parts have at least `SHORT_PART` characters and at most `LONG_PART`, so that a
# long text counts from its beginning to its end.
COUNTED_AS_A_WHOLE = 512
COUNTED_PART = 3
SHORT_PART, LONG_PART = 256, 1024

# How close the estimate and the number of deltas must be: within this part of the estimate, or
# within so few tokens.
CLOSE_PART = 1 / 6
CLOSE_TOKENS = 3

# How much is kept of the first events with text, to see whether their deltas are tokens.
FIRST_BYTES = 2 * 1024

# The part of the deltas that may end within a word. Few tokens do, most pieces of a fixed size do.
SPLIT_WORDS = 0.25

# The longest beginning of a word that is put before the next text.
WORD_CHARACTERS = 16

# What OpenAI counts for each call of a tool besides its name and its input.
CALL_OVERHEAD = 7

# So many calls of a stream are remembered.
MAX_CALLS = 1000

_BLANK_LINE = b"\n\n"


class _Read:
    """Events that were read: their size, their deltas with text, and the tokens of these.

    Calls are the tokens of calls without their input.
    """

    __slots__ = ("calls", "deltas", "size", "tokens")

    def __init__(self) -> None:
        self.size = self.deltas = self.calls = 0
        self.tokens = 0.0


class StreamEstimate:
    """The tokens in the events of a stream so far."""

    __slots__ = (
        "_batches",
        "_beginning",
        "_calls",
        "_characters",
        "_first",
        "_sample",
        "_skipped",
        "_word",
    )

    def __init__(self) -> None:
        # From the first delta on.
        self._beginning = _Read()
        self._sample = _Read()
        self._batches = 0
        self._skipped = 0
        self._characters = 0
        self._first = b""
        # The beginning of a word that may go on in the next events.
        self._word = ""
        # Those that have begun.
        self._calls: set[Call] = set()

    def feed(self, events: bytes) -> None:
        """Note the next batch of events, whose lines end with LF."""
        if b'.done"' in events or b'"response.completed"' in events:
            events = _without_repetitions(events)
        if self._beginning.size <= READ_AS_A_WHOLE:
            self._read(events, self._beginning)
            return
        self._batches += 1
        if self._batches % SAMPLE_EVERY == SAMPLE_EVERY // 2:
            self._read(events, self._sample)
        else:
            self._skipped += len(events)

    def skip(self, size: int) -> None:
        """Note bytes of the stream that are not read."""
        self._skipped += size

    def tokens(self) -> int:
        """The estimate."""
        self._beginning.tokens += estimate_tokens(self._word)
        self._word = ""
        beginning, sample = self._beginning, self._sample
        are_counted = self._are_tokens(
            beginning.tokens + sample.tokens, beginning.deltas + sample.deltas
        )
        if not sample.size and not self._skipped:
            return round(beginning.calls + (beginning.deltas if are_counted else beginning.tokens))
        tokens, like = 0.0, sample if sample.size else beginning
        for read, scale in (
            (beginning, 1.0),
            (sample, 1.0),
            (like, self._skipped / (like.size or 1)),
        ):
            tokens += (read.calls + (read.deltas if are_counted else read.tokens)) * scale
        return round(tokens)

    def _are_tokens(self, tokens: float, deltas: int) -> bool:
        """Whether the deltas that were read are tokens, so that their number is what counts."""
        distance = abs(tokens - deltas)
        if distance <= CLOSE_TOKENS:
            return True
        return distance <= tokens * CLOSE_PART and are_tokens(deltas_of_events(self._first))

    def _read(self, events: bytes, read: _Read) -> None:
        deltas, text, calls = text_of_events(events)
        if calls:
            read.calls += _tokens_of_calls(self._new(calls))
        if deltas and not read.deltas:
            events = _from_first_delta(events)
            self._first = self._first or _first_events(events, FIRST_BYTES)
        if deltas or read.deltas:
            read.size += len(events)
        read.deltas += deltas
        read.tokens += self._count(text)

    def _new(self, calls: Iterable[Call]) -> set[Call]:
        """The calls that are new; all of them are remembered."""
        new = set(calls) - self._calls
        if len(self._calls) < MAX_CALLS:
            self._calls |= new
        return new

    def _count(self, text: str) -> float:
        """The tokens of a text; once there were enough, judged by parts of it."""
        text = self._word + text
        end = text.rfind(" ", max(0, len(text) - WORD_CHARACTERS))
        end = len(text) if end < 0 else end
        text, self._word = text[:end], text[end:]
        least = max(COUNTED_AS_A_WHOLE - self._characters, SHORT_PART)
        self._characters += len(text)
        if len(text) <= least:
            return estimate_tokens(text)
        size = min(max(least, len(text) // COUNTED_PART), LONG_PART)
        parts = [_to_word_end(text, at, size) for at in range(0, len(text), COUNTED_PART * size)]
        return sum(map(estimate_tokens, parts)) * len(text) / sum(map(len, parts))


def _to_word_end(text: str, start: int, size: int) -> str:
    """A part of a text, to the end of a word if there is one soon."""
    end = text.find(" ", start + size, start + size + WORD_CHARACTERS)
    return text[start : start + size if end < 0 else end]


# The beginning of an event of the Responses API that repeats text, and how long it is.
_REPETITION = re.compile(rb'\.done["\n]|response\.completed["\n]')
_BEGINNING_BYTES = 128


def _without_repetitions(events: bytes) -> bytes:
    """Events without those that repeat the text of others: they would count as much as these."""
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
