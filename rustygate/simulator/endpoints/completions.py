"""The completions that came before chat: `POST /v1/completions`."""

import time
from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta

from rustygate.simulator.endpoints.chat import StreamOptions, finish_reason, usage_of
from rustygate.simulator.response_bodies import Event, json_text, new_id
from rustygate.simulator.schemas import Cap, Generating, Input, inputs_of, tokens_of
from rustygate.simulator.text import Text, seed_of, write

# OpenAI's own: an answer's tokens where the request does not say how many.
USUAL_CAP = 16

# Prompts in one request.
PROMPTS = 128


class CompletionAsked(Generating, kw_only=True):
    """A request for text; each of its prompts is answered `n` times."""

    prompt: Input
    max_tokens: Cap = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    echo: bool | None = None
    stream_options: StreamOptions | None = None

    def __post_init__(self) -> None:
        """Refuse what the types let pass."""
        self._prompts()

    def _prompts(self) -> list[str | list[int]]:
        return inputs_of(self.prompt, "prompt", PROMPTS)

    @property
    def tokens_in(self) -> int:
        return sum(map(tokens_of, self._prompts()))

    @property
    def cap(self) -> int | None:
        return self.max_tokens or USUAL_CAP

    @property
    def choices(self) -> int:
        return len(self._prompts()) * (self.n or 1)

    def plain(self, wanted: int | None) -> dict[str, Any]:
        choices = [
            _choice(index, f"{before}{text}", finish_reason(text))
            for index, (before, text) in enumerate(self._texts(wanted))
        ]
        usage = usage_of(self.usage(wanted))
        return self._object() | {"choices": choices, "usage": usage}

    def events(self, wanted: int | None) -> Iterator[Event]:
        head = self._object()
        for index, (before, text) in enumerate(self._texts(wanted)):
            if before:
                yield Event(json_text(head | {"choices": [_choice(index, before, None)]}))
            for token in text.tokens:
                chunk = head | {"choices": [_choice(index, token, None)]}
                yield Event(json_text(chunk), paced=True)
            last = _choice(index, "", finish_reason(text))
            yield Event(json_text(head | {"choices": [last]}))
        if self.stream_options is not None and self.stream_options.include_usage:
            usage = {"choices": [], "usage": usage_of(self.usage(wanted))}
            yield Event(json_text(head | usage))
        yield Event("[DONE]")

    def _object(self) -> dict[str, Any]:
        return {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": "fp_simulator",
        }

    def _texts(self, wanted: int | None) -> Iterator[tuple[str, Text]]:
        """What stands before each text, if the prompt was to be repeated, and the text."""
        for prompt in self._prompts():
            before = prompt if self.echo and isinstance(prompt, str) else ""
            for index in range(self.n or 1):
                seed = seed_of(self.model, repr(prompt), str(index))
                yield before, write(seed, self.cap, wanted, as_json=False)


def _choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}
