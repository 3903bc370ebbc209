"""Chat completions: `POST /v1/chat/completions`."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rustygate.simulator.response_bodies import Event, json_text, new_id
from rustygate.simulator.schemas import (
    MessageContent,
    Name,
    OutputFormat,
    TextRequest,
    TokenLimit,
    Usage,
    content_text,
)
from rustygate.simulator.text import GeneratedText, estimate_tokens, generate_text, seed_from


class Message(msgspec.Struct):
    role: Name
    content: MessageContent = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatRequest(TextRequest, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: TokenLimit = None
    max_completion_tokens: TokenLimit = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    response_format: OutputFormat | None = None
    stream_options: StreamOptions | None = None

    @property
    def prompt(self) -> str:
        return "\n".join(content_text(message.content) for message in self.messages)

    @property
    def tokens_in(self) -> int:
        return estimate_tokens(self.prompt)

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def choices(self) -> int:
        return self.n or 1

    def json_object(self, forced_tokens: int | None) -> dict[str, Any]:
        choices = [_choice(index, text) for index, text in enumerate(self._texts(forced_tokens))]
        usage = usage_object(self.usage(forced_tokens))
        return self._object("chat.completion") | {"choices": choices, "usage": usage}

    def events(self, forced_tokens: int | None) -> Iterator[Event]:
        base = self._object("chat.completion.chunk")
        options = self.stream_options
        include_usage = options is not None and bool(options.include_usage)
        # If usage is included, every chunk has the field, but only the last one has a value.
        extra: dict[str, Any] = {"usage": None} if include_usage else {}
        chunk = partial(_chunk, base, extra)
        for index, text in enumerate(self._texts(forced_tokens)):
            yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
            for token in text.tokens:
                yield chunk(index, {"content": token}, paced=True)
            yield chunk(index, {}, finish_reason=finish_reason(text))
        if include_usage:
            usage = {"choices": [], "usage": usage_object(self.usage(forced_tokens))}
            yield Event(json_text(base | usage))
        yield Event("[DONE]")

    def _object(self, kind: str) -> dict[str, Any]:
        return {
            "id": new_id("chatcmpl-"),
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_simulator",
        }

    def _texts(self, forced_tokens: int | None) -> Iterator[GeneratedText]:
        as_json = self.response_format is not None and self.response_format.is_json
        for index in range(self.choices):
            seed = seed_from(self.model, self.prompt, str(index))
            yield generate_text(seed, self.token_limit, forced_tokens, as_json)


def _choice(index: int, text: GeneratedText) -> dict[str, Any]:
    content = str(text)
    message = {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "annotations": list[Any](),
    }
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason(text),
    }


def _chunk(
    base: dict[str, Any],
    extra: dict[str, Any],
    index: int,
    delta: dict[str, Any],
    finish_reason: str | None = None,
    paced: bool = False,
) -> Event:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return Event(json_text(base | {"choices": [choice]} | extra), paced=paced)


def finish_reason(text: GeneratedText) -> str:
    return "stop" if text.complete else "length"


def usage_object(usage: Usage) -> dict[str, Any]:
    """The usage as reported by chat completions and legacy completions."""
    return {
        "prompt_tokens": usage.tokens_in,
        "completion_tokens": usage.tokens_out,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
