"""Uploads: `/v1/uploads`, files that are uploaded in parts.

Parts are kept like files. If a part was not kept, the upload becomes a file of the right size
without content or hash, and its `md5` cannot be checked.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import md5
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from rustygate.simulator.endpoints.files import ExpiresAfter, File, Files, Purpose, file_object
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.response_bodies import json_body
from rustygate.simulator.schemas import Name
from rustygate.simulator.storage.file_store import FileContent, FileStore, StoredFile
from rustygate.simulator.storage.object_store import ObjectStore, StoredObject, new_object
from rustygate.simulator.transport.delivery import apply_early_faults, send_body
from rustygate.simulator.transport.multipart import read_form
from rustygate.simulator.transport.parsing import parse_json, read_body

# OpenAI's limits.
MAX_UPLOAD_BYTES = 8 * 1024**3
LIFETIME_S = 3600


class CreateUploadRequest(msgspec.Struct):
    bytes: Annotated[int, Meta(ge=1, le=MAX_UPLOAD_BYTES)]
    filename: Name
    mime_type: Name
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class AddPartRequest(msgspec.Struct):
    data: StoredFile


class CompleteUploadRequest(msgspec.Struct):
    part_ids: Annotated[list[str], Meta(min_length=1)]
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class UploadPart(StoredObject):
    content: StoredFile


@dataclass(frozen=True, slots=True)
class Upload(StoredObject):
    request: CreateUploadRequest
    parts: ObjectStore[UploadPart]


@dataclass(frozen=True, slots=True)
class MissingContent:
    """The content of a file whose parts were not all kept."""

    size: int
    chunks: None = None


class Uploads:
    """The uploads and their handlers."""

    def __init__(self, file_store: FileStore, files: Files) -> None:
        self._file_store = file_store
        self._files = files
        self._uploads: ObjectStore[Upload] = ObjectStore("Upload")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/uploads", self.create),
            web.post("/v1/uploads/{id}/parts", self.add_part),
            web.post("/v1/uploads/{id}/complete", self.complete),
            web.post("/v1/uploads/{id}/cancel", self.cancel),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        fields = parse_json(await read_body(request), CreateUploadRequest)
        api_object = new_object(
            "upload",
            "upload_",
            bytes=fields.bytes,
            filename=fields.filename,
            purpose=fields.purpose,
            status="pending",
            file=None,
        )
        api_object["expires_at"] = api_object["created_at"] + LIFETIME_S
        await apply_early_faults(request)
        self._uploads.add(Upload(api_object, fields, ObjectStore("UploadPart")))
        return await send_body(request, json_body(api_object))

    async def add_part(self, request: web.Request) -> web.StreamResponse:
        """Add a part. Faults are applied before the body is read."""
        upload = self._pending(request)
        await apply_early_faults(request)
        file_factory = self._file_store.factory_for(request.content_length)
        content = (await read_form(request, AddPartRequest, file_factory)).data
        api_object = new_object("upload.part", "part_", upload_id=upload.object["id"])
        upload.parts.add(UploadPart(api_object | {"sha256": content.sha256}, content))
        return await send_body(request, json_body(api_object))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        fields = parse_json(await read_body(request), CompleteUploadRequest)
        upload = self._pending(request)
        parts = [upload.parts.get(identifier).content for identifier in fields.part_ids]
        await apply_early_faults(request)
        file = self._files.add(self._joined_file(upload.request, parts, fields.md5))
        upload.object.update(status="completed", file=file.object)
        return await send_body(request, json_body(upload.object))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        upload = self._pending(request)
        await apply_early_faults(request)
        upload.object["status"] = "cancelled"
        return await send_body(request, json_body(upload.object))

    def _pending(self, request: web.Request) -> Upload:
        """The requested upload. Raises `ApiError` if it is no longer pending."""
        upload = self._uploads.get(request.match_info["id"])
        if upload.object["status"] != "pending":
            message = f"Upload {upload.object['id']} is already {upload.object['status']}."
            raise ApiError(ErrorResponse(400, message))
        return upload

    def _joined_file(
        self, fields: CreateUploadRequest, parts: list[StoredFile], checksum: str | None
    ) -> File:
        """The parts joined to one file.

        Raises:
            ApiError: the parts do not have the announced size or MD5; status 400.
        """
        size, contents = sum(part.size for part in parts), [part.chunks for part in parts]
        if size != fields.bytes:
            message = f"The parts have {size} bytes, but {fields.bytes} bytes were announced."
            raise ApiError(ErrorResponse(400, message, param="part_ids"))
        if None in contents:
            missing = MissingContent(size)
            return File(self._file_object(fields, missing) | {"sha256": None}, missing)
        chunks = [chunk for content in contents for chunk in content or ()]
        if checksum is not None and checksum.lower() != _md5(chunks):
            message = "The MD5 of the parts does not match the announced one."
            raise ApiError(ErrorResponse(400, message, param="md5"))
        content = self._stored_copy(fields, parts, chunks)
        return File(self._file_object(fields, content) | {"sha256": content.sha256}, content)

    def _stored_copy(
        self, fields: CreateUploadRequest, parts: list[StoredFile], chunks: list[bytes]
    ) -> StoredFile:
        """A new file with the bytes of the parts, in the space that the parts had."""
        for part in parts:
            part.discard()
        content = self._file_store.create(fields.filename)
        for chunk in chunks:
            content.write(chunk)
        return content

    def _file_object(self, fields: CreateUploadRequest, content: FileContent) -> dict[str, Any]:
        return file_object(fields.filename, fields.purpose, content, fields.expires_after)


def _md5(chunks: Iterable[bytes]) -> str:
    digest = md5(usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
