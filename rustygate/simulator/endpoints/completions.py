"""Legacy completions: `POST /v1/completions`."""

import time
from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta

from rustygate.simulator.endpoints.chat import StreamOptions, finish_reason, usage_object
from rustygate.simulator.response_bodies import Event, json_text, new_id
from rustygate.simulator.schemas import (
    TextInput,
    TextRequest,
    TokenLimit,
    count_input_tokens,
    split_inputs,
)
from rustygate.simulator.text import GeneratedText, generate_text, seed_from

# OpenAI's default for `max_tokens`.
DEFAULT_TOKEN_LIMIT = 16

# Per request.
MAX_PROMPTS = 128


class CompletionRequest(TextRequest, kw_only=True):
    """A request for text: `n` completions of each prompt."""

    prompt: TextInput
    max_tokens: TokenLimit = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    echo: bool | None = None
    stream_options: StreamOptions | None = None

    def __post_init__(self) -> None:
        """Reject invalid input that the types allow."""
        self._prompts()

    def _prompts(self) -> list[str | list[int]]:
        return split_inputs(self.prompt, "prompt", MAX_PROMPTS)

    @property
    def tokens_in(self) -> int:
        return sum(map(count_input_tokens, self._prompts()))

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens or DEFAULT_TOKEN_LIMIT

    @property
    def choices(self) -> int:
        return len(self._prompts()) * (self.n or 1)

    def json_object(self, forced_tokens: int | None) -> dict[str, Any]:
        choices = [
            _choice(index, f"{prefix}{text}", finish_reason(text))
            for index, (prefix, text) in enumerate(self._texts(forced_tokens))
        ]
        usage = usage_object(self.usage(forced_tokens))
        return self._object() | {"choices": choices, "usage": usage}

    def events(self, forced_tokens: int | None) -> Iterator[Event]:
        base = self._object()
        for index, (prefix, text) in enumerate(self._texts(forced_tokens)):
            if prefix:
                yield Event(json_text(base | {"choices": [_choice(index, prefix, None)]}))
            for token in text.tokens:
                chunk = base | {"choices": [_choice(index, token, None)]}
                yield Event(json_text(chunk), paced=True)
            last = _choice(index, "", finish_reason(text))
            yield Event(json_text(base | {"choices": [last]}))
        if self.stream_options is not None and self.stream_options.include_usage:
            usage = {"choices": [], "usage": usage_object(self.usage(forced_tokens))}
            yield Event(json_text(base | usage))
        yield Event("[DONE]")

    def _object(self) -> dict[str, Any]:
        return {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": "fp_simulator",
        }

    def _texts(self, forced_tokens: int | None) -> Iterator[tuple[str, GeneratedText]]:
        """The texts, each with its prefix: the prompt if it is to be echoed, else empty."""
        for prompt in self._prompts():
            prefix = prompt if self.echo and isinstance(prompt, str) else ""
            for index in range(self.n or 1):
                seed = seed_from(self.model, repr(prompt), str(index))
                yield prefix, generate_text(seed, self.token_limit, forced_tokens, as_json=False)


def _choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}
