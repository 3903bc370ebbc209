"""Files: `/v1/files`, kept in memory while there is space.

A file whose content was not kept still has its size and, in the field `sha256`, its hash; a
request for its content returns 404 with the code `content_not_kept`. The files `file-zeros-SIZE`
always exist: they consist of SIZE zero bytes, generated on download.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.response_bodies import StreamedBody, json_body
from rustygate.simulator.storage.file_store import FileContent, FileStore, StoredFile, ZeroFile
from rustygate.simulator.storage.object_store import ObjectStore, StoredObject, new_object
from rustygate.simulator.transport.delivery import (
    apply_early_faults,
    byte_range,
    send_body,
    send_json,
)
from rustygate.simulator.transport.multipart import read_form

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]

_ZERO_FILE_ID = re.compile(r"file-zeros-([0-9]{1,12})", re.ASCII)

OCTET_STREAM = "application/octet-stream"

_DEFAULT_PAGE_SIZE = 10_000


class ExpiresAfter(msgspec.Struct):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class CreateFileRequest(msgspec.Struct):
    file: StoredFile
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


@dataclass(frozen=True, slots=True)
class File(StoredObject):
    content: FileContent


class Files:
    """The files and their handlers."""

    def __init__(self, file_store: FileStore) -> None:
        self._file_store = file_store
        self._files: ObjectStore[File] = ObjectStore("File")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self.create),
            web.get("/v1/files", self.list),
            web.get("/v1/files/{id}", self.show),
            web.delete("/v1/files/{id}", self.delete),
            web.get("/v1/files/{id}/content", self.content),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Create a file. Faults are applied before the body is read."""
        await apply_early_faults(request)
        file_factory = self._file_store.factory_for(request.content_length)
        fields = await read_form(request, CreateFileRequest, file_factory)
        content = fields.file
        api_object = file_object(content.name, fields.purpose, content, fields.expires_after)
        file = self.add(File(api_object | {"sha256": content.sha256}, content))
        return await send_body(request, json_body(file.object))

    async def list(self, request: web.Request) -> web.StreamResponse:
        return await send_json(
            request, self._files.page(request.query, "purpose", limit=_DEFAULT_PAGE_SIZE)
        )

    async def show(self, request: web.Request) -> web.StreamResponse:
        return await send_json(request, self.find(request.match_info["id"]).object)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        identifier = self._files.pop(request.match_info["id"]).object["id"]
        return await send_json(request, {"id": identifier, "object": "file", "deleted": True})

    async def content(self, request: web.Request) -> web.StreamResponse:
        return await send_content(request, self.find(request.match_info["id"]))

    def add(self, file: File) -> File:
        return self._files.add(file)

    def find(self, identifier: str) -> File:
        """Raises `ApiError` with status 404 if there is no such file."""
        zero_file = _ZERO_FILE_ID.fullmatch(identifier)
        if zero_file is None:
            return self._files.get(identifier)
        content = ZeroFile(int(zero_file[1]))
        return File(file_object("zeros", "user_data", content) | {"id": identifier}, content)


def file_object(
    name: str, purpose: Purpose, content: FileContent, expires_after: ExpiresAfter | None = None
) -> dict[str, Any]:
    """A file as the API shows it, with a new identifier."""
    api_object = new_object("file", "file-", bytes=content.size, filename=name, purpose=purpose)
    return api_object | {
        "status": "processed",
        "status_details": None,
        "expires_at": expires_after and api_object["created_at"] + expires_after.seconds,
    }


async def send_content(request: web.Request, file: File) -> web.StreamResponse:
    """Respond with the content of a file, or with the part that `Range` requests."""
    await apply_early_faults(request)
    return await send_body(request, _content_body(request, file))


def _content_body(request: web.Request, file: File) -> StreamedBody:
    size, chunks = file.content.size, file.content.chunks
    if chunks is None:
        message = f"The content of {file.object['id']} ({size} bytes) was not kept."
        raise ApiError(ErrorResponse(404, message, code="content_not_kept"))
    headers = {"Accept-Ranges": "bytes"}
    requested = _requested_range(request, size)
    if requested is None:
        return StreamedBody(chunks, OCTET_STREAM, size, headers=headers)
    headers["Content-Range"] = f"bytes {requested.start}-{requested.stop - 1}/{size}"
    part = byte_range(chunks, requested.start, requested.stop)
    return StreamedBody(part, OCTET_STREAM, len(requested), status=206, headers=headers)


def _requested_range(request: web.Request, size: int) -> range | None:
    """The bytes that `Range` requests; None without it, or if it is invalid (RFC 9110, 14.2).

    Raises:
        ApiError: the range is not satisfiable; status 416.
    """
    if request.method != "GET" or "Range" not in request.headers:
        return None
    try:
        byte_slice = request.http_range
    except ValueError:
        return None
    requested = range(*byte_slice.indices(size))
    if not requested:
        headers = {"Content-Range": f"bytes */{size}"}
        raise ApiError(ErrorResponse(416, f"The file has only {size} bytes.", headers=headers))
    return requested
