"""Batches: `/v1/batches`. Each retrieval advances a batch to its next status; none has output."""

from typing import Literal

import msgspec
from aiohttp import web

from rustygate.simulator.endpoints.files import Files
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.response_bodies import json_body
from rustygate.simulator.storage.object_store import ObjectStore, StoredObject, new_object
from rustygate.simulator.transport.delivery import apply_early_faults, send_body, send_json
from rustygate.simulator.transport.parsing import parse_json, read_body

# The status that a batch has at its next retrieval.
_NEXT_STATUS = {"validating": "in_progress", "in_progress": "completed"}

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


class CreateBatchRequest(msgspec.Struct):
    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None


class Batches:
    """The batches and their handlers."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._batches: ObjectStore[StoredObject] = ObjectStore("Batch")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/batches", self.create),
            web.get("/v1/batches", self.list),
            web.get("/v1/batches/{id}", self.show),
            web.post("/v1/batches/{id}/cancel", self.cancel),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        fields = parse_json(await read_body(request), CreateBatchRequest)
        self._files.find(fields.input_file_id)
        await apply_early_faults(request)
        api_object = new_object(
            "batch",
            "batch_",
            **msgspec.structs.asdict(fields),
            status="validating",
            errors=None,
            output_file_id=None,
            error_file_id=None,
            request_counts={"total": 0, "completed": 0, "failed": 0},
        )
        self._batches.add(StoredObject(api_object))
        return await send_body(request, json_body(api_object))

    async def list(self, request: web.Request) -> web.StreamResponse:
        return await send_json(request, self._batches.page(request.query))

    async def show(self, request: web.Request) -> web.StreamResponse:
        api_object = self._batches.get(request.match_info["id"]).object
        api_object["status"] = _NEXT_STATUS.get(api_object["status"], api_object["status"])
        return await send_json(request, api_object)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        api_object = self._batches.get(request.match_info["id"]).object
        if api_object["status"] not in _NEXT_STATUS:
            message = f"Batch {api_object['id']} is already {api_object['status']}."
            raise ApiError(ErrorResponse(400, message))
        await apply_early_faults(request)
        api_object["status"] = "cancelled"
        return await send_body(request, json_body(api_object))
