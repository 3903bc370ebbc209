"""Chat completions: `POST /v1/chat/completions`."""

import time
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rustygate.simulator.answers.answer import Answer, OutputFormat
from rustygate.simulator.answers.request import AnswerRequest, FormatSpec, check_top_logprobs
from rustygate.simulator.answers.tools import Toolbox
from rustygate.simulator.endpoints.chat_logprobs import content_logprobs
from rustygate.simulator.endpoints.chat_tools import (
    FunctionSpec,
    FunctionStyle,
    ToolSpec,
    call_deltas,
    calls_of_message,
    function_toolbox,
    message_calls,
    tool_toolbox,
)
from rustygate.simulator.prompt import Prompt, Turn, role_of
from rustygate.simulator.response_bodies import Event, json_text, new_id
from rustygate.simulator.schemas import (
    MessageContent,
    Name,
    Stop,
    TokenLimit,
    Usage,
    content_text,
    stop_sequences,
)


class Message(msgspec.Struct):
    role: Name
    content: MessageContent = None
    tool_calls: list[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None

    @property
    def turn(self) -> Turn:
        calls = calls_of_message(self.tool_calls or (), self.function_call)
        return Turn(role_of(self.role), content_text(self.content), calls)


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatRequest(AnswerRequest, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: TokenLimit = None
    max_completion_tokens: TokenLimit = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: Stop = None
    response_format: FormatSpec | None = None
    stream_options: StreamOptions | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionSpec] | None = None
    function_call: str | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """Reject invalid input that the types allow."""
        check_top_logprobs(self.logprobs, self.top_logprobs)
        if self.tool_choice is not None and not self.tools:
            raise ValueError("Expected 'tools' with 'tool_choice' - at `$.tool_choice`")

    @cached_property
    def prompt(self) -> Prompt:
        return Prompt(tuple(message.turn for message in self.messages))

    @property
    def format(self) -> OutputFormat:
        return (self.response_format or FormatSpec()).output_format("response_format")

    @cached_property
    def toolbox(self) -> Toolbox:
        if self.tools or not self.functions:
            return tool_toolbox(self.tools or (), self.tool_choice, self.parallel_tool_calls)
        return function_toolbox(self.functions, self.function_call)

    @property
    def call_style(self) -> FunctionStyle:
        """How calls are written: as tool calls, or as the older API's single function call."""
        return "function_call" if self.functions and not self.tools else "tool_calls"

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return stop_sequences(self.stop)

    @property
    def choices(self) -> int:
        return self.n or 1

    def json_object(self, forced_tokens: int | None) -> dict[str, Any]:
        choices = [
            self._choice(index, answer) for index, answer in enumerate(self.answers(forced_tokens))
        ]
        usage = usage_object(self.usage(forced_tokens))
        return self._object("chat.completion") | {"choices": choices, "usage": usage}

    def events(self, forced_tokens: int | None) -> Iterator[Event]:
        base = self._object("chat.completion.chunk")
        options = self.stream_options
        include_usage = options is not None and bool(options.include_usage)
        # If usage is included, every chunk has the field, but only the last one has a value.
        extra: dict[str, Any] = {"usage": None} if include_usage else {}
        for index, answer in enumerate(self.answers(forced_tokens)):
            yield from self._choice_events(partial(_chunk, base, extra, index), answer)
        if include_usage:
            usage = {"choices": [], "usage": usage_object(self.usage(forced_tokens))}
            yield Event(json_text(base | usage))
        yield Event("[DONE]")

    def _choice_events(self, chunk: "partial[Event]", answer: Answer) -> Iterator[Event]:
        """The chunks of one choice."""
        content = "" if answer.text is not None else None
        yield chunk({"role": "assistant", "content": content, "refusal": None})
        for delta, paced in call_deltas(answer.calls, self.call_style):
            yield chunk(delta, paced=paced)
        for position, token in enumerate(answer.text.tokens if answer.text is not None else ()):
            logprobs = self._logprobs([token], position)
            yield chunk({"content": token}, logprobs=logprobs, paced=True)
        yield chunk({}, finish_reason=self._finish_reason(answer))

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        text = answer.text
        message = {
            "role": "assistant",
            "content": None if text is None else str(text),
            "refusal": None,
            "annotations": list[Any](),
            **message_calls(answer.calls, self.call_style),
        }
        return {
            "index": index,
            "message": message,
            "logprobs": None if text is None else self._logprobs(text.tokens),
            "finish_reason": self._finish_reason(answer),
        }

    def _logprobs(self, tokens: Any, first_position: int = 0) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return content_logprobs(tokens, first_position, self.top_logprobs or 0)

    def _finish_reason(self, answer: Answer) -> str:
        if answer.calls and answer.complete:
            return self.call_style
        return finish_reason(answer.complete)

    def stored_object(self, forced_tokens: int | None) -> dict[str, Any]:
        """The completion as it is stored, whether it was streamed or not."""
        return self.json_object(forced_tokens) | {"metadata": self.metadata or {}}

    def stored_messages(self) -> list[dict[str, Any]]:
        return [{"role": turn.role, "content": turn.text} for turn in self.prompt.turns]

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {"id": new_id("chatcmpl-"), "created": int(time.time())}

    def _object(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._identity["id"],
            "object": kind,
            "created": self._identity["created"],
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_simulator",
        }


def _chunk(
    base: dict[str, Any],
    extra: dict[str, Any],
    index: int,
    delta: dict[str, Any],
    finish_reason: str | None = None,
    logprobs: dict[str, Any] | None = None,
    paced: bool = False,
) -> Event:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return Event(json_text(base | {"choices": [choice]} | extra), paced=paced)


def finish_reason(complete: bool) -> str:
    return "stop" if complete else "length"


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
