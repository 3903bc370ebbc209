"""What a prompt says, as far as it can be told without understanding it: names, places, numbers.

Values for JSON schemas are filled with it, so that "Jason is 25 years old" gives a `User` the name
Jason and the age 25. All choices depend on the prompt and a seed only.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from rustygate.simulator.prompt import Prompt
from rustygate.simulator.text import seed_from

ChoiceT = TypeVar("ChoiceT")

# Facts are looked for in this much of a text.
MAX_TEXT_LENGTH = 20_000

_CAPITALIZED = r"\b[A-Z\u00c0-\u00de\u0391-\u03a9\u0410-\u042f][\w'\u2019-]*"
_NAME = re.compile(rf"{_CAPITALIZED}(?: {_CAPITALIZED})*")
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,6})?(?![\w.]*\w)")
_PLACE_BEFORE = re.compile(r"\b(?:in|at|to|from|near|for|of|between|visit)\s+$", re.IGNORECASE)
_LIST_BEFORE = re.compile(r"(?:,|\band|\bor|, and|, or)\s+$")


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that begin sentences, not names.
_NO_NAMES = _word_set("""
    a add an and answer are as ask at be book by call can classify compare compute convert could
    create describe did do does explain extract fetch find first for from generate get give good
    hello help her hey hi his how i i'm i've if in is it its json let list look make my name no not
    now of on or our parse please provide read reply respond return say schedule search send show
    so solve some summarize tell thanks that the then there these this to today tomorrow translate
    use user was we what what's when where which who who's why will with would write yes you your
""")

_NAME_KEYS = _word_set("""
    name person people user author customer title first last full contact who participant attendee
    member guest friend
""")
_PLACE_KEYS = _word_set(
    "address city country destination location origin place region state town where"
)
_TEXT_KEYS = _word_set("""
    answer content description input message output query question request response summary text
    thought reasoning explanation prompt search
""")


def key_words(key: str) -> list[str]:
    """The words of a field's name: `firstName` and `first_name` have two."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key[:200])
    return re.findall(r"[^\W_]+", spaced.lower())


@dataclass(frozen=True, slots=True)
class Named:
    """A name in a text, and what stands right before it."""

    name: str
    is_place: bool
    is_listed: bool


@dataclass(frozen=True)
class Facts:
    """The facts of a prompt.

    Args:
        text: what the user said last, or the results of tools since then.
        seed: varies all choices that the text leaves open.
        offset: how many names to skip, for several answers from one text.
    """

    text: str
    seed: int
    offset: int = 0

    def choose(self, path: str, options: Sequence[ChoiceT]) -> ChoiceT:
        """One of the options, chosen by the seed and the path of a value."""
        return options[seed_from(str(self.seed), path) % len(options)]

    def mentioned(self, options: Sequence[Any]) -> list[Any]:
        """Those options that the text mentions."""
        return [
            option
            for option in options
            if isinstance(option, str) and f" {_normalized(option)} " in self._normalized_text
        ]

    @cached_property
    def _normalized_text(self) -> str:
        return f" {_normalized(self.text)} "

    def string(self, key: str, path: str, index: int) -> str:
        """A text for a field, of any length; `index` is its number among similar texts."""
        kind = {word for plural in key_words(key) for word in _singulars(plural)}
        return (
            self.labelled(key)
            or self._name_for(kind, index + self.offset)
            or (self.text.strip() if kind & _TEXT_KEYS else "")
            or self._phrase(path)
        )

    def labelled(self, key: str) -> str | None:
        """What the text gives as `key: value` or `key is value`."""
        words = key_words(key)
        if not words:
            return None
        label = r"[\s_-]*".join(map(re.escape, words))
        found = re.search(
            rf"\b{label}\s*(?::|=|\bis\b)\s*[\"'“]?([^\"'”,;.!?\n]{{1,80}})",
            self.text,
            re.IGNORECASE,
        )
        return found[1].strip() or None if found else None

    @cached_property
    def numbers(self) -> list[float]:
        """The numbers in the text, in order."""
        return [float(number) for number in _NUMBER.findall(self.text)]

    @cached_property
    def listed_names(self) -> list[str]:
        """The names of the first list, such as "Paris, Rome and Oslo"; none if it has one only."""
        listed: list[str] = []
        for previous, name in zip([None, *self._names], self._names, strict=False):
            if previous is not None and name.is_listed:
                listed = listed or [previous.name]
                listed.append(name.name)
            elif listed:
                break
        return listed

    def find(self, pattern: str) -> str | None:
        """The first part of the text that matches."""
        found = re.search(pattern, self.text)
        return found[0] if found else None

    def _name_for(self, kind: set[str], index: int) -> str | None:
        if not kind & (_NAME_KEYS | _PLACE_KEYS):
            return None
        places = [name.name for name in self._names if name.is_place]
        others = [name.name for name in self._names if not name.is_place]
        names = places or others if kind & _PLACE_KEYS else others or places
        return names[index % len(names)] if names else None

    def _phrase(self, path: str) -> str:
        """A few words in a row, chosen by the path."""
        words = self._words
        if not words:
            return "text"
        start = self.choose(path, range(max(1, len(words) - 2)))
        return " ".join(words[start : start + 3])

    @cached_property
    def _words(self) -> list[str]:
        return [word for word in re.findall(r"[\w'\u2019-]+", self.text) if len(word) < 40]

    @cached_property
    def _names(self) -> list[Named]:
        names: list[Named] = []
        listed_place = False
        for found in _NAME.finditer(self.text):
            name, start = _without_leading_words(found[0], found.start())
            if name:
                before = self.text[max(0, start - 12) : start]
                listed = bool(_LIST_BEFORE.search(before)) and bool(names)
                is_place = bool(_PLACE_BEFORE.search(before)) or (listed and listed_place)
                names.append(Named(name, is_place, listed))
                listed_place = is_place
        return names


def facts_of(prompt: Prompt, seed: int, offset: int = 0) -> Facts:
    """The facts of what the user said last or, without that, of the instructions."""
    text = prompt.request or "\n".join(prompt.tool_results) or prompt.system
    return Facts(text[-MAX_TEXT_LENGTH:], seed, offset)


def _singulars(word: str) -> set[str]:
    """A word, and what it may be the plural of."""
    return {word, word.removesuffix("s"), re.sub("ies$", "y", word)}


def _normalized(text: str) -> str:
    """The words of a text in lower case, with one space between them."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _without_leading_words(name: str, start: int) -> tuple[str, int]:
    """A name without words that only begin a sentence, and where the rest starts."""
    words = name.split(" ")
    while words and words[0].lower().replace("\u2019", "'") in _NO_NAMES:
        start += len(words.pop(0)) + 1
    while words and words[-1].lower() in _NO_NAMES:
        words.pop()
    return re.sub("['\u2019]s$", "", " ".join(words)), start
