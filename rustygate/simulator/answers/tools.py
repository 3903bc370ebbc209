"""Which tools the model calls, and with which arguments.

A conversation with tools has to end: with `auto` the model calls tools once after each turn of the
user, and then answers in text. With `required` it goes through the tools that it has not called
since the user's last turn, so that an agent whose last tool returns the result gets there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rustygate.simulator.answers.facts import Facts, key_words
from rustygate.simulator.answers.values import value_for
from rustygate.simulator.prompt import Prompt
from rustygate.simulator.response_bodies import json_text

# For one answer.
MAX_CALLS = 5

Mode = Literal["none", "auto", "required"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call.

    Args:
        parameters: the JSON schema of its arguments; None if its input is plain text.
    """

    name: str
    description: str = ""
    parameters: Any = None


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of a request, and whether and how they have to be called."""

    tools: Sequence[Tool]
    mode: Mode = "auto"
    parallel: bool = True

    def choose(self, prompt: Prompt) -> list[Tool]:
        """The tools to call now; none if the model is to answer in text."""
        if self.mode == "none" or not self.tools:
            return []
        if self.mode == "auto" and (prompt.tool_results or not prompt.request):
            return []
        fresh = [tool for tool in self.tools if tool.name not in prompt.called]
        ranked = sorted(fresh or self.tools, key=lambda tool: -_relevance(tool, prompt.request))
        named = [tool for tool in ranked if _is_named(tool, prompt.request)]
        return named[:MAX_CALLS] if self.parallel and named else ranked[:1]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool; the input is the JSON of its arguments, or plain text."""

    tool: Tool
    input: str


def calls(toolbox: Toolbox, prompt: Prompt, facts: Facts) -> list[Call]:
    """The calls to make.

    If the user lists several names, a tool that takes no lists is called once for each.

    Raises:
        SchemaError: the schema of a tool's arguments is malformed, or no value was found.
    """
    tools = toolbox.choose(prompt)
    repeated = len(tools) == 1 and toolbox.parallel and toolbox.mode == "auto"
    if not repeated or _takes_lists(tools[0]):
        return [Call(tool, _input(tool, facts)) for tool in tools]
    times = range(max(1, min(len(facts.listed_names), MAX_CALLS)))
    inputs = [_input(tools[0], Facts(facts.text, facts.seed, offset)) for offset in times]
    return [Call(tools[0], text) for text in dict.fromkeys(inputs)]


def _input(tool: Tool, facts: Facts) -> str:
    if tool.parameters is None:
        return facts.text
    return json_text(value_for(tool.parameters, facts))


def _takes_lists(tool: Tool) -> bool:
    properties = tool.parameters.get("properties") if isinstance(tool.parameters, dict) else None
    schemas = properties.values() if isinstance(properties, dict) else ()
    return any(isinstance(one, dict) and "items" in one for one in schemas)


def _relevance(tool: Tool, request: str) -> int:
    """How many words of a tool's name and description the request has."""
    words = set(key_words(request))
    named = len(words & _long_words(tool.name))
    return 3 * named + len(words & _long_words(tool.description))


def _is_named(tool: Tool, request: str) -> bool:
    return bool(_long_words(tool.name) & set(key_words(request)))


def _long_words(text: str) -> set[str]:
    """The words of a text that say something."""
    return {word for word in key_words(text) if len(word) > 3}
