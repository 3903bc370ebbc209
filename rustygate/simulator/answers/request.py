"""The base class of requests that a model answers with text or calls of tools."""

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import msgspec

from rustygate.simulator.answers.answer import Answer, OutputFormat, Task
from rustygate.simulator.answers.tools import Toolbox
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.prompt import Prompt
from rustygate.simulator.schemas import TextRequest, Usage
from rustygate.simulator.text import estimate_tokens


class SchemaSpec(msgspec.Struct):
    """A JSON schema with its name."""

    name: str = ""
    schema: dict[str, Any] | bool | None = None


class FormatSpec(SchemaSpec):
    """The format of the output: a schema and its name, at the top level or in `json_schema`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: SchemaSpec | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """The format as a response shows it."""
        if self.type != "json_schema":
            return {"type": self.type}
        return {"type": self.type, "name": self.name, "schema": self.schema, "strict": True}

    def output_format(self, param: str) -> OutputFormat:
        if self.type != "json_schema":
            return OutputFormat(is_json=self.type == "json_object")
        schema = (self.json_schema or self).schema
        return OutputFormat(is_json=True, schema=schema, param=param)


class AnswerRequest(TextRequest, kw_only=True, dict=True):
    """A request that is answered with text or calls of tools."""

    @property
    @abstractmethod
    def prompt(self) -> Prompt: ...

    @property
    @abstractmethod
    def format(self) -> OutputFormat: ...

    @property
    @abstractmethod
    def toolbox(self) -> Toolbox: ...

    @property
    def stops(self) -> tuple[str, ...]:
        """The sequences that end a text."""
        return ()

    @cached_property
    def tokens_in(self) -> int:
        return estimate_tokens("\n".join(turn.text for turn in self.prompt.turns))

    def usage(self, forced_tokens: int | None) -> Usage:
        task = self.task(forced_tokens)
        return Usage(self.tokens_in, sum(map(task.token_count, range(self.choices))))

    def answers(self, forced_tokens: int | None) -> Iterator[Answer]:
        return map(self.task(forced_tokens).answer, range(self.choices))

    def task(self, forced_tokens: int | None) -> Task:
        if forced_tokens not in self._tasks:
            limit, toolbox = self.token_limit, self.toolbox
            self._tasks[forced_tokens] = Task(
                self.prompt, self.model, limit, forced_tokens, self.format, toolbox, self.stops
            )
        return self._tasks[forced_tokens]

    @cached_property
    def _tasks(self) -> dict[int | None, Task]:
        return {}


def check_top_logprobs(logprobs: bool | None, top_logprobs: int | None) -> None:
    """Raises `ValueError` if alternatives are requested without log probabilities."""
    if top_logprobs and not logprobs:
        raise ValueError("Expected 'logprobs' to be true with 'top_logprobs' - at `$.logprobs`")


def unknown_tool(name: str) -> ApiError:
    message = f"Tool choice {name!r} not found in 'tools' parameter."
    return ApiError(ErrorResponse(400, message, param="tool_choice"))
