"""Files: `/v1/files`, kept in memory while there is room.

A file whose content was not kept still has its length and, in the field `sha256`, its hash; its
content is a 404 with the code `content_not_kept`. Files called `file-zeros-LENGTH` are always
there: so many zero bytes, made while they are sent, for downloads of any length.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.response_bodies import Pieces, json_answer
from rustygate.simulator.storage.file_store import Content, KeptFile, Shelf, Zeros
from rustygate.simulator.storage.object_store import Stored, Table, new_object
from rustygate.simulator.transport.delivery import before_head, put, reply, section
from rustygate.simulator.transport.multipart import read_form

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]

_ZEROS = re.compile(r"file-zeros-([0-9]{1,12})", re.ASCII)

OCTETS = "application/octet-stream"

# A page of files, where the query does not say how many.
_PAGE = 10_000


class ExpiresAfter(msgspec.Struct):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class FileAsked(msgspec.Struct):
    file: KeptFile
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


@dataclass(frozen=True, slots=True)
class File(Stored):
    content: Content


class Files:
    """The files, and the handlers that deal with them."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._files: Table[File] = Table("File")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self.create),
            web.get("/v1/files", self.list),
            web.get("/v1/files/{id}", self.show),
            web.delete("/v1/files/{id}", self.delete),
            web.get("/v1/files/{id}/content", self.content),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Take a file. What was asked to go wrong goes wrong before it is read."""
        await before_head(request)
        make_file = self._shelf.maker(request.content_length)
        asked = await read_form(request, FileAsked, make_file)
        content = asked.file
        shown = file_object(content.name, asked.purpose, content, asked.expires_after)
        file = self.add(File(shown | {"sha256": content.sha256}, content))
        return await reply(request, json_answer(file.object))

    async def list(self, request: web.Request) -> web.StreamResponse:
        return await put(request, self._files.page(request.query, "purpose", limit=_PAGE))

    async def show(self, request: web.Request) -> web.StreamResponse:
        return await put(request, self.find(request.match_info["id"]).object)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        identifier = self._files.pop(request.match_info["id"]).object["id"]
        return await put(request, {"id": identifier, "object": "file", "deleted": True})

    async def content(self, request: web.Request) -> web.StreamResponse:
        return await send_content(request, self.find(request.match_info["id"]))

    def add(self, file: File) -> File:
        return self._files.add(file)

    def find(self, identifier: str) -> File:
        """Raises `ApiError` with status 404 if there is none."""
        zeros = _ZEROS.fullmatch(identifier)
        if zeros is None:
            return self._files.get(identifier)
        content = Zeros(int(zeros[1]))
        return File(file_object("zeros", "user_data", content) | {"id": identifier}, content)


def file_object(
    name: str, purpose: Purpose, content: Content, expires_after: ExpiresAfter | None = None
) -> dict[str, Any]:
    """A file as the API shows it, under a new identifier."""
    shown = new_object("file", "file-", bytes=content.size, filename=name, purpose=purpose)
    return shown | {
        "status": "processed",
        "status_details": None,
        "expires_at": expires_after and shown["created_at"] + expires_after.seconds,
    }


async def send_content(request: web.Request, file: File) -> web.StreamResponse:
    """Answer with a file's bytes, or those of them that `Range` asks for."""
    await before_head(request)
    return await reply(request, _content(request, file))


def _content(request: web.Request, file: File) -> Pieces:
    size, pieces = file.content.size, file.content.pieces
    if pieces is None:
        message = f"The content of {file.object['id']}, {size} bytes, was not kept."
        raise ApiError(Failure(404, message, code="content_not_kept"))
    headers = {"Accept-Ranges": "bytes"}
    span = _span(request, size)
    if span is None:
        return Pieces(pieces, OCTETS, size, headers=headers)
    headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
    part = section(pieces, span.start, span.stop)
    return Pieces(part, OCTETS, len(span), status=206, headers=headers)


def _span(request: web.Request, size: int) -> range | None:
    """The bytes that `Range` asks for, if it does; one nobody understands does not (RFC 9110,
    14.2).

    Raises:
        ApiError: there are no such bytes; status 416.
    """
    if request.method != "GET" or "Range" not in request.headers:
        return None
    try:
        asked = request.http_range
    except ValueError:
        return None
    span = range(*asked.indices(size))
    if not span:
        headers = {"Content-Range": f"bytes */{size}"}
        raise ApiError(Failure(416, f"It has only {size} bytes.", headers=headers))
    return span
