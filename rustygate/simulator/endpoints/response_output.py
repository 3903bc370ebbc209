"""A response of the Responses API, made once: as an object, and as a stream of events.

Its events can be sent again, with the same identifiers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from rustygate.simulator.answers.answer import Answer, ToolCall
from rustygate.simulator.answers.logprobs import alternatives, logprob
from rustygate.simulator.endpoints.chat_logprobs import token_logprob
from rustygate.simulator.response_bodies import Event, named_event, new_id
from rustygate.simulator.schemas import Usage
from rustygate.simulator.text import GeneratedText

NamedEvents = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class MessageOutput:
    """A text message; with log probabilities and their alternatives unless `top` is None."""

    id: str
    text: GeneratedText
    top: int | None = None

    @property
    def item(self) -> dict[str, Any]:
        status = "completed" if self.text.complete else "incomplete"
        return self._item(status, [self._part(self.text.tokens)])

    def events(self, output_index: int) -> NamedEvents:
        part_location = {"item_id": self.id, "output_index": output_index, "content_index": 0}
        added = {"output_index": output_index, "item": self._item("in_progress", [])}
        yield "response.output_item.added", added
        yield "response.content_part.added", {**part_location, "part": self._part(())}
        for position, token in enumerate(self.text.tokens):
            logprobs = self._event_logprobs([token], position)
            delta = {**part_location, "delta": token, "logprobs": logprobs}
            yield "response.output_text.delta", delta
        logprobs = self._event_logprobs(self.text.tokens)
        done = {**part_location, "text": str(self.text), "logprobs": logprobs}
        yield "response.output_text.done", done
        part = self._part(self.text.tokens)
        yield "response.content_part.done", {**part_location, "part": part}
        yield "response.output_item.done", {"output_index": output_index, "item": self.item}

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _part(self, tokens: Sequence[str]) -> dict[str, Any]:
        logprobs = []
        if self.top is not None:
            logprobs = [token_logprob(t, number, self.top) for number, t in enumerate(tokens)]
        text = "".join(tokens)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _event_logprobs(self, tokens: Sequence[str], first: int = 0) -> list[dict[str, Any]]:
        """Log probabilities as events have them: without bytes."""
        if self.top is None:
            return []
        return [
            {
                "token": token,
                "logprob": logprob(token, position),
                "top_logprobs": [
                    {"token": other, "logprob": value}
                    for other, value in alternatives(token, position, self.top)
                ],
            }
            for position, token in enumerate(tokens, first)
        ]


@dataclass(frozen=True, slots=True)
class CallOutput:
    """A call of a function, or of a custom tool."""

    id: str
    call: ToolCall

    @property
    def item(self) -> dict[str, Any]:
        status = "completed" if self.call.input.complete else "incomplete"
        return self._item(status, str(self.call.input))

    def events(self, output_index: int) -> NamedEvents:
        location = {"item_id": self.id, "output_index": output_index}
        field, name = self._field, f"response.{self._event_name}"
        added = {"output_index": output_index, "item": self._item("in_progress", "")}
        yield "response.output_item.added", added
        for token in self.call.input.tokens:
            yield f"{name}.delta", {**location, "delta": token}
        done = {**location, field: str(self.call.input)}
        if not self._is_custom:
            done["name"] = self.call.tool.name
        yield f"{name}.done", done
        yield "response.output_item.done", {"output_index": output_index, "item": self.item}

    @property
    def _is_custom(self) -> bool:
        return self.call.tool.parameters is None

    @property
    def _field(self) -> str:
        return "input" if self._is_custom else "arguments"

    @property
    def _event_name(self) -> str:
        return "custom_tool_call_input" if self._is_custom else "function_call_arguments"

    def _item(self, status: str, text: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "custom_tool_call" if self._is_custom else "function_call",
            "status": status,
            "call_id": self.call.id,
            "name": self.call.tool.name,
            self._field: text,
        }


Output = MessageOutput | CallOutput


def outputs_of(answer: Answer, top_logprobs: int | None) -> tuple[Output, ...]:
    """The output items of an answer."""
    if answer.text is not None:
        return (MessageOutput(new_id("msg_"), answer.text, top_logprobs),)
    return tuple(
        CallOutput(new_id("ctc_" if call.tool.parameters is None else "fc_"), call)
        for call in answer.calls
    )


@dataclass(frozen=True, slots=True)
class MadeResponse:
    """A response: the object that it starts as, and what it ends with."""

    started: dict[str, Any]
    outputs: tuple[Output, ...]
    usage: Usage
    complete: bool

    @property
    def final(self) -> dict[str, Any]:
        """The response as it ends."""
        return self.started | {
            "status": "completed" if self.complete else "incomplete",
            "incomplete_details": None if self.complete else {"reason": "max_output_tokens"},
            "output": [output.item for output in self.outputs],
            "usage": usage_object(self.usage),
        }

    def events(self) -> Iterator[Event]:
        numbers = count()
        for name, fields in self._named_events():
            data = {"type": name, "sequence_number": next(numbers), **fields}
            yield named_event(data, paced=name.endswith(".delta"))

    def _named_events(self) -> NamedEvents:
        """The events of the stream: their names and fields, without the common fields."""
        yield "response.created", {"response": self.started}
        yield "response.in_progress", {"response": self.started}
        for index, output in enumerate(self.outputs):
            yield from output.events(index)
        final = self.final
        yield f"response.{final['status']}", {"response": final}


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.tokens_in,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.tokens_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total,
    }
