"""The items of a conversation over the Realtime API."""

from typing import Any

import msgspec

from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.response_bodies import new_id
from rustygate.simulator.schemas import Name
from rustygate.simulator.transport.parsing import convert

# Items of a conversation; of more, the oldest go.
ITEMS = 1000


class Part(msgspec.Struct):
    """A part of an item's content; what has no text has no characters to count."""

    type: Name
    text: str | None = None
    transcript: str | None = None


class Item(msgspec.Struct):
    """What of an item matters here; it is kept and shown with all its fields."""

    type: Name
    id: Name | None = None
    content: tuple[Part, ...] = ()
    output: str = ""

    @property
    def text(self) -> str:
        return "".join(
            [*(part.text or part.transcript or "" for part in self.content), self.output]
        )


class Conversation:
    """The items that were said, in their order."""

    def __init__(self) -> None:
        self._items: list[dict[str, Any]] = []

    def add(self, item: dict[str, Any], after: str | None = None) -> str | None:
        """Add an item at the end, or after another, or after `root`; what it comes after.

        Raises:
            ApiError: there is no such other.
        """
        place = len(self._items) if after is None else self._place(after)
        before = self._items[place - 1]["id"] if place else None
        self._items.insert(place, item)
        del self._items[:-ITEMS]
        return before

    def find(self, identifier: str) -> dict[str, Any]:
        """Raises `ApiError` if there is none."""
        return self._items[self._index(identifier)]

    def remove(self, identifier: str) -> None:
        """Raises `ApiError` if there is none."""
        del self._items[self._index(identifier)]

    @property
    def texts(self) -> list[str]:
        return [text_of(item) for item in self._items]

    def _place(self, after: str) -> int:
        return 0 if after == "root" else self._index(after) + 1

    def _index(self, identifier: str) -> int:
        for index, item in enumerate(self._items):
            if item["id"] == identifier:
                return index
        raise ApiError(Failure(400, f"There is no item {identifier!r}.", param="item_id"))


def whole(item: dict[str, Any]) -> dict[str, Any]:
    """An item that a client made, as it is shown. Raises `ApiError` if it is none."""
    convert(item, Item, strict=True)
    return {"id": new_id("item_"), **item, "object": "realtime.item", "status": "completed"}


def text_of(item: dict[str, Any]) -> str:
    """An item's text. Raises `ApiError` if it is none."""
    return convert(item, Item, strict=True).text
