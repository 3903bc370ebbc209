"""The Responses API: `POST /v1/responses`, and the same over a WebSocket.

A response is a text message, or calls of functions. Tools that OpenAI runs itself, such as web
search, are accepted and never used.
"""

import time
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rustygate.simulator.answers.answer import OutputFormat
from rustygate.simulator.answers.request import AnswerRequest, FormatSpec
from rustygate.simulator.answers.tools import Tool, Toolbox
from rustygate.simulator.endpoints.chat_tools import arguments_schema, choose_tools
from rustygate.simulator.endpoints.response_items import input_items, turn_of
from rustygate.simulator.endpoints.response_output import MadeResponse, outputs_of
from rustygate.simulator.prompt import Prompt, Turn
from rustygate.simulator.response_bodies import Event, EventStream, ResponseBody, json_body, new_id
from rustygate.simulator.schemas import TokenLimit

LOGPROBS = "message.output_text.logprobs"


class TextOptions(msgspec.Struct):
    format: FormatSpec | None = None
    verbosity: str | None = None


class ToolSpec(msgspec.Struct):
    """A tool; those without a name are run by OpenAI itself."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def tools(self) -> list[Tool]:
        if self.type not in ("function", "custom") or not self.name:
            return []
        parameters = None if self.type == "custom" else arguments_schema(self.parameters)
        return [Tool(self.name, self.description or "", parameters)]


class ResponseRequest(AnswerRequest, kw_only=True):
    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: TokenLimit = None
    text: TextOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    metadata: dict[str, str] | None = None
    temperature: float | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        """Reject invalid input that the types allow."""
        for name, items, kind in (("input", self._items, turn_of), ("tools", self.tools, _tools)):
            for number, item in enumerate(items or ()):
                try:
                    kind(item)
                except msgspec.ValidationError as error:
                    raise ValueError(_with_path(str(error), f"{name}[{number}]")) from error

    @property
    def _items(self) -> list[dict[str, Any]]:
        return input_items(self.input)

    @cached_property
    def history(self) -> tuple[dict[str, Any], ...]:
        """The items before the input, of the previous responses."""
        return ()

    @property
    def context(self) -> tuple[dict[str, Any], ...]:
        """All items that the response is an answer to."""
        return (*self.history, *self._items)

    @cached_property
    def prompt(self) -> Prompt:
        return Prompt((Turn("system", self.instructions or ""), *map(turn_of, self.context)))

    @property
    def format(self) -> OutputFormat:
        spec = (self.text and self.text.format) or FormatSpec()
        return spec.output_format("text.format.schema")

    @cached_property
    def toolbox(self) -> Toolbox:
        tools = [tool for spec in self.tools or () for tool in _tools(spec)]
        return choose_tools(tools, self.tool_choice, self.parallel_tool_calls is not False)

    @property
    def token_limit(self) -> int | None:
        return self.max_output_tokens

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    def response_body(self, forced_tokens: int | None, base_url: str) -> ResponseBody:
        return self.body_of(self.make(forced_tokens))

    def body_of(self, made: MadeResponse) -> ResponseBody:
        """A response as the request asks for it: as events, complete, or for later."""
        if self.stream:
            return EventStream(made.events())
        return json_body(made.started | {"status": "queued"} if self.background else made.final)

    def json_object(self, forced_tokens: int | None) -> dict[str, Any]:
        return self.make(forced_tokens).final

    def events(self, forced_tokens: int | None) -> Iterator[Event]:
        return self.make(forced_tokens).events()

    def make(self, forced_tokens: int | None) -> MadeResponse:
        answer = self.task(forced_tokens).answer()
        wants_logprobs = LOGPROBS in (self.include or ()) or self.top_logprobs is not None
        outputs = outputs_of(answer, (self.top_logprobs or 0) if wants_logprobs else None)
        return MadeResponse(self._object(), outputs, self.usage(forced_tokens), answer.complete)

    def _object(self) -> dict[str, Any]:
        """A response that has just started. `usage` is near the end, as in OpenAI's."""
        spec = (self.text and self.text.format) or FormatSpec()
        return {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": bool(self.background),
            "error": None,
            "incomplete_details": None,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "model": self.model,
            "output": [],
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": self.is_stored,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": {"format": spec.shown},
            "tool_choice": self.tool_choice or "auto",
            "tools": self.tools or [],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": self.user,
            "metadata": self.metadata or {},
        }


def _tools(spec: dict[str, Any]) -> list[Tool]:
    """The tools that a specification describes. Raises `msgspec.ValidationError` if invalid."""
    return msgspec.convert(spec, ToolSpec).tools


def _with_path(message: str, path: str) -> str:
    """An error message about a part of the request, with the path of the part."""
    if "`$" in message:
        return message.replace("`$", f"`$.{path}", 1) if "`$" in message else message
    return f"{message} - at `$.{path}`"
