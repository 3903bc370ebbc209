"""Stored responses: `/v1/responses/{id}`.

Their retrieval costs nothing; a stream has the same events again.
"""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from rustygate.simulator.endpoints.response_output import MadeResponse
from rustygate.simulator.endpoints.response_store import ResponseStore
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.response_bodies import EventStream, json_body
from rustygate.simulator.stats import Stats
from rustygate.simulator.storage.object_store import ObjectStore, StoredObject
from rustygate.simulator.transport.delivery import (
    apply_early_faults,
    send_body,
    send_event_stream,
    send_json,
)
from rustygate.simulator.transport.parsing import convert


class RetrieveQuery(msgspec.Struct):
    """How to send a response: as a stream, from the event after a number on."""

    stream: bool = False
    starting_after: Annotated[int, Meta(ge=0)] | None = None


class StoredResponses:
    """The handlers of stored responses."""

    def __init__(self, store: ResponseStore, stats: Stats) -> None:
        self._store = store
        self._stats = stats

    def routes(self) -> list[web.RouteDef]:
        path = "/v1/responses/{id}"
        return [
            web.get(path, self.show),
            web.delete(path, self.delete),
            web.get(f"{path}/input_items", self.list_input),
            web.post(f"{path}/cancel", self.cancel),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        made = self._store.get(request.match_info["id"]).made
        query = convert(request.query, RetrieveQuery)
        if not query.stream:
            return await send_json(request, made.final)
        await apply_early_faults(request)
        with self._stats.stream():
            return await send_event_stream(request, _events_after(made, query.starting_after))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        identifier = request.match_info["id"]
        self._store.get(identifier)
        await apply_early_faults(request)
        self._store.pop(identifier)
        return await send_body(
            request, json_body({"id": identifier, "object": "response", "deleted": True})
        )

    async def list_input(self, request: web.Request) -> web.StreamResponse:
        items: ObjectStore[StoredObject] = ObjectStore("Item")
        for item in self._store.get(request.match_info["id"]).input:
            items.add(StoredObject(item))
        return await send_json(request, items.page(request.query))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Show a response in the background, which has always ended before it can be cancelled."""
        final = self._store.get(request.match_info["id"]).made.final
        if not final["background"]:
            message = "Cannot cancel a synchronous response."
            raise ApiError(ErrorResponse(400, message))
        return await send_json(request, final)


def _events_after(made: MadeResponse, number: int | None) -> EventStream:
    """The events of a response after the one of that number, or all."""
    first = 0 if number is None else number + 1
    return EventStream(event for at, event in enumerate(made.events()) if at >= first)
