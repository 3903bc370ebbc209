"""Deterministic text: words chosen from a list by a seed that is made from the prompt.

A token is a word with the space before it. Some words are not ASCII, and one is outside the Basic
Multilingual Plane, so that a client that splits streams inside a character is found out.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

# More than any model generates in one response.
MAX_OUTPUT_TOKENS = 128_000

# Used if neither the request nor a fault sets a length.
DEFAULT_OUTPUT_TOKENS = 48

SENTENCE_WORDS = 11

_VOCABULARY = """
the gate opens when a quiet river carries small boats past old walls and every lamp along
naïve towns waits for morning café doors turn slowly under über high roofs while seven
travellers count stars 星 or coins 🙂 near warm bread some leave early others stay late each
in turn nobody pushes then rain comes softly again
"""
_WORDS = tuple(_VOCABULARY.split())


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A text as tokens; `complete` is false if the token limit cut it short."""

    tokens: tuple[str, ...]
    complete: bool

    def __str__(self) -> str:
        return "".join(self.tokens)


def output_tokens(token_limit: int | None, forced_tokens: int | None) -> int:
    """The output length: `forced_tokens` if set, else the limit; never above the limit."""
    length = forced_tokens or token_limit or DEFAULT_OUTPUT_TOKENS
    return min(length, token_limit or length)


def generate_text(
    seed: int, token_limit: int | None, forced_tokens: int | None, as_json: bool
) -> GeneratedText:
    """The text of a response; with `as_json` a JSON object, valid at any length."""
    count = output_tokens(token_limit, forced_tokens)
    tokens = _as_json(seed, count) if as_json else tuple(islice(_words(seed), count))
    return GeneratedText(tokens, complete=count >= (forced_tokens or 0))


def seed_from(*parts: str) -> int:
    """A seed that depends on each part."""
    return zlib.crc32("\0".join(parts).encode())


def estimate_tokens(text: str) -> int:
    """The estimated tokens of a text: a quarter of its characters."""
    return -(-len(text) // 4)


def _as_json(seed: int, count: int) -> tuple[str, ...]:
    if count == 1:
        return ("{}",)
    return ('{"answer":"', *islice(_words(seed), count - 2), '"}')


def _words(seed: int) -> Iterator[str]:
    state, position = seed, 0
    while True:
        # Knuth's MMIX generator: its high bits are random enough and the same on any platform.
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield _in_sentence(_WORDS[(state >> 33) % len(_WORDS)], position)
        position += 1


def _in_sentence(word: str, position: int) -> str:
    """A word with the space, capital letter or full stop of its place in the sentence."""
    word_index = position % SENTENCE_WORDS
    word = word.capitalize() if word_index == 0 else word
    word += "." if word_index == SENTENCE_WORDS - 1 else ""
    return f" {word}" if position else word
