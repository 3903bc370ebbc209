"""Embeddings: `POST /v1/embeddings`."""

import math
import sys
from array import array
from base64 import b64encode
from hashlib import shake_128
from typing import Annotated, Literal

from msgspec import Meta

from rustygate.simulator.response_bodies import Answer, json_answer
from rustygate.simulator.schemas import Asked, Input, Usage, inputs_of, tokens_of

# OpenAI's own bounds: inputs in one request, and a vector's usual and greatest length.
INPUTS = 2048
DIMENSIONS = 1536
MOST_DIMENSIONS = 3072


class EmbeddingsAsked(Asked, kw_only=True):
    input: Input
    dimensions: Annotated[int, Meta(ge=1, le=MOST_DIMENSIONS)] | None = None
    encoding_format: Literal["float", "base64"] | None = None

    def __post_init__(self) -> None:
        """Refuse what the types let pass."""
        self._inputs()

    def _inputs(self) -> list[str | list[int]]:
        return inputs_of(self.input, "input", INPUTS)

    def usage(self, wanted: int | None) -> Usage:
        return Usage(sum(map(tokens_of, self._inputs())), 0)

    def cost(self, wanted: int | None) -> int:
        return self.usage(wanted).tokens_in

    def answer(self, wanted: int | None, origin: str) -> Answer:
        data = [
            {"object": "embedding", "index": index, "embedding": self._embedding(one)}
            for index, one in enumerate(self._inputs())
        ]
        tokens = self.usage(wanted).tokens_in
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": data, "model": self.model, "usage": usage}
        return json_answer(answer)

    def _embedding(self, one: str | list[int]) -> list[float] | str:
        vector = _vector(repr(one), self.dimensions or DIMENSIONS)
        if self.encoding_format == "base64":
            return b64encode(vector).decode()
        return vector.tolist()


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
