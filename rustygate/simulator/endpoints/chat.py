"""Chat completions: `POST /v1/chat/completions`."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rustygate.simulator.response_bodies import Event, json_text, new_id
from rustygate.simulator.schemas import Cap, Content, Format, Generating, Name, Usage, text_of
from rustygate.simulator.text import Text, input_tokens, seed_of, write


class Message(msgspec.Struct):
    role: Name
    content: Content = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatAsked(Generating, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Cap = None
    max_completion_tokens: Cap = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    response_format: Format | None = None
    stream_options: StreamOptions | None = None

    @property
    def prompt(self) -> str:
        return "\n".join(text_of(message.content) for message in self.messages)

    @property
    def tokens_in(self) -> int:
        return input_tokens(self.prompt)

    @property
    def cap(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def choices(self) -> int:
        return self.n or 1

    def plain(self, wanted: int | None) -> dict[str, Any]:
        choices = [_choice(index, text) for index, text in enumerate(self._texts(wanted))]
        usage = usage_of(self.usage(wanted))
        return self._object("chat.completion") | {"choices": choices, "usage": usage}

    def events(self, wanted: int | None) -> Iterator[Event]:
        head = self._object("chat.completion.chunk")
        wants_usage = self.stream_options is not None and bool(self.stream_options.include_usage)
        # With the usage asked for, all chunks have the field, and only the last one a value.
        rest: dict[str, Any] = {"usage": None} if wants_usage else {}
        chunk = partial(_chunk, head, rest)
        for index, text in enumerate(self._texts(wanted)):
            yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
            for token in text.tokens:
                yield chunk(index, {"content": token}, paced=True)
            yield chunk(index, {}, finish_reason=finish_reason(text))
        if wants_usage:
            usage = {"choices": [], "usage": usage_of(self.usage(wanted))}
            yield Event(json_text(head | usage))
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

    def _texts(self, wanted: int | None) -> Iterator[Text]:
        as_json = self.response_format is not None and self.response_format.is_json
        for index in range(self.choices):
            seed = seed_of(self.model, self.prompt, str(index))
            yield write(seed, self.cap, wanted, as_json)


def _choice(index: int, text: Text) -> dict[str, Any]:
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
    head: dict[str, Any],
    rest: dict[str, Any],
    index: int,
    delta: dict[str, Any],
    finish_reason: str | None = None,
    paced: bool = False,
) -> Event:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return Event(json_text(head | {"choices": [choice]} | rest), paced=paced)


def finish_reason(text: Text) -> str:
    return "stop" if text.whole else "length"


def usage_of(usage: Usage) -> dict[str, Any]:
    """The usage as chat completions and the completions before them tell it."""
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
