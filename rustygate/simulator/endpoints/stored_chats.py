"""Chat completions that were created with `store`: `GET /v1/chat/completions` and the like."""

from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from rustygate.simulator.response_bodies import json_body, new_id
from rustygate.simulator.storage.object_store import ObjectStore, StoredObject
from rustygate.simulator.transport.delivery import apply_early_faults, send_body, send_json
from rustygate.simulator.transport.parsing import parse_json, read_body

# Their texts may be long.
MAX_CHATS = 1000


class UpdateRequest(msgspec.Struct):
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class StoredChat(StoredObject):
    """A chat completion, with the messages of its request."""

    messages: list[dict[str, Any]]


class StoredChats:
    """The stored chat completions and their handlers."""

    def __init__(self) -> None:
        self._chats: ObjectStore[StoredChat] = ObjectStore("Chat completion", MAX_CHATS)

    def routes(self) -> list[web.RouteDef]:
        path = "/v1/chat/completions"
        return [
            web.get(path, self.list),
            web.get(f"{path}/{{id}}", self.show),
            web.post(f"{path}/{{id}}", self.update),
            web.delete(f"{path}/{{id}}", self.delete),
            web.get(f"{path}/{{id}}/messages", self.list_messages),
        ]

    def add(self, completion: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Keep a completion."""
        self._chats.add(StoredChat(completion, messages))

    async def list(self, request: web.Request) -> web.StreamResponse:
        return await send_json(
            request, self._chats.page({"order": "asc", **request.query}, "model")
        )

    async def show(self, request: web.Request) -> web.StreamResponse:
        return await send_json(request, self._find(request).object)

    async def update(self, request: web.Request) -> web.StreamResponse:
        metadata = parse_json(await read_body(request), UpdateRequest).metadata
        completion = self._find(request).object
        await apply_early_faults(request)
        completion["metadata"] = metadata or {}
        return await send_body(request, json_body(completion))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        identifier = self._find(request).object["id"]
        await apply_early_faults(request)
        self._chats.pop(identifier)
        deleted = {"id": identifier, "object": "chat.completion.deleted", "deleted": True}
        return await send_body(request, json_body(deleted))

    async def list_messages(self, request: web.Request) -> web.StreamResponse:
        messages: ObjectStore[StoredObject] = ObjectStore("Message")
        for message in self._find(request).messages:
            messages.add(StoredObject({"id": new_id("msg_"), **message}))
        return await send_json(request, messages.page({"order": "asc", **request.query}))

    def _find(self, request: web.Request) -> StoredChat:
        return self._chats.get(request.match_info["id"])
