"""Embeddings: `POST /v1/embeddings`."""

import math
import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence
from hashlib import shake_128
from typing import Annotated, Literal

from msgspec import Meta

from rustygate.simulator.answers import Answer, json_answer
from rustygate.simulator.asked import Asked, Usage
from rustygate.simulator.text import input_tokens

# OpenAI's own bounds: inputs in one request, and a vector's usual and greatest length.
INPUTS = 2048
DIMENSIONS = 1536
MOST_DIMENSIONS = 3072

Token = Annotated[int, Meta(ge=0, le=10**6)]
Input = str | Annotated[list[str | Token | list[Token]], Meta(min_length=1, max_length=300_000)]


class EmbeddingsAsked(Asked, kw_only=True):
    input: Input
    dimensions: Annotated[int, Meta(ge=1, le=MOST_DIMENSIONS)] | None = None
    encoding_format: Literal["float", "base64"] | None = None

    def __post_init__(self) -> None:
        """Refuse what the types let pass: inputs of two kinds, empty ones, too many."""
        inputs = self._inputs
        if len({type(one) for one in inputs}) != 1 or not all(inputs):
            raise ValueError("Expected texts or lists of tokens, none empty - at `$.input`")
        if len(inputs) > INPUTS:
            raise ValueError(f"Expected at most {INPUTS} inputs - at `$.input`")

    @property
    def _inputs(self) -> Sequence[str | int | list[int]]:
        """The inputs one by one: a text or a list of tokens alone is one."""
        if isinstance(self.input, str):
            return [self.input]
        if all(isinstance(one, int) for one in self.input):
            return [[one for one in self.input if isinstance(one, int)]]
        return self.input

    def usage(self, wanted: int | None) -> Usage:
        return Usage(sum(map(_tokens, self._inputs)), 0)

    def cost(self, wanted: int | None) -> int:
        return self.usage(wanted).tokens_in

    def answer(self, wanted: int | None, origin: str) -> Answer:
        data = [
            {"object": "embedding", "index": index, "embedding": self._embedding(one)}
            for index, one in enumerate(self._inputs)
        ]
        tokens = self.usage(wanted).tokens_in
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": data, "model": self.model, "usage": usage}
        return json_answer(answer)

    def _embedding(self, one: str | int | list[int]) -> list[float] | str:
        vector = _vector(repr(one), self.dimensions or DIMENSIONS)
        if self.encoding_format == "base64":
            return b64encode(vector).decode()
        return vector.tolist()


def _tokens(one: str | int | list[int]) -> int:
    return len(one) if isinstance(one, list) else input_tokens(str(one))


def _vector(text: str, dimensions: int) -> "array[float]":
    """A vector of length 1 that depends on the text alone; its floats are single, as sent.

    The bytes are little-endian, which is what clients expect in base64.
    """
    numbers = array("i", shake_128(text.encode()).digest(4 * dimensions))
    norm = math.sqrt(sum(number * number for number in numbers)) or 1.0
    vector = array("f", (number / norm for number in numbers))
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
