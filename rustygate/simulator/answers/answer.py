"""The model's answer to a prompt: text, or calls of tools."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from rustygate.simulator.answers.facts import facts_of
from rustygate.simulator.answers.json_schema import SchemaError
from rustygate.simulator.answers.prompted_json import prompted_schema
from rustygate.simulator.answers.tools import Call, Tool, Toolbox, calls
from rustygate.simulator.answers.values import value_for
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.prompt import Prompt
from rustygate.simulator.response_bodies import json_text, new_id
from rustygate.simulator.text import (
    GeneratedText,
    generate_text,
    output_tokens,
    seed_from,
    seeded_word,
    split_text,
    tokens_of,
)

# What OpenAI counts for each call of a tool besides its name and its input.
CALL_OVERHEAD = 7


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """The requested format of the text.

    Args:
        is_json: whether it has to be JSON.
        schema: the JSON schema that it has to validate against, if there is one.
        param: the field of the request that has the schema.
    """

    is_json: bool = False
    schema: Any = None
    param: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, with its input as tokens, and the tokens of the whole call."""

    id: str
    tool: Tool
    input: GeneratedText
    token_count: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `text` is None if the model calls tools instead."""

    text: GeneratedText | None = None
    calls: tuple[ToolCall, ...] = ()

    @property
    def outputs(self) -> list[GeneratedText]:
        return [call.input for call in self.calls] + ([] if self.text is None else [self.text])

    @property
    def token_count(self) -> int:
        text = 0 if self.text is None else len(self.text.tokens)
        return text + sum(call.token_count for call in self.calls)

    @property
    def complete(self) -> bool:
        return all(output.complete for output in self.outputs)


@dataclass(frozen=True)
class Task:
    """What an answer has to be.

    Args:
        seed: varies what the prompt leaves open.
        forced_tokens: the length of the answer if a fault sets it.
        stops: sequences that end a text.
    """

    prompt: Prompt
    seed: str
    token_limit: int | None
    forced_tokens: int | None
    format: OutputFormat
    toolbox: Toolbox
    stops: tuple[str, ...] = ()
    # Answers are needed more than once: for their cost, their usage and their text.
    _made: dict[int, Answer | None] = field(default_factory=dict)

    def answer(self, index: int = 0) -> Answer:
        """One of the answers.

        Raises:
            ApiError: no value validates against the schema of the format or of a tool; status 400.
        """
        return self._structured(index) or Answer(self._text(index))

    def token_count(self, index: int = 0) -> int:
        """The tokens of one of the answers; a plain text is not written for that if possible."""
        structured = self._structured(index)
        if structured is None and not self.stops:
            return output_tokens(self.token_limit, self.forced_tokens)
        return (structured or self.answer(index)).token_count

    def _structured(self, index: int) -> Answer | None:
        """The answer if it follows a schema; None if it is plain text."""
        if index not in self._made:
            made = self._calls(index)
            value = self._value(index) if not made and self._schema is not None else None
            self._made[index] = Answer(value, made) if made or value else None
        return self._made[index]

    @cached_property
    def _schema(self) -> Any:
        if self.format.schema is not None or not self._as_json:
            return self.format.schema
        return prompted_schema(self.prompt)

    @cached_property
    def _as_json(self) -> bool:
        return self.format.is_json or self.prompt.asks_for_json

    def _seed(self, index: int) -> int:
        return seed_from(self.seed, *(turn.text for turn in self.prompt.turns), str(index))

    def _text(self, index: int) -> GeneratedText:
        """Text that repeats the prompt; after the first answer it begins with another word."""
        seed = self._seed(index)
        first = (seeded_word(seed),) if index else ()
        words = chain(first, self.prompt.words())
        limit, forced, as_json = self.token_limit, self.forced_tokens, self._as_json
        return generate_text(seed, limit, forced, as_json, words).until(self.stops)

    def _value(self, index: int) -> GeneratedText | None:
        facts = facts_of(self.prompt, self._seed(index))
        try:
            text = json_text(value_for(self._schema, facts))
        except SchemaError as error:
            if self.format.schema is None:
                return None
            raise _invalid_schema(self.format.param, error) from error
        return split_text(text, self.token_limit, self.forced_tokens).until(self.stops)

    def _calls(self, index: int) -> tuple[ToolCall, ...]:
        facts = facts_of(self.prompt, self._seed(index))
        try:
            made = calls(self.toolbox, self.prompt, facts)
        except SchemaError as error:
            raise _invalid_schema("tools", error) from error
        limits = _shares(self.token_limit, len(made))
        forced_lengths = _shares(self.forced_tokens, len(made))
        return tuple(
            _tool_call(call, limit, forced)
            for call, limit, forced in zip(made, limits, forced_lengths, strict=True)
            if limit != 0 and forced != 0
        )


def _tool_call(call: Call, limit: int | None, forced: int | None) -> ToolCall:
    """A call; the tokens of its name and the overhead come first, and the input takes the rest."""
    fixed = CALL_OVERHEAD + len(tokens_of(call.tool.name))
    input_limit = None if limit is None else max(1, limit - fixed)
    input_forced = None if forced is None else max(1, forced - fixed)
    if limit is not None and forced is not None and forced > limit:
        # The input is cut, no matter how short it is.
        input_forced = max(limit - fixed, 1) + forced - limit
    made = split_text(call.input, input_limit, input_forced)
    limits = [each for each in (limit, forced) if each is not None]
    return ToolCall(new_id("call_"), call.tool, made, min([fixed + len(made.tokens), *limits]))


def _shares(total: int | None, count: int) -> list[int | None]:
    """A number of tokens divided among the calls."""
    if total is None:
        return [None] * count
    return [total * (n + 1) // count - total * n // count for n in range(count)]


def _invalid_schema(param: str, error: SchemaError) -> ApiError:
    message = f"Invalid schema for '{param}': {error}."
    return ApiError(ErrorResponse(400, message, code="invalid_json_schema", param=param))
