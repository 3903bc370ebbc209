"""The items of the Responses API: those of the input, and their way into a prompt."""

from typing import Any

import msgspec

from rustygate.simulator.prompt import Turn, role_of
from rustygate.simulator.response_bodies import new_id
from rustygate.simulator.schemas import MessageContent, content_text


class Item(msgspec.Struct):
    """The fields of an item that the simulator reads; without content it counts no tokens."""

    type: str = "message"
    role: str = "user"
    content: MessageContent = None
    name: str | None = None
    output: MessageContent = None

    @property
    def turn(self) -> Turn:
        if self.type in ("function_call", "custom_tool_call"):
            return Turn("assistant", calls=(self.name or "",))
        if self.type.endswith("_output"):
            return Turn("tool", content_text(self.output))
        role = role_of(self.role) if self.type == "message" else "assistant"
        return Turn(role, content_text(self.content))


def turn_of(item: dict[str, Any]) -> Turn:
    """Raises `msgspec.ValidationError` if the item is invalid."""
    return msgspec.convert(item, Item).turn


def input_items(value: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The input as items; a text is a message."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def complete_item(item: dict[str, Any]) -> dict[str, Any]:
    """An item as the API shows it: with its type and an identifier."""
    item = {"type": "message", **item}
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": item["content"]}]
    prefix = {"message": "msg_", "function_call": "fc_", "custom_tool_call": "ctc_"}
    return {"id": new_id(prefix.get(item["type"], "item_")), "status": "completed"} | item
