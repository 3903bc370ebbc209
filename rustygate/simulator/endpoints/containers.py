"""Containers and their files: `/v1/containers`. No code runs in them."""

import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from rustygate.simulator.endpoints.files import File, Files, send_content
from rustygate.simulator.response_bodies import json_body
from rustygate.simulator.schemas import Name
from rustygate.simulator.storage.file_store import FileContent, FileStore, StoredFile
from rustygate.simulator.storage.object_store import ObjectStore, StoredObject, new_object
from rustygate.simulator.transport.delivery import apply_early_faults, send_body, send_json
from rustygate.simulator.transport.multipart import read_form
from rustygate.simulator.transport.parsing import parse_json, read_body


class ExpiresAfter(msgspec.Struct):
    anchor: Literal["last_active_at"] = "last_active_at"
    minutes: Annotated[int, Meta(ge=1, le=20)] = 20


class CreateContainerRequest(msgspec.Struct):
    name: Name
    expires_after: ExpiresAfter = msgspec.field(default_factory=ExpiresAfter)
    file_ids: list[str] | None = None
    memory_limit: Literal["1g", "4g", "16g", "64g"] = "1g"


class AddUploadedFileRequest(msgspec.Struct):
    """Uploads a file to a container."""

    file: StoredFile


class AddExistingFileRequest(msgspec.Struct):
    """Adds a file that exists already to a container."""

    file_id: str


@dataclass(frozen=True, slots=True)
class Container(StoredObject):
    files: ObjectStore[File]

    def add(self, name: str, content: FileContent) -> File:
        api_object = new_object(
            "container.file",
            "cfile_",
            bytes=content.size,
            container_id=self.object["id"],
            path=f"/mnt/data/{name}",
            source="user",
        )
        return self.files.add(File(api_object, content))


class Containers:
    """The containers and their handlers."""

    def __init__(self, file_store: FileStore, files: Files) -> None:
        self._file_store = file_store
        self._files = files
        self._containers: ObjectStore[Container] = ObjectStore("Container")

    def routes(self) -> list[web.RouteDef]:
        path = "/v1/containers/{id}"
        return [
            web.post("/v1/containers", self.create),
            web.get("/v1/containers", self.list),
            web.get(path, self.show),
            web.delete(path, self.delete),
            web.post(f"{path}/files", self.add_file),
            web.get(f"{path}/files", self.list_files),
            web.get(f"{path}/files/{{file_id}}", self.show_file),
            web.delete(f"{path}/files/{{file_id}}", self.delete_file),
            web.get(f"{path}/files/{{file_id}}/content", self.file_content),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        fields = parse_json(await read_body(request), CreateContainerRequest)
        files = [self._files.find(identifier) for identifier in fields.file_ids or ()]
        await apply_early_faults(request)
        new_container = Container(_api_object(fields), ObjectStore("Container File"))
        container = self._containers.add(new_container)
        for file in files:
            container.add(file.object["filename"], file.content)
        return await send_body(request, json_body(container.object))

    async def list(self, request: web.Request) -> web.StreamResponse:
        return await send_json(request, self._containers.page(request.query, "name"))

    async def show(self, request: web.Request) -> web.StreamResponse:
        return await send_json(request, self._container(request).object)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        identifier = self._containers.pop(request.match_info["id"]).object["id"]
        return await send_json(request, _deletion_object("container", identifier))

    async def add_file(self, request: web.Request) -> web.StreamResponse:
        """Add a file. Faults are applied before the body is read."""
        container = self._container(request)
        await apply_early_faults(request)
        if request.content_type == "application/json":
            fields = parse_json(await read_body(request), AddExistingFileRequest)
            existing = self._files.find(fields.file_id)
            file = container.add(existing.object["filename"], existing.content)
        else:
            file_factory = self._file_store.factory_for(request.content_length)
            content = (await read_form(request, AddUploadedFileRequest, file_factory)).file
            file = container.add(content.name, content)
        return await send_body(request, json_body(file.object))

    async def list_files(self, request: web.Request) -> web.StreamResponse:
        return await send_json(request, self._container(request).files.page(request.query))

    async def show_file(self, request: web.Request) -> web.StreamResponse:
        return await send_json(request, self._file(request).object)

    async def delete_file(self, request: web.Request) -> web.StreamResponse:
        file = self._container(request).files.pop(request.match_info["file_id"])
        return await send_json(request, _deletion_object("container.file", file.object["id"]))

    async def file_content(self, request: web.Request) -> web.StreamResponse:
        return await send_content(request, self._file(request))

    def _container(self, request: web.Request) -> Container:
        return self._containers.get(request.match_info["id"])

    def _file(self, request: web.Request) -> File:
        return self._container(request).files.get(request.match_info["file_id"])


def _api_object(fields: CreateContainerRequest) -> dict[str, Any]:
    return new_object(
        "container",
        "cntr_",
        name=fields.name,
        status="running",
        expires_after=fields.expires_after,
        last_active_at=int(time.time()),
        memory_limit=fields.memory_limit,
    )


def _deletion_object(kind: str, identifier: str) -> dict[str, Any]:
    return {"id": identifier, "object": f"{kind}.deleted", "deleted": True}
