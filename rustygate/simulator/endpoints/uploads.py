"""Uploads: `/v1/uploads`, files that come in parts.

Parts are kept as files are. An upload of which a part was not kept becomes a file of the right
length without a content or a hash, and its `md5` cannot be checked.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import md5
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from rustygate.simulator.endpoints.files import ExpiresAfter, File, Files, Purpose, file_object
from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.response_bodies import json_answer
from rustygate.simulator.schemas import Name
from rustygate.simulator.storage.file_store import Content, KeptFile, Shelf
from rustygate.simulator.storage.object_store import Stored, Table, new_object
from rustygate.simulator.transport.delivery import before_head, reply
from rustygate.simulator.transport.multipart import read_form
from rustygate.simulator.transport.parsing import body, read

# OpenAI's own bounds.
MOST_BYTES = 8 * 1024**3
LIFETIME_S = 3600


class UploadAsked(msgspec.Struct):
    bytes: Annotated[int, Meta(ge=1, le=MOST_BYTES)]
    filename: Name
    mime_type: Name
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class PartAsked(msgspec.Struct):
    data: KeptFile


class CompletionAsked(msgspec.Struct):
    part_ids: Annotated[list[str], Meta(min_length=1)]
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class Part(Stored):
    content: KeptFile


@dataclass(frozen=True, slots=True)
class Upload(Stored):
    asked: UploadAsked
    parts: Table[Part]


@dataclass(frozen=True, slots=True)
class Lost:
    """A content of which something was not kept."""

    size: int
    pieces: None = None


class Uploads:
    """The uploads, and the handlers that deal with them."""

    def __init__(self, shelf: Shelf, files: Files) -> None:
        self._shelf = shelf
        self._files = files
        self._uploads: Table[Upload] = Table("Upload")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/uploads", self.create),
            web.post("/v1/uploads/{id}/parts", self.add_part),
            web.post("/v1/uploads/{id}/complete", self.complete),
            web.post("/v1/uploads/{id}/cancel", self.cancel),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        asked = read(await body(request), UploadAsked)
        shown = new_object(
            "upload",
            "upload_",
            bytes=asked.bytes,
            filename=asked.filename,
            purpose=asked.purpose,
            status="pending",
            file=None,
        )
        shown["expires_at"] = shown["created_at"] + LIFETIME_S
        await before_head(request)
        self._uploads.add(Upload(shown, asked, Table("UploadPart")))
        return await reply(request, json_answer(shown))

    async def add_part(self, request: web.Request) -> web.StreamResponse:
        """Take a part. What was asked to go wrong goes wrong before it is read."""
        upload = self._pending(request)
        await before_head(request)
        make_file = self._shelf.maker(request.content_length)
        content = (await read_form(request, PartAsked, make_file)).data
        shown = new_object("upload.part", "part_", upload_id=upload.object["id"])
        upload.parts.add(Part(shown | {"sha256": content.sha256}, content))
        return await reply(request, json_answer(shown))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = read(await body(request), CompletionAsked)
        upload = self._pending(request)
        parts = [upload.parts.get(identifier).content for identifier in asked.part_ids]
        await before_head(request)
        file = self._files.add(self._joined(upload.asked, parts, asked.md5))
        upload.object.update(status="completed", file=file.object)
        return await reply(request, json_answer(upload.object))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        upload = self._pending(request)
        await before_head(request)
        upload.object["status"] = "cancelled"
        return await reply(request, json_answer(upload.object))

    def _pending(self, request: web.Request) -> Upload:
        """The upload that is asked for. Raises `ApiError` if it takes nothing any more."""
        upload = self._uploads.get(request.match_info["id"])
        if upload.object["status"] != "pending":
            message = f"Upload {upload.object['id']} is {upload.object['status']} already."
            raise ApiError(Failure(400, message))
        return upload

    def _joined(self, asked: UploadAsked, parts: list[KeptFile], checksum: str | None) -> File:
        """The parts as one file.

        Raises:
            ApiError: they are not what was announced; status 400.
        """
        size, contents = sum(part.size for part in parts), [part.pieces for part in parts]
        if size != asked.bytes:
            message = f"The parts have {size} bytes, {asked.bytes} were announced."
            raise ApiError(Failure(400, message, param="part_ids"))
        pieces = [piece for content in contents for piece in content or ()]
        if None in contents:
            return File(self._shown(asked, Lost(size)) | {"sha256": None}, Lost(size))
        if checksum is not None and checksum.lower() != _md5(pieces):
            raise ApiError(Failure(400, "The parts do not have that MD5.", param="md5"))
        content = self._rewritten(asked, parts, pieces)
        return File(self._shown(asked, content) | {"sha256": content.sha256}, content)

    def _rewritten(
        self, asked: UploadAsked, parts: list[KeptFile], pieces: list[bytes]
    ) -> KeptFile:
        """The parts' bytes as a file of its own, which takes the room that they had."""
        for part in parts:
            part.let_go()
        content = self._shelf.file(asked.filename)
        for piece in pieces:
            content.write(piece)
        return content

    def _shown(self, asked: UploadAsked, content: Content) -> dict[str, Any]:
        return file_object(asked.filename, asked.purpose, content, asked.expires_after)


def _md5(pieces: Iterable[bytes]) -> str:
    digest = md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
