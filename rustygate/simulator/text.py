"""Text that a request always gets again: words drawn from a list by a seed made of the prompt.

A token is a piece of text, a word with the space before it. Some words are not ASCII, and one is
outside the Basic Multilingual Plane, so that whoever cuts streams inside a character shows it.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

# No model writes more at once.
LONGEST = 128_000

# An answer's tokens when nothing says how many.
USUAL = 48

# Words of a sentence.
SENTENCE = 11

_VOCABULARY = """
the gate opens when a quiet river carries small boats past old walls and every lamp along
naïve towns waits for morning café doors turn slowly under über high roofs while seven
travellers count stars 星 or coins 🙂 near warm bread some leave early others stay late each
in turn nobody pushes then rain comes softly again
"""
_WORDS = tuple(_VOCABULARY.split())


@dataclass(frozen=True, slots=True)
class Text:
    """An answer's text in its tokens; `whole` is false if the cap on its length ended it."""

    tokens: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return "".join(self.tokens)


def length(cap: int | None, wanted: int | None) -> int:
    """How many tokens an answer has: what is wanted, else as many as the cap allows."""
    natural = wanted or cap or USUAL
    return min(natural, cap or natural)


def write(seed: int, cap: int | None, wanted: int | None, as_json: bool) -> Text:
    """An answer's text; `as_json` makes it a JSON object, valid at any length."""
    count = length(cap, wanted)
    tokens = _as_json(seed, count) if as_json else tuple(islice(_words(seed), count))
    return Text(tokens, whole=count >= (wanted or 0))


def seed_of(*parts: str) -> int:
    """A seed that depends on each part."""
    return zlib.crc32("\0".join(parts).encode())


def input_tokens(text: str) -> int:
    """How many tokens a text is reckoned at: a quarter of its characters."""
    return -(-len(text) // 4)


def _as_json(seed: int, count: int) -> tuple[str, ...]:
    if count == 1:
        return ("{}",)
    return ('{"answer":"', *islice(_words(seed), count - 2), '"}')


def _words(seed: int) -> Iterator[str]:
    state, position = seed, 0
    while True:
        # Knuth's MMIX generator: its high bits are random enough, and the same everywhere.
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield _set(_WORDS[(state >> 33) % len(_WORDS)], position)
        position += 1


def _set(word: str, position: int) -> str:
    """A word as it stands in its sentence."""
    place = position % SENTENCE
    word = word.capitalize() if place == 0 else word
    word += "." if place == SENTENCE - 1 else ""
    return f" {word}" if position else word
