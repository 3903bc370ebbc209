"""The items of a Realtime API conversation."""

from typing import Any

import msgspec

from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.prompt import Turn, role_of
from rustygate.simulator.response_bodies import new_id
from rustygate.simulator.schemas import Name
from rustygate.simulator.transport.parsing import convert

# Per conversation; beyond it the oldest items are dropped.
MAX_ITEMS = 1000


class ContentPart(msgspec.Struct):
    """A part of an item's content; only its text or transcript counts as tokens."""

    type: Name
    text: str | None = None
    transcript: str | None = None


class Item(msgspec.Struct):
    """The fields of an item that the simulator reads; items are stored with all their fields."""

    type: Name
    id: Name | None = None
    role: str = "user"
    content: tuple[ContentPart, ...] = ()
    output: str = ""

    @property
    def text(self) -> str:
        return "".join(
            [*(part.text or part.transcript or "" for part in self.content), self.output]
        )


class Conversation:
    """The items of a conversation, in order."""

    def __init__(self) -> None:
        self._items: list[dict[str, Any]] = []

    def add(self, item: dict[str, Any], after: str | None = None) -> str | None:
        """Add an item at the end, after another item, or after `root` (at the start).

        Returns the identifier of the item before it, or None if it is the first.

        Raises:
            ApiError: the item `after` does not exist.
        """
        index = len(self._items) if after is None else self._index_after(after)
        previous = self._items[index - 1]["id"] if index else None
        self._items.insert(index, item)
        del self._items[:-MAX_ITEMS]
        return previous

    def find(self, identifier: str) -> dict[str, Any]:
        """Raises `ApiError` if there is no such item."""
        return self._items[self._index_of(identifier)]

    def remove(self, identifier: str) -> None:
        """Raises `ApiError` if there is no such item."""
        del self._items[self._index_of(identifier)]

    @property
    def turns(self) -> list[Turn]:
        return [item_turn(item) for item in self._items]

    def _index_after(self, after: str) -> int:
        return 0 if after == "root" else self._index_of(after) + 1

    def _index_of(self, identifier: str) -> int:
        for index, item in enumerate(self._items):
            if item["id"] == identifier:
                return index
        raise ApiError(ErrorResponse(400, f"There is no item {identifier!r}.", param="item_id"))


def complete_item(item: dict[str, Any]) -> dict[str, Any]:
    """A client's item as the API shows it. Raises `ApiError` if it is invalid."""
    convert(item, Item, strict=True)
    return {"id": new_id("item_"), **item, "object": "realtime.item", "status": "completed"}


def item_turn(item: dict[str, Any]) -> Turn:
    """What an item says. Raises `ApiError` if the item is invalid."""
    converted = convert(item, Item, strict=True)
    role = "tool" if converted.type == "function_call_output" else converted.role
    return Turn(role_of(role), converted.text)
