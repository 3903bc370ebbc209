"""The Responses API: `POST /v1/responses`, and the same over a WebSocket; every response is one
message of text."""

import time
from collections.abc import Iterator
from itertools import count
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rustygate.simulator.charges import Account
from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.response_bodies import Event, named, new_id
from rustygate.simulator.schemas import Cap, Content, Format, Generating, Usage, text_of
from rustygate.simulator.text import Text, input_tokens, seed_of, write
from rustygate.simulator.transport.parsing import read


class Item(msgspec.Struct):
    """An item of the input; those that are no messages have no content to count."""

    content: Content = None


class TextOptions(msgspec.Struct):
    format: Format | None = None


class ResponseAsked(Generating, kw_only=True):
    input: str | Annotated[list[Item], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Cap = None
    text: TextOptions | None = None

    @property
    def prompt(self) -> str:
        items = [Item(self.input)] if isinstance(self.input, str) else self.input
        return "\n".join([self.instructions or "", *(text_of(item.content) for item in items)])

    @property
    def format(self) -> Format:
        return (self.text and self.text.format) or Format()

    @property
    def tokens_in(self) -> int:
        return input_tokens(self.prompt)

    @property
    def cap(self) -> int | None:
        return self.max_output_tokens

    def plain(self, wanted: int | None) -> dict[str, Any]:
        text = self._text(wanted)
        message = _message(new_id("msg_"), _status(text), [_part(str(text))])
        return self._ended(self._object(), text, message, self.usage(wanted))

    def events(self, wanted: int | None) -> Iterator[Event]:
        numbers = count()
        for name, fields in self._steps(wanted):
            data = {"type": name, "sequence_number": next(numbers), **fields}
            yield named(data, paced=name == "response.output_text.delta")

    def _steps(self, wanted: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """The stream's events by name, without what they all have."""
        text, response, item = self._text(wanted), self._object(), new_id("msg_")
        at_item = {"output_index": 0}
        at_part = {"item_id": item, "output_index": 0, "content_index": 0}
        whole, part = str(text), _part(str(text))
        message = _message(item, _status(text), [part])
        yield "response.created", {"response": response}
        yield "response.in_progress", {"response": response}
        begun = _message(item, "in_progress", [])
        yield "response.output_item.added", {**at_item, "item": begun}
        yield "response.content_part.added", {**at_part, "part": _part("")}
        for token in text.tokens:
            yield "response.output_text.delta", {**at_part, "delta": token, "logprobs": []}
        yield "response.output_text.done", {**at_part, "text": whole, "logprobs": []}
        yield "response.content_part.done", {**at_part, "part": part}
        yield "response.output_item.done", {**at_item, "item": message}
        ended = self._ended(response, text, message, self.usage(wanted))
        yield f"response.{ended['status']}", {"response": ended}

    def _text(self, wanted: int | None) -> Text:
        seed = seed_of(self.model, self.prompt)
        return write(seed, self.max_output_tokens, wanted, self.format.is_json)

    def _object(self) -> dict[str, Any]:
        """The response when it has begun. Its usage stands near its end, as OpenAI's does."""
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

    def _ended(
        self, response: dict[str, Any], text: Text, message: dict[str, Any], usage: Usage
    ) -> dict[str, Any]:
        why = None if text.whole else {"reason": "max_output_tokens"}
        return response | {
            "status": _status(text),
            "incomplete_details": why,
            "output": [message],
            "usage": _usage(usage),
        }


class CreateAsked(ResponseAsked, kw_only=True):
    """A message that asks for a response, of which the events are always streamed."""

    type: Literal["response.create"]


class ResponseSpeaker:
    """The Responses API over a WebSocket: one response after the other."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def greeting(self) -> Iterator[Event]:
        return iter(())

    def interrupts(self, message: str) -> bool:
        return False

    def answers(self, message: str) -> Iterator[Event]:
        account = self._account
        try:
            asked = read(message, CreateAsked)
            account.charge(asked.model, asked.cost(account.wanted), asked.user)
        except ApiError as error:
            yield _refusal(error.failure)
            return
        account.settle(asked.usage(account.wanted))
        yield from asked.events(account.wanted)


def _refusal(failure: Failure) -> Event:
    error = failure.error | {"headers": dict(failure.headers)}
    return named({"type": "error", "status": failure.status, "error": error})


def _status(text: Text) -> str:
    return "completed" if text.whole else "incomplete"


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
