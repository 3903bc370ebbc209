"""Responses to a client: without aiohttp's `Server` header, and with head and chunks as given.

aiohttp's own responses reveal its version and Python's, and add a Content-Type. They assemble the
head header by header, and take two coroutines and four calls for each chunk.
"""

from aiohttp import ClientConnectionResetError, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from rustygate.core.headers import HeaderLines, NamedLines, headers_in

# RFC 9112, 7.1: a chunk's length and data.
CHUNK = b"%x\r\n%b\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class HandshakeResponse(web.StreamResponse):
    """A response to a WebSocket handshake; `Server` is upstream's or missing."""

    async def _prepare_headers(self) -> None:
        is_named = hdrs.SERVER in self.headers
        await super()._prepare_headers()
        if not is_named:
            del self.headers[hdrs.SERVER]


class OwnResponse(HandshakeResponse, web.Response):
    """A response that the gate itself makes."""


class RawResponse(web.StreamResponse):
    """A response with the given headers, and those that a subclass adds in `complete_head`.

    With a body it is complete: `send` writes head and body at once. Without one, `prepare` starts
    the response, `write_chunk` writes a chunk (the first one together with the head), and
    `write_eof` ends it.

    Attributes:
        frames_chunks: whether each chunk is written with its length (RFC 9112, 7.1).
    """

    def __init__(
        self, status: int, reason: str | None, headers: NamedLines, body: bytes | None = None
    ) -> None:
        super().__init__(status=status, reason=reason)
        self._fields = headers
        self.complete_body = body
        self.frames_chunks = False
        # What is written before the next chunk.
        self._unsent_head = b""

    def complete_head(
        self, request: web.BaseRequest, headers: NamedLines
    ) -> tuple[HeaderLines, bool]:
        """Hook: returns the lines of all headers, those of this connection included, and whether
        it is kept alive."""
        raise NotImplementedError

    @property
    def headers(self) -> CIMultiDict[str]:
        """The headers before `complete_head`, for signal handlers that change them."""
        if not self._headers:
            self._headers.extend(headers_in(self._fields.lines))
        return self._headers

    async def send(self, request: web.BaseRequest) -> None:
        """Send a complete response."""
        assert self.complete_body is not None
        await self.prepare(request)
        await self.write_eof(b"" if self._must_be_empty_body else self.complete_body)

    def write_head(self) -> None:
        """Write the head without waiting for the first chunk. Raises ConnectionError."""
        self._write(b"")

    def write_chunk(self, chunk: bytes) -> None:
        """Write a chunk at once, however much is buffered already. Raises ConnectionError."""
        self._write(CHUNK % (len(chunk), chunk) if self.frames_chunks else chunk)

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the rest and the end; returns once the client has read enough of it."""
        if self._eof_sent:
            return
        if self.frames_chunks:
            data = CHUNK % (len(data), data) + LAST_CHUNK if data else LAST_CHUNK
        if data or self._unsent_head:
            self._write(data)
        await self._writer.drain()
        self._eof_sent = True
        self._req = self._payload_writer = None

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        # Called by `prepare`.
        self._req = request
        self._connection = request.protocol
        self._writer = self._payload_writer = request.writer
        await request._prepare_hook(self)
        headers = NamedLines.of(self._headers.items()) if self._headers else self._fields
        lines, self._keep_alive = self.complete_head(request, headers)
        major, minor = request.version
        status_line = f"HTTP/{major}.{minor} {self.status} {self.reason}\r\n"
        self._unsent_head = status_line.encode() + lines + b"\r\n"
        return self._writer

    def _write(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError
        if self._unsent_head:
            data, self._unsent_head = self._unsent_head + data, b""
        self._writer.output_size += len(data)
        transport.write(data)
