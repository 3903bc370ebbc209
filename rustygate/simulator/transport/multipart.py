"""Multipart forms, read as they come and never held whole (RFC 7578).

Files go to an `UploadedFile`, piece by piece; text fields are kept, within bounds. Names are
nested as OpenAI's SDKs nest them: `image[]` is one of a list, `expires_after[seconds]` a field of
a field.
"""

import re
from collections.abc import Callable
from typing import Any, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.storage.file_store import UploadedFile
from rustygate.simulator.transport.parsing import Shape, convert

# Bytes of a form's text fields together; OpenAI's longest field is a prompt of 32,000 characters.
MOST_TEXT = 1024 * 1024
MOST_PARTS = 1000

# Bytes of a part that are read at a time.
_PIECE = 64 * 1024

_NAME = re.compile(r"([\w.-]+)(?:\[([\w.-]*)\])?", re.ASCII)

MakeFile = Callable[[str], UploadedFile]


async def read_form(
    request: web.Request, shape: type[Shape], make_file: MakeFile = UploadedFile
) -> Shape:
    """Read a form. `make_file` makes what each file goes to, of its name.

    Raises:
        ApiError: it is malformed, or not of the shape; status 400.
    """
    form = _Form(make_file)
    try:
        await form.read(request)
        return convert(form.fields, shape)
    except _MALFORMED as error:
        message = f"The form in the body of your request is malformed: {error}."
        raise ApiError(Failure(400, message)) from error


# What aiohttp's reader raises, by and by, at a form that is none. `RequestPayloadError` and
# `HttpProcessingError` are of the body around the form: bad chunks, or a wrong encoding.
_MALFORMED = (
    ValueError,
    AssertionError,
    RuntimeError,
    HttpProcessingError,
    web.RequestPayloadError,
)


class _Form:
    """A form that is being read."""

    def __init__(self, make_file: MakeFile) -> None:
        self.fields: dict[str, Any] = {}
        self._make_file = make_file
        self._parts = 0
        self._text = 0

    async def read(self, request: web.Request) -> None:
        if request.content_type != "multipart/form-data":
            raise ValueError(f"it is {request.content_type}, not multipart/form-data")
        # As `request.multipart()` does, but for the source.
        source = cast(StreamReader, _Source(request.content))
        async for part in MultipartReader(request.headers, source):
            self._parts += 1
            if self._parts > MOST_PARTS:
                raise ValueError(f"it has more than {MOST_PARTS} parts")
            if not isinstance(part, BodyPartReader):
                raise ValueError("a part of it is a form itself")
            await self._read_part(part)

    async def _read_part(self, part: BodyPartReader) -> None:
        value = await self._read_file(part) if part.filename else await self._read_text(part)
        self._add(part.name or "", value)

    async def _read_file(self, part: BodyPartReader) -> UploadedFile:
        # A name that is not UTF-8 comes with lone surrogates.
        name = (part.filename or "").encode(errors="replace").decode()
        file = self._make_file(name)
        while data := await part.read_chunk(_PIECE):
            file.write(data)
        return file

    async def _read_text(self, part: BodyPartReader) -> str:
        text = b""
        while data := await part.read_chunk(_PIECE):
            text += data
            self._text += len(data)
            if self._text > MOST_TEXT:
                raise ValueError(f"its text fields have more than {MOST_TEXT} bytes")
        return text.decode()

    def _add(self, name: str, value: object) -> None:
        nested = _NAME.fullmatch(name)
        if nested is None:
            raise ValueError(f"a part of it is called {name!a}")
        field, key = nested.groups()
        if key:
            self.fields[field] = {**_fields(self.fields.get(field)), key: value}
        elif key is None and field not in self.fields:
            self.fields[field] = value
        else:
            self.fields[field] = [*_listed(self.fields.get(field, [])), value]


def _fields(value: object) -> dict[str, object]:
    if value is not None and not isinstance(value, dict):
        raise ValueError("a part of it is a field, and has fields")
    return value or {}


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


class _Source:
    """A body as aiohttp's multipart reader reads it.

    aiohttp's own stream warns of `unread_data`, which aiohttp's own reader cannot do without, and
    then of being read again at its end. Here what is put back waits ahead of the stream.
    """

    def __init__(self, stream: StreamReader) -> None:
        self._stream = stream
        self._ahead = b""

    async def read(self, size: int) -> bytes:
        if not self._ahead:
            return b"" if self._stream.at_eof() else await self._stream.read(size)
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    async def readline(self, **limits: int) -> bytes:
        line, newline, self._ahead = self._ahead.partition(b"\n")
        if newline or self._stream.at_eof():
            return line + newline
        return line + await self._stream.readline(**limits)

    def unread_data(self, data: bytes) -> None:
        self._ahead = data + self._ahead

    def at_eof(self) -> bool:
        return not self._ahead and self._stream.at_eof()
