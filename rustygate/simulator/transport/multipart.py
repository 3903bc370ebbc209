"""Multipart forms, parsed while they arrive and never held in memory as a whole (RFC 7578).

Files are written to an `UploadedFile` chunk by chunk; text fields are kept, up to a limit. Names
are nested as in OpenAI's SDKs: `image[]` is an item of a list, `expires_after[seconds]` a field
of an object.
"""

import re
from collections.abc import Callable
from typing import Any, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.storage.file_store import UploadedFile
from rustygate.simulator.transport.parsing import SchemaT, convert

# All text fields of a form together; OpenAI's longest field is a prompt of 32,000 characters.
MAX_TEXT_BYTES = 1024 * 1024
MAX_PARTS = 1000

_CHUNK_BYTES = 64 * 1024

_NAME = re.compile(r"([\w.-]+)(?:\[([\w.-]*)\])?", re.ASCII)

FileFactory = Callable[[str], UploadedFile]


async def read_form(
    request: web.Request, schema: type[SchemaT], file_factory: FileFactory = UploadedFile
) -> SchemaT:
    """Read a form; `file_factory` creates the file that a part is written to, from its name.

    Raises:
        ApiError: the form is malformed, or does not match the schema; status 400.
    """
    form = _Form(file_factory)
    try:
        await form.read(request)
        return convert(form.fields, schema)
    except _MALFORMED as error:
        message = f"The form in the body of your request is malformed: {error}."
        raise ApiError(ErrorResponse(400, message)) from error


# What aiohttp's reader raises for malformed forms. `RequestPayloadError` and
# `HttpProcessingError` come from the body around the form: invalid chunks, or a wrong encoding.
_MALFORMED = (
    ValueError,
    AssertionError,
    RuntimeError,
    HttpProcessingError,
    web.RequestPayloadError,
)


class _Form:
    """Reads the parts of one form into fields."""

    def __init__(self, file_factory: FileFactory) -> None:
        self.fields: dict[str, Any] = {}
        self._file_factory = file_factory
        self._part_count = 0
        self._text_bytes = 0

    async def read(self, request: web.Request) -> None:
        if request.content_type != "multipart/form-data":
            raise ValueError(f"it is {request.content_type}, not multipart/form-data")
        # Like `request.multipart()`, but with another source.
        source = cast(StreamReader, _BodySource(request.content))
        async for part in MultipartReader(request.headers, source):
            self._part_count += 1
            if self._part_count > MAX_PARTS:
                raise ValueError(f"it has more than {MAX_PARTS} parts")
            if not isinstance(part, BodyPartReader):
                raise ValueError("one of its parts is itself a form")
            await self._read_part(part)

    async def _read_part(self, part: BodyPartReader) -> None:
        value = await self._read_file(part) if part.filename else await self._read_text(part)
        self._add(part.name or "", value)

    async def _read_file(self, part: BodyPartReader) -> UploadedFile:
        # A file name that is not UTF-8 contains lone surrogates.
        name = (part.filename or "").encode(errors="replace").decode()
        file = self._file_factory(name)
        while data := await part.read_chunk(_CHUNK_BYTES):
            file.write(data)
        return file

    async def _read_text(self, part: BodyPartReader) -> str:
        text = b""
        while data := await part.read_chunk(_CHUNK_BYTES):
            text += data
            self._text_bytes += len(data)
            if self._text_bytes > MAX_TEXT_BYTES:
                raise ValueError(f"its text fields exceed {MAX_TEXT_BYTES} bytes")
        return text.decode()

    def _add(self, name: str, value: object) -> None:
        nested = _NAME.fullmatch(name)
        if nested is None:
            raise ValueError(f"the name of a part is invalid: {name!a}")
        field, key = nested.groups()
        if key:
            self.fields[field] = {**_as_fields(self.fields.get(field)), key: value}
        elif key is None and field not in self.fields:
            self.fields[field] = value
        else:
            self.fields[field] = [*_as_list(self.fields.get(field, [])), value]


def _as_fields(value: object) -> dict[str, object]:
    if value is not None and not isinstance(value, dict):
        raise ValueError("one of its fields has both a value and fields of its own")
    return value or {}


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


class _BodySource:
    """A request body with the interface that aiohttp's multipart reader needs.

    The reader calls `unread_data`. aiohttp's own stream warns about that call, and again when it
    is then read at its end. Here, data that is pushed back is kept ahead of the stream.
    """

    def __init__(self, stream: StreamReader) -> None:
        self._stream = stream
        self._pushed_back = b""

    async def read(self, size: int) -> bytes:
        if not self._pushed_back:
            return b"" if self._stream.at_eof() else await self._stream.read(size)
        data, self._pushed_back = self._pushed_back[:size], self._pushed_back[size:]
        return data

    async def readline(self, **limits: int) -> bytes:
        line, newline, self._pushed_back = self._pushed_back.partition(b"\n")
        if newline or self._stream.at_eof():
            return line + newline
        return line + await self._stream.readline(**limits)

    def unread_data(self, data: bytes) -> None:
        self._pushed_back = data + self._pushed_back

    def at_eof(self) -> bool:
        return not self._pushed_back and self._stream.at_eof()
