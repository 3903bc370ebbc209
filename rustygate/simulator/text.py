"""Deterministic text: words of the prompt, then words chosen from a list by a seed.

Tokens are about those of a real tokenizer: a word with the space before it, punctuation, up to
three digits, or a piece of a long word. Some words are not ASCII, and one is outside the Basic
Multilingual Plane, so that a client that splits streams inside a character is found out.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, pairwise

import msgspec

# More than any model generates in one response.
MAX_OUTPUT_TOKENS = 128_000

# Used if neither the request nor a fault sets a length.
DEFAULT_OUTPUT_TOKENS = 48

SENTENCE_WORDS = 11

_TOKEN = re.compile(
    r"[ _]?[A-Z]?[a-z]{1,10}"
    r"| ?[A-Z]{1,5}(?![a-z])"
    r"|[0-9]{1,3}"
    "| ?[\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3]{1,2}"  # Chinese, Japanese, Korean
    r"| ?(?:(?![a-zA-Z0-9_\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3])\w){1,5}"
    r"| ?[^\w\s]{1,4}\n*"
    r"|_+"
    r"|\s*\n+|\s+(?!\S)|\s+"
)

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

    def until(self, stops: Iterable[str]) -> "GeneratedText":
        """The text up to the first of some sequences."""
        text = str(self)
        ends = [at for stop in stops if (at := text.find(stop)) >= 0]
        return self._first(min(ends)) if ends else self

    def _first(self, length: int) -> "GeneratedText":
        """The first characters, which are complete."""
        tokens = list[str]()
        for token in self.tokens:
            if length <= 0:
                break
            tokens.append(token[:length])
            length -= len(token)
        return GeneratedText(tuple(tokens), complete=True)


def output_tokens(token_limit: int | None, forced_tokens: int | None) -> int:
    """The output length: `forced_tokens` if set, else the limit; never above the limit."""
    length = forced_tokens or token_limit or DEFAULT_OUTPUT_TOKENS
    return min(length, token_limit or length)


def generate_text(
    seed: int,
    token_limit: int | None,
    forced_tokens: int | None,
    as_json: bool = False,
    repeated: Iterable[str] = (),
) -> GeneratedText:
    """The text of a response: the words to be repeated, then words chosen by the seed.

    With `as_json` it is a JSON object, valid and complete at any length. Other text is cut short
    by a limit below the length that it would have without one.
    """
    count = output_tokens(token_limit, forced_tokens)
    words = _words(seed, repeated)
    tokens = _as_json(words, count) if as_json else tuple(islice(words, count))
    unlimited = forced_tokens or (0 if as_json else DEFAULT_OUTPUT_TOKENS)
    return GeneratedText(tokens, complete=count >= unlimited)


def split_text(text: str, token_limit: int | None, forced_tokens: int | None) -> GeneratedText:
    """A given text as tokens, cut off by the limit only if more tokens are forced than it allows.

    A limit alone makes the tokens longer, so that the text is whole at any length. More tokens
    than characters are filled up with spaces.
    """
    natural = tokens_of(text) or [""]
    length = forced_tokens or len(natural)
    count = min(length, token_limit or length)
    pieces = forced_tokens or count
    split = natural if pieces == len(natural) else _split_evenly(text, pieces)
    tokens = islice(split, count)
    return GeneratedText(tuple(tokens), complete=count == pieces)


def tokens_of(text: str) -> list[str]:
    """The tokens of a text."""
    return _TOKEN.findall(text)


def seed_from(*parts: str) -> int:
    """A seed that depends on each part."""
    return zlib.crc32("\0".join(parts).encode())


def estimate_tokens(text: str) -> int:
    """The estimated tokens of a text: a quarter of its characters."""
    return -(-len(text) // 4)


def _as_json(words: Iterator[str], count: int) -> tuple[str, ...]:
    if count == 1:
        return ("{}",)
    return ('{"answer":"', *map(_escape, islice(words, count - 2)), '"}')


def _escape(token: str) -> str:
    """A token as part of a JSON string."""
    return msgspec.json.encode(token).decode()[1:-1]


def _split_evenly(text: str, pieces: int) -> Iterator[str]:
    text = text.ljust(pieces)
    ends = (len(text) * number // pieces for number in range(pieces + 1))
    return (text[start:end] for start, end in pairwise(ends))


def _words(seed: int, repeated: Iterable[str]) -> Iterator[str]:
    """The tokens of an endless text."""
    words = chain(repeated, _seeded_words(seed))
    spaced = (f" {word}" if position else word for position, word in enumerate(words))
    return (token[0] for word in spaced for token in _TOKEN.finditer(word))


def _seeded_words(seed: int) -> Iterator[str]:
    state, position = seed, 0
    while True:
        # Knuth's MMIX generator: its high bits are random enough and the same on any platform.
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield _in_sentence(_WORDS[(state >> 33) % len(_WORDS)], position % SENTENCE_WORDS)
        position += 1


def _in_sentence(word: str, position: int) -> str:
    """A word with the capital letter or full stop of its place in the sentence."""
    word = word.capitalize() if position == 0 else word
    return f"{word}." if position == SENTENCE_WORDS - 1 else word


def seeded_word(seed: int) -> str:
    """One word, chosen by a seed."""
    return _WORDS[seed % len(_WORDS)]
