"""Legacy completions: `POST /v1/completions`."""

import re
import time
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any

from msgspec import Meta

from rustygate.simulator.endpoints.chat import StreamOptions, finish_reason, usage_object
from rustygate.simulator.endpoints.chat_logprobs import legacy_logprobs
from rustygate.simulator.prompt import prompt_from
from rustygate.simulator.response_bodies import Event, json_text, new_id
from rustygate.simulator.schemas import (
    Stop,
    TextInput,
    TextRequest,
    TokenLimit,
    Usage,
    count_input_tokens,
    split_inputs,
    stop_sequences,
)
from rustygate.simulator.text import GeneratedText, generate_text, seed_from, seeded_word

# OpenAI's default for `max_tokens`.
DEFAULT_TOKEN_LIMIT = 16

# Per request.
MAX_PROMPTS = 128


class CompletionRequest(TextRequest, kw_only=True):
    """A request for text: `n` completions of each prompt."""

    prompt: TextInput
    max_tokens: TokenLimit = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: Stop = None
    echo: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None

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

    def usage(self, forced_tokens: int | None) -> Usage:
        if not self.stop:
            return super().usage(forced_tokens)
        tokens_out = sum(len(text.tokens) for _, text in self._texts(forced_tokens))
        return Usage(self.tokens_in, tokens_out)

    def json_object(self, forced_tokens: int | None) -> dict[str, Any]:
        choices = [
            self._choice(index, [*prefix, *text.tokens], finish_reason(text.complete))
            for index, (prefix, text) in enumerate(self._texts(forced_tokens))
        ]
        usage = usage_object(self.usage(forced_tokens))
        return self._object() | {"choices": choices, "usage": usage}

    def events(self, forced_tokens: int | None) -> Iterator[Event]:
        base = self._object()
        for index, (prefix, text) in enumerate(self._texts(forced_tokens)):
            if prefix:
                yield Event(json_text(base | {"choices": [self._choice(index, prefix)]}))
            offset = len("".join(prefix))
            for position, token in enumerate(text.tokens, len(prefix)):
                choice = self._choice(index, [token], None, offset, position)
                yield Event(json_text(base | {"choices": [choice]}), paced=True)
                offset += len(token)
            last = self._choice(index, [], finish_reason(text.complete), offset)
            yield Event(json_text(base | {"choices": [last]}))
        if self.stream_options is not None and self.stream_options.include_usage:
            usage = {"choices": [], "usage": usage_object(self.usage(forced_tokens))}
            yield Event(json_text(base | usage))
        yield Event("[DONE]")

    def _choice(
        self,
        index: int,
        tokens: list[str],
        reason: str | None = None,
        offset: int = 0,
        position: int = 0,
    ) -> dict[str, Any]:
        """A choice, or a part of it that begins at an offset and position in its text."""
        logprobs = None
        if self.logprobs is not None:
            logprobs = legacy_logprobs(tokens, offset, position, self.logprobs)
        return {
            "text": "".join(tokens),
            "index": index,
            "logprobs": logprobs,
            "finish_reason": reason,
        }

    def _object(self) -> dict[str, Any]:
        return {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": "fp_simulator",
        }

    def _texts(self, forced_tokens: int | None) -> Iterator[tuple[list[str], GeneratedText]]:
        """The texts, each with its prefix: the prompt if it is to be echoed, else empty."""
        for prompt in self._prompts():
            words = prompt if isinstance(prompt, str) else ""
            prefix = re.findall(r"\s*\S+|\s+", words) if self.echo else []
            for index in range(self.n or 1):
                yield prefix, self._text(words, repr(prompt), index, forced_tokens)

    def _text(
        self, words: str, source: str, index: int, forced_tokens: int | None
    ) -> GeneratedText:
        seed = seed_from(self.model, source, str(index))
        prompt = prompt_from([words])
        first = (seeded_word(seed),) if index else ()
        repeated = chain(first, prompt.words())
        limit, as_json = self.token_limit, prompt.asks_for_json
        text = generate_text(seed, limit, forced_tokens, as_json, repeated)
        return text.until(stop_sequences(self.stop))
