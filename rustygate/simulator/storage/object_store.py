"""Objects that are created, listed and deleted: files, uploads, containers, batches."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.response_bodies import new_id
from rustygate.simulator.transport.parsing import convert

# Objects of a kind; of more, the oldest go.
MOST = 10_000


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored; `object` is how the API shows it, `id` included."""

    object: dict[str, Any]


Thing = TypeVar("Thing", bound=Stored)


class PageAsked(msgspec.Struct):
    """Which part of a list is asked for: so many objects, after that one."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST)] = 20
    order: Literal["asc", "desc"] = "desc"


class Table(Generic[Thing]):
    """Things by their identifiers, in the order they came."""

    def __init__(self, kind: str, most: int = MOST) -> None:
        self._kind = kind
        self._most = most
        self._things: dict[str, Thing] = {}

    def add(self, thing: Thing) -> Thing:
        self._things[thing.object["id"]] = thing
        if len(self._things) > self._most:
            del self._things[next(iter(self._things))]
        return thing

    def get(self, identifier: str) -> Thing:
        """Raises `ApiError` with status 404 if there is none."""
        if identifier not in self._things:
            message = f"No such {self._kind} object: {identifier}"
            raise ApiError(Failure(404, message, param="id"))
        return self._things[identifier]

    def pop(self, identifier: str) -> Thing:
        """Raises `ApiError` with status 404 if there is none."""
        thing = self.get(identifier)
        del self._things[identifier]
        return thing

    def page(self, query: Mapping[str, str], *filters: str, limit: int = 20) -> dict[str, Any]:
        """The part of the list that a query asks for.

        Args:
            filters: fields that the query may want to have a value.
            limit: of the page, where the query has none.
        """
        page = convert({"limit": limit, **query}, PageAsked)
        wanted = [(name, query[name]) for name in filters if name in query]
        objects = (thing.object for thing in self._things.values())
        shown = [one for one in objects if all(one[name] == value for name, value in wanted)]
        if page.order == "desc":
            shown.reverse()
        return _listing(self._after(shown, page.after), page.limit)

    def _after(self, shown: list[dict[str, Any]], after: str | None) -> list[dict[str, Any]]:
        if after is None:
            return shown
        last = self.get(after).object
        return shown[shown.index(last) + 1 :] if last in shown else []


def _listing(shown: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    data = shown[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(shown) > limit,
    }


def new_object(kind: str, prefix: str, **fields: Any) -> dict[str, Any]:
    """An object that is created now."""
    return {"id": new_id(prefix), "object": kind, "created_at": int(time.time()), **fields}
