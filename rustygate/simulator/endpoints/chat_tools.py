"""Tools of chat completions: how requests describe them, and how answers call them.

`functions` and `function_call` are the older form of `tools` and `tool_calls`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import msgspec

from rustygate.simulator.answers.answer import ToolCall
from rustygate.simulator.answers.request import unknown_tool
from rustygate.simulator.answers.tools import Mode, Tool, Toolbox
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.schemas import Name

FunctionStyle = Literal["tool_calls", "function_call"]


class FunctionSpec(msgspec.Struct):
    """A function; without parameters it has no arguments."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def tool(self) -> Tool:
        return Tool(self.name, self.description or "", arguments_schema(self.parameters))


class CustomSpec(msgspec.Struct):
    """A tool whose input is plain text."""

    name: Name
    description: str | None = None


class ToolSpec(msgspec.Struct):
    type: str = "function"
    function: FunctionSpec | None = None
    custom: CustomSpec | None = None

    def __post_init__(self) -> None:
        """Reject invalid input that the types allow."""
        if self.type in ("function", "custom") and getattr(self, self.type) is None:
            raise ValueError(f"Expected the field '{self.type}'")

    @property
    def tools(self) -> list[Tool]:
        """The tool; none if it is of a kind that the simulator never calls."""
        if self.function is not None:
            return [self.function.tool]
        if self.custom is not None:
            return [Tool(self.custom.name, self.custom.description or "")]
        return []


def arguments_schema(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """The schema of a function's arguments; there are none but those that it lists."""
    return {"type": "object", "properties": {}} | (parameters or {})


def tool_toolbox(
    specs: Iterable[ToolSpec], choice: str | dict[str, Any] | None, parallel: bool | None
) -> Toolbox:
    """The tools that may be called, by `tools` and `tool_choice`.

    Raises:
        ApiError: the choice is unknown, or there is no such tool; status 400.
    """
    tools = [tool for spec in specs for tool in spec.tools]
    return choose_tools(tools, choice, parallel is not False)


def function_toolbox(
    functions: Iterable[FunctionSpec], choice: str | dict[str, Any] | None
) -> Toolbox:
    """The functions that may be called, by `functions` and `function_call`."""
    if isinstance(choice, dict):
        choice = {"type": "function", "function": choice}
    return choose_tools([function.tool for function in functions], choice, parallel=False)


def choose_tools(
    tools: Sequence[Tool], choice: str | dict[str, Any] | None, parallel: bool
) -> Toolbox:
    """The tools that a `tool_choice` allows: by a mode, by name, or by a list of names."""
    if choice is None:
        return Toolbox(tools, "auto", parallel)
    if isinstance(choice, str):
        return Toolbox(tools, _mode(choice), parallel)
    allowed = choice.get("allowed_tools", choice)
    if choice.get("type") == "allowed_tools" and isinstance(allowed, dict):
        names = [_chosen_name(tool) for tool in allowed.get("tools", [])]
        return Toolbox(_named(tools, names), _mode(allowed.get("mode", "auto")), parallel)
    name = _chosen_name(choice)
    if name is None:
        # A tool that OpenAI runs itself, such as web search; its use is not shown.
        return Toolbox((), "none")
    return Toolbox(_named(tools, [name]), "required", parallel)


def _mode(name: Any) -> Mode:
    if name not in get_args(Mode):
        message = f"Invalid value: {name!r}. Supported values are: 'none', 'auto', and 'required'."
        raise ApiError(ErrorResponse(400, message, param="tool_choice"))
    mode: Mode = name
    return mode


def _chosen_name(choice: Any) -> str | None:
    """The name in `{"function": {"name": ...}}` or in `{"name": ...}`."""
    if not isinstance(choice, dict):
        return None
    inner = choice.get("function") or choice.get("custom") or choice
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else None


def _named(tools: Sequence[Tool], names: Sequence[str | None]) -> list[Tool]:
    found = {tool.name: tool for tool in tools}
    for name in names:
        if name is not None and name not in found:
            raise unknown_tool(name)
    return [found[name] for name in names if name is not None]


def calls_of_message(
    tool_calls: Iterable[dict[str, Any]], function_call: dict[str, Any] | None
) -> tuple[str, ...]:
    """The names of the tools that a message calls."""
    names = [_chosen_name(call) for call in (*tool_calls, function_call)]
    return tuple(name for name in names if name is not None)


def message_calls(calls: Sequence[ToolCall], style: FunctionStyle) -> dict[str, Any]:
    """The fields of a message that call tools."""
    if not calls:
        return {}
    if style == "function_call":
        return {"function_call": _function(calls[0].tool.name, str(calls[0].input))}
    return {"tool_calls": [_call_object(call, str(call.input)) for call in calls]}


def call_deltas(
    calls: Sequence[ToolCall], style: FunctionStyle
) -> Iterator[tuple[dict[str, Any], bool]]:
    """The deltas that call tools; each with whether it carries a token."""
    for index, call in enumerate(calls):
        if style == "function_call":
            yield {"function_call": _function(call.tool.name, "")}, False
        else:
            yield {"tool_calls": [{"index": index, **_call_object(call, "")}]}, False
        for token in call.input.tokens:
            if style == "function_call":
                yield {"function_call": {"arguments": token}}, True
            else:
                yield {"tool_calls": [{"index": index, **_call_delta(call, token)}]}, True


def _call_object(call: ToolCall, text: str) -> dict[str, Any]:
    name = call.tool.name
    if call.tool.parameters is None:
        return {"id": call.id, "type": "custom", "custom": {"name": name, "input": text}}
    return {"id": call.id, "type": "function", "function": _function(name, text)}


def _call_delta(call: ToolCall, token: str) -> dict[str, Any]:
    if call.tool.parameters is None:
        return {"custom": {"input": token}}
    return {"function": {"arguments": token}}


def _function(name: str, arguments: str) -> dict[str, str]:
    return {"name": name, "arguments": arguments}
