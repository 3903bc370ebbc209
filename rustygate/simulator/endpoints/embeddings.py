"""Embeddings: `POST /v1/embeddings`."""

import math
import sys
from array import array
from base64 import b64encode
from hashlib import shake_128
from typing import Annotated, Literal

from msgspec import Meta

from rustygate.simulator.response_bodies import ResponseBody, json_body
from rustygate.simulator.schemas import (
    ModelRequest,
    TextInput,
    Usage,
    count_input_tokens,
    split_inputs,
)

# OpenAI's limits: inputs per request, and the default and greatest length of a vector.
MAX_INPUTS = 2048
DEFAULT_DIMENSIONS = 1536
MAX_DIMENSIONS = 3072
_LARGE_MODEL = "text-embedding-3-large"


class EmbeddingsRequest(ModelRequest, kw_only=True):
    input: TextInput
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    encoding_format: Literal["float", "base64"] | None = None

    def __post_init__(self) -> None:
        """Reject invalid input that the types allow."""
        self._inputs()

    def _inputs(self) -> list[str | list[int]]:
        return split_inputs(self.input, "input", MAX_INPUTS)

    def usage(self, forced_tokens: int | None) -> Usage:
        return Usage(sum(map(count_input_tokens, self._inputs())), 0)

    def cost(self, forced_tokens: int | None) -> int:
        return self.usage(forced_tokens).tokens_in

    def response_body(self, forced_tokens: int | None, base_url: str) -> ResponseBody:
        data = [
            {"object": "embedding", "index": index, "embedding": self._embedding(value)}
            for index, value in enumerate(self._inputs())
        ]
        tokens = self.usage(forced_tokens).tokens_in
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_body({"object": "list", "data": data, "model": self.model, "usage": usage})

    def _embedding(self, value: str | list[int]) -> list[float] | str:
        default = MAX_DIMENSIONS if self.model == _LARGE_MODEL else DEFAULT_DIMENSIONS
        vector = _vector(repr(value), self.dimensions or default)
        if self.encoding_format == "base64":
            return b64encode(vector).decode()
        return vector.tolist()


def _vector(text: str, dimensions: int) -> "array[float]":
    """A vector of length 1, made from the text only, in single precision as it is sent.

    Its bytes are little-endian, as clients expect them in base64.
    """
    numbers = array("i", shake_128(text.encode()).digest(4 * dimensions))
    norm = math.sqrt(sum(number * number for number in numbers)) or 1.0
    vector = array("f", (number / norm for number in numbers))
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
