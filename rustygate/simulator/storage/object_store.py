"""Objects that can be created, listed and deleted: files, uploads, containers, batches."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.response_bodies import new_id
from rustygate.simulator.transport.parsing import convert

# Per kind; beyond it the oldest object is dropped.
MAX_OBJECTS = 10_000


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A stored object; `object` is its JSON as the API shows it, with its `id`."""

    object: dict[str, Any]


ObjectT = TypeVar("ObjectT", bound=StoredObject)


class PageQuery(msgspec.Struct):
    """The page of a list that a query asks for: up to `limit` objects after `after`."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_OBJECTS)] = 20
    order: Literal["asc", "desc"] = "desc"


class ObjectStore(Generic[ObjectT]):
    """Objects of one kind by identifier, in order of creation."""

    def __init__(self, kind: str, max_objects: int = MAX_OBJECTS) -> None:
        self._kind = kind
        self._max_objects = max_objects
        self._entries: dict[str, ObjectT] = {}

    def add(self, entry: ObjectT) -> ObjectT:
        self._entries[entry.object["id"]] = entry
        if len(self._entries) > self._max_objects:
            del self._entries[next(iter(self._entries))]
        return entry

    def get(self, identifier: str) -> ObjectT:
        """Raises `ApiError` with status 404 if there is no such object."""
        if identifier not in self._entries:
            message = f"No such {self._kind} object: {identifier}"
            raise ApiError(ErrorResponse(404, message, param="id"))
        return self._entries[identifier]

    def pop(self, identifier: str) -> ObjectT:
        """Raises `ApiError` with status 404 if there is no such object."""
        entry = self.get(identifier)
        del self._entries[identifier]
        return entry

    def page(self, query: Mapping[str, str], *filters: str, limit: int = 20) -> dict[str, Any]:
        """The page of the list that a query asks for.

        Args:
            filters: fields that the query may filter by.
            limit: the size of the page if the query does not set it.
        """
        page = convert({"limit": limit, **query}, PageQuery)
        required = {name: query[name] for name in filters if name in query}.items()
        objects = [
            entry.object
            for entry in self._entries.values()
            if all(entry.object[name] == value for name, value in required)
        ]
        if page.order == "desc":
            objects.reverse()
        return _list_page(self._after(objects, page.after), page.limit)

    def _after(self, objects: list[dict[str, Any]], after: str | None) -> list[dict[str, Any]]:
        if after is None:
            return objects
        last = self.get(after).object
        return objects[objects.index(last) + 1 :] if last in objects else []


def _list_page(objects: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    data = objects[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(objects) > limit,
    }


def new_object(kind: str, prefix: str, **fields: Any) -> dict[str, Any]:
    """A new object as the API shows it, created now."""
    return {"id": new_id(prefix), "object": kind, "created_at": int(time.time()), **fields}
