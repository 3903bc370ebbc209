"""Batches: `/v1/batches`, which come to an end by being looked at, and never have an output."""

from typing import Literal

import msgspec
from aiohttp import web

from rustygate.simulator.endpoints.files import Files
from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.response_bodies import json_answer
from rustygate.simulator.storage.object_store import Stored, Table, new_object
from rustygate.simulator.transport.delivery import before_head, put, reply
from rustygate.simulator.transport.parsing import body, read

# What a batch is, and what it is when it is looked at the next time.
_NEXT = {"validating": "in_progress", "in_progress": "completed"}

Endpoint = Literal[
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
]


class BatchAsked(msgspec.Struct):
    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None


class Batches:
    """The batches, and the handlers that deal with them."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._batches: Table[Stored] = Table("Batch")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/batches", self.create),
            web.get("/v1/batches", self.list),
            web.get("/v1/batches/{id}", self.show),
            web.post("/v1/batches/{id}/cancel", self.cancel),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        asked = read(await body(request), BatchAsked)
        self._files.find(asked.input_file_id)
        await before_head(request)
        shown = new_object(
            "batch",
            "batch_",
            **msgspec.structs.asdict(asked),
            status="validating",
            errors=None,
            output_file_id=None,
            error_file_id=None,
            request_counts={"total": 0, "completed": 0, "failed": 0},
        )
        self._batches.add(Stored(shown))
        return await reply(request, json_answer(shown))

    async def list(self, request: web.Request) -> web.StreamResponse:
        return await put(request, self._batches.page(request.query))

    async def show(self, request: web.Request) -> web.StreamResponse:
        shown = self._batches.get(request.match_info["id"]).object
        shown["status"] = _NEXT.get(shown["status"], shown["status"])
        return await put(request, shown)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        shown = self._batches.get(request.match_info["id"]).object
        if shown["status"] not in _NEXT:
            raise ApiError(Failure(400, f"Batch {shown['id']} is {shown['status']} already."))
        await before_head(request)
        shown["status"] = "cancelled"
        return await reply(request, json_answer(shown))
