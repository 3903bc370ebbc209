"""Base classes and shared types of the requests to a model.

Request bodies are untrusted. They are declared as msgspec structs, which reject values of the
wrong type and ignore unknown fields.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rustygate.simulator.response_bodies import Event, EventStream, ResponseBody, json_body
from rustygate.simulator.text import MAX_OUTPUT_TOKENS, estimate_tokens, output_tokens

Name = Annotated[str, Meta(min_length=1, max_length=512)]
TokenLimit = Annotated[int, Meta(ge=1, le=MAX_OUTPUT_TOKENS)] | None

# Sequences that end a text.
Stop = str | Annotated[list[str], Meta(max_length=4)] | None


def stop_sequences(stop: Stop) -> tuple[str, ...]:
    sequences = [stop] if isinstance(stop, str) else stop or []
    return tuple(filter(None, sequences))


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens that a response used."""

    tokens_in: int
    tokens_out: int

    @property
    def total(self) -> int:
        return self.tokens_in + self.tokens_out


class ModelRequest(msgspec.Struct, kw_only=True):
    """A request to a model.

    `forced_tokens` is the output length in tokens if a fault sets it, else None.
    """

    model: Name
    user: Name | None = None

    @abstractmethod
    def cost(self, forced_tokens: int | None) -> int:
        """The tokens to charge before the response."""

    @abstractmethod
    def usage(self, forced_tokens: int | None) -> Usage:
        """The tokens that the response uses."""

    @abstractmethod
    def response_body(self, forced_tokens: int | None, base_url: str) -> ResponseBody:
        """The response body; `base_url` is the simulator's, for links to it."""


class StreamableRequest(ModelRequest, kw_only=True):
    """A request answered with one JSON object or, if `stream` is set, with events."""

    stream: bool | None = None

    def response_body(self, forced_tokens: int | None, base_url: str) -> ResponseBody:
        if self.stream:
            return EventStream(self.events(forced_tokens))
        return json_body(self.json_object(forced_tokens))

    @abstractmethod
    def json_object(self, forced_tokens: int | None) -> dict[str, Any]:
        """The complete response as one object."""

    @abstractmethod
    def events(self, forced_tokens: int | None) -> Iterator[Event]:
        """The response as a stream of events."""


class TextRequest(StreamableRequest, kw_only=True):
    """A request for generated text."""

    @property
    @abstractmethod
    def tokens_in(self) -> int: ...

    @property
    @abstractmethod
    def token_limit(self) -> int | None:
        """The most tokens that each text may have."""

    @property
    def choices(self) -> int:
        """The number of texts."""
        return 1

    def usage(self, forced_tokens: int | None) -> Usage:
        return Usage(self.tokens_in, self.choices * output_tokens(self.token_limit, forced_tokens))

    def cost(self, forced_tokens: int | None) -> int:
        usage = self.usage(forced_tokens)
        return usage.tokens_in + max(usage.tokens_out, self.choices * (self.token_limit or 0))


class ContentPart(msgspec.Struct):
    """A part of a message's content; only its text counts as tokens."""

    type: str
    text: str = ""


MessageContent = str | list[ContentPart] | None

Token = Annotated[int, Meta(ge=0, le=10**6)]
TextInput = (
    str | Annotated[list[str | Token | list[Token]], Meta(min_length=1, max_length=300_000)]
)


def split_inputs(value: TextInput, field: str, max_inputs: int) -> list[str | list[int]]:
    """The list of inputs; a single text or a single list of tokens is one input.

    Raises:
        ValueError: the inputs are of mixed types, one is empty, or there are too many.
    """
    if isinstance(value, str):
        inputs: list[str | list[int]] = [value]
    elif len({type(item) for item in value}) != 1:
        inputs = []
    else:
        tokens = [item for item in value if isinstance(item, int)]
        inputs = [tokens] if tokens else [item for item in value if not isinstance(item, int)]
    if not inputs or not all(inputs):
        raise ValueError(f"Expected non-empty texts or lists of tokens - at `$.{field}`")
    if len(inputs) > max_inputs:
        raise ValueError(f"Expected at most {max_inputs} inputs - at `$.{field}`")
    return inputs


def count_input_tokens(item: str | list[int]) -> int:
    return estimate_tokens(item) if isinstance(item, str) else len(item)


def content_text(content: MessageContent) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content or ())
