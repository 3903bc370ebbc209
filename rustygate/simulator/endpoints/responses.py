"""The Responses API: `POST /v1/responses`, and the same over a WebSocket.

Every response is a single text message.
"""

import time
from collections.abc import Iterator
from itertools import count
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rustygate.simulator.charges import Charges
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.response_bodies import Event, named_event, new_id
from rustygate.simulator.schemas import (
    MessageContent,
    OutputFormat,
    TextRequest,
    TokenLimit,
    Usage,
    content_text,
)
from rustygate.simulator.text import GeneratedText, estimate_tokens, generate_text, seed_from
from rustygate.simulator.transport.parsing import parse_json


class Item(msgspec.Struct):
    """An item of the input; items without content do not count as tokens."""

    content: MessageContent = None


class TextOptions(msgspec.Struct):
    format: OutputFormat | None = None


class ResponseRequest(TextRequest, kw_only=True):
    input: str | Annotated[list[Item], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: TokenLimit = None
    text: TextOptions | None = None

    @property
    def prompt(self) -> str:
        items = [Item(self.input)] if isinstance(self.input, str) else self.input
        return "\n".join(
            [self.instructions or "", *(content_text(item.content) for item in items)]
        )

    @property
    def format(self) -> OutputFormat:
        return (self.text and self.text.format) or OutputFormat()

    @property
    def tokens_in(self) -> int:
        return estimate_tokens(self.prompt)

    @property
    def token_limit(self) -> int | None:
        return self.max_output_tokens

    def json_object(self, forced_tokens: int | None) -> dict[str, Any]:
        text = self._text(forced_tokens)
        message = _message(new_id("msg_"), _status(text), [_part(str(text))])
        return self._final_object(self._object(), text, message, self.usage(forced_tokens))

    def events(self, forced_tokens: int | None) -> Iterator[Event]:
        numbers = count()
        for name, fields in self._named_events(forced_tokens):
            data = {"type": name, "sequence_number": next(numbers), **fields}
            yield named_event(data, paced=name == "response.output_text.delta")

    def _named_events(self, forced_tokens: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events of the stream: their names and fields, without the common fields."""
        text, response, item = self._text(forced_tokens), self._object(), new_id("msg_")
        item_location = {"output_index": 0}
        part_location = {"item_id": item, "output_index": 0, "content_index": 0}
        part = _part(str(text))
        message = _message(item, _status(text), [part])
        yield "response.created", {"response": response}
        yield "response.in_progress", {"response": response}
        started_message = _message(item, "in_progress", [])
        yield "response.output_item.added", {**item_location, "item": started_message}
        yield "response.content_part.added", {**part_location, "part": _part("")}
        for token in text.tokens:
            yield "response.output_text.delta", {**part_location, "delta": token, "logprobs": []}
        yield "response.output_text.done", {**part_location, "text": str(text), "logprobs": []}
        yield "response.content_part.done", {**part_location, "part": part}
        yield "response.output_item.done", {**item_location, "item": message}
        final_object = self._final_object(response, text, message, self.usage(forced_tokens))
        yield f"response.{final_object['status']}", {"response": final_object}

    def _text(self, forced_tokens: int | None) -> GeneratedText:
        seed = seed_from(self.model, self.prompt)
        return generate_text(seed, self.max_output_tokens, forced_tokens, self.format.is_json)

    def _object(self) -> dict[str, Any]:
        """A response that has just started. `usage` is near the end, as in OpenAI's."""
        return {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "model": self.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": None,
            "user": self.user,
            "metadata": {},
        }

    def _final_object(
        self, response: dict[str, Any], text: GeneratedText, message: dict[str, Any], usage: Usage
    ) -> dict[str, Any]:
        incomplete_details = None if text.complete else {"reason": "max_output_tokens"}
        return response | {
            "status": _status(text),
            "incomplete_details": incomplete_details,
            "output": [message],
            "usage": _usage(usage),
        }


class CreateResponseMessage(ResponseRequest, kw_only=True):
    """A WebSocket message that creates a response; the response is always streamed."""

    type: Literal["response.create"]


class ResponsesSession:
    """The Responses API over a WebSocket: one response at a time."""

    def __init__(self, charges: Charges) -> None:
        self._charges = charges

    def initial_events(self) -> Iterator[Event]:
        return iter(())

    def handle_immediately(self, message: str) -> bool:
        return False

    def handle_message(self, message: str) -> Iterator[Event]:
        charges = self._charges
        try:
            request = parse_json(message, CreateResponseMessage)
            charges.charge(request.model, request.cost(charges.forced_tokens), request.user)
        except ApiError as error:
            yield _error_event(error.response)
            return
        charges.record_usage(request.usage(charges.forced_tokens))
        yield from request.events(charges.forced_tokens)


def _error_event(response: ErrorResponse) -> Event:
    error = response.error | {"headers": dict(response.headers)}
    return named_event({"type": "error", "status": response.status, "error": error})


def _status(text: GeneratedText) -> str:
    return "completed" if text.complete else "incomplete"


def _message(identifier: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": identifier,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.tokens_in,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.tokens_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total,
    }
