"""Containers: `/v1/containers` and their files; nothing ever runs in one."""

import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from rustygate.simulator.endpoints.files import File, Files, send_content
from rustygate.simulator.response_bodies import json_answer
from rustygate.simulator.schemas import Name
from rustygate.simulator.storage.file_store import Content, KeptFile, Shelf
from rustygate.simulator.storage.object_store import Stored, Table, new_object
from rustygate.simulator.transport.delivery import before_head, put, reply
from rustygate.simulator.transport.multipart import read_form
from rustygate.simulator.transport.parsing import body, read


class ExpiresAfter(msgspec.Struct):
    anchor: Literal["last_active_at"] = "last_active_at"
    minutes: Annotated[int, Meta(ge=1, le=20)] = 20


class ContainerAsked(msgspec.Struct):
    name: Name
    expires_after: ExpiresAfter = msgspec.field(default_factory=ExpiresAfter)
    file_ids: list[str] | None = None
    memory_limit: Literal["1g", "4g", "16g", "64g"] = "1g"


class UploadedAsked(msgspec.Struct):
    """A file of one's own for a container."""

    file: KeptFile


class ReferredAsked(msgspec.Struct):
    """One of the files that are there for a container."""

    file_id: str


@dataclass(frozen=True, slots=True)
class Container(Stored):
    files: Table[File]

    def add(self, name: str, content: Content) -> File:
        shown = new_object(
            "container.file",
            "cfile_",
            bytes=content.size,
            container_id=self.object["id"],
            path=f"/mnt/data/{name}",
            source="user",
        )
        return self.files.add(File(shown, content))


class Containers:
    """The containers, and the handlers that deal with them."""

    def __init__(self, shelf: Shelf, files: Files) -> None:
        self._shelf = shelf
        self._files = files
        self._containers: Table[Container] = Table("Container")

    def routes(self) -> list[web.RouteDef]:
        one = "/v1/containers/{id}"
        return [
            web.post("/v1/containers", self.create),
            web.get("/v1/containers", self.list),
            web.get(one, self.show),
            web.delete(one, self.delete),
            web.post(f"{one}/files", self.add_file),
            web.get(f"{one}/files", self.list_files),
            web.get(f"{one}/files/{{file_id}}", self.show_file),
            web.delete(f"{one}/files/{{file_id}}", self.delete_file),
            web.get(f"{one}/files/{{file_id}}/content", self.file_content),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        asked = read(await body(request), ContainerAsked)
        files = [self._files.find(identifier) for identifier in asked.file_ids or ()]
        await before_head(request)
        container = self._containers.add(Container(_shown(asked), Table("Container File")))
        for file in files:
            container.add(file.object["filename"], file.content)
        return await reply(request, json_answer(container.object))

    async def list(self, request: web.Request) -> web.StreamResponse:
        return await put(request, self._containers.page(request.query, "name"))

    async def show(self, request: web.Request) -> web.StreamResponse:
        return await put(request, self._container(request).object)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        identifier = self._containers.pop(request.match_info["id"]).object["id"]
        return await put(request, _deleted("container", identifier))

    async def add_file(self, request: web.Request) -> web.StreamResponse:
        """Take a file. What was asked to go wrong goes wrong before it is read."""
        container = self._container(request)
        await before_head(request)
        if request.content_type == "application/json":
            asked = read(await body(request), ReferredAsked)
            referred = self._files.find(asked.file_id)
            file = container.add(referred.object["filename"], referred.content)
        else:
            make_file = self._shelf.maker(request.content_length)
            content = (await read_form(request, UploadedAsked, make_file)).file
            file = container.add(content.name, content)
        return await reply(request, json_answer(file.object))

    async def list_files(self, request: web.Request) -> web.StreamResponse:
        return await put(request, self._container(request).files.page(request.query))

    async def show_file(self, request: web.Request) -> web.StreamResponse:
        return await put(request, self._file(request).object)

    async def delete_file(self, request: web.Request) -> web.StreamResponse:
        file = self._container(request).files.pop(request.match_info["file_id"])
        return await put(request, _deleted("container.file", file.object["id"]))

    async def file_content(self, request: web.Request) -> web.StreamResponse:
        return await send_content(request, self._file(request))

    def _container(self, request: web.Request) -> Container:
        return self._containers.get(request.match_info["id"])

    def _file(self, request: web.Request) -> File:
        return self._container(request).files.get(request.match_info["file_id"])


def _shown(asked: ContainerAsked) -> dict[str, Any]:
    return new_object(
        "container",
        "cntr_",
        name=asked.name,
        status="running",
        expires_after=asked.expires_after,
        last_active_at=int(time.time()),
        memory_limit=asked.memory_limit,
    )


def _deleted(kind: str, identifier: str) -> dict[str, Any]:
    return {"id": identifier, "object": f"{kind}.deleted", "deleted": True}
