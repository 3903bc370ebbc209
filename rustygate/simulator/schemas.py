"""What all requests to a model have in common, and how bodies are read.

Bodies come from strangers. Their shapes are declared as msgspec structs, which refuse what does
not fit; fields that are not declared are passed over.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rustygate.simulator.response_bodies import Answer, Event, Events, json_answer
from rustygate.simulator.text import LONGEST, input_tokens, length

Name = Annotated[str, Meta(min_length=1, max_length=512)]
Cap = Annotated[int, Meta(ge=1, le=LONGEST)] | None


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens an answer took."""

    tokens_in: int
    tokens_out: int

    @property
    def total(self) -> int:
        return self.tokens_in + self.tokens_out


class Asked(msgspec.Struct, kw_only=True):
    """A request to a model.

    `wanted` is how many tokens the answer shall have, where a fault says so.
    """

    model: Name
    user: Name | None = None

    @abstractmethod
    def cost(self, wanted: int | None) -> int:
        """The tokens it counts for, before it is answered."""

    @abstractmethod
    def usage(self, wanted: int | None) -> Usage:
        """The tokens its answer takes."""

    @abstractmethod
    def answer(self, wanted: int | None, origin: str) -> Answer:
        """The answer; `origin` is the simulator's URL, for answers that refer to it."""


class Streamable(Asked, kw_only=True):
    """A request whose answer is one JSON object, or that as a stream."""

    stream: bool | None = None

    def answer(self, wanted: int | None, origin: str) -> Answer:
        if self.stream:
            return Events(self.events(wanted))
        return json_answer(self.plain(wanted))

    @abstractmethod
    def plain(self, wanted: int | None) -> dict[str, Any]:
        """The whole answer as one object."""

    @abstractmethod
    def events(self, wanted: int | None) -> Iterator[Event]:
        """The answer as a stream."""


class Generating(Streamable, kw_only=True):
    """A request for text."""

    @property
    @abstractmethod
    def tokens_in(self) -> int: ...

    @property
    @abstractmethod
    def cap(self) -> int | None:
        """The most tokens that one text may have."""

    @property
    def choices(self) -> int:
        """How many texts."""
        return 1

    def usage(self, wanted: int | None) -> Usage:
        return Usage(self.tokens_in, self.choices * length(self.cap, wanted))

    def cost(self, wanted: int | None) -> int:
        usage = self.usage(wanted)
        return usage.tokens_in + max(usage.tokens_out, self.choices * (self.cap or 0))


class Part(msgspec.Struct):
    """A part of a message's content; only text has characters to count."""

    type: str
    text: str = ""


Content = str | list[Part] | None


Token = Annotated[int, Meta(ge=0, le=10**6)]
Input = str | Annotated[list[str | Token | list[Token]], Meta(min_length=1, max_length=300_000)]


def inputs_of(given: Input, field: str, most: int) -> list[str | list[int]]:
    """The inputs one by one: a text or a list of tokens alone is one.

    Raises:
        ValueError: they are of two kinds, or one is empty, or they are more than `most`.
    """
    if isinstance(given, str):
        inputs: list[str | list[int]] = [given]
    elif len({type(one) for one in given}) != 1:
        inputs = []
    else:
        tokens = [one for one in given if isinstance(one, int)]
        inputs = [tokens] if tokens else [one for one in given if not isinstance(one, int)]
    if not inputs or not all(inputs):
        raise ValueError(f"Expected texts or lists of tokens, none empty - at `$.{field}`")
    if len(inputs) > most:
        raise ValueError(f"Expected at most {most} inputs - at `$.{field}`")
    return inputs


def tokens_of(one: str | list[int]) -> int:
    """How many tokens an input has."""
    return input_tokens(one) if isinstance(one, str) else len(one)


class Format(msgspec.Struct):
    """How the answer shall be written."""

    type: Literal["text", "json_object", "json_schema"] = "text"

    @property
    def is_json(self) -> bool:
        return self.type != "text"


def text_of(content: Content) -> str:
    """A content's text."""
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content or ())
