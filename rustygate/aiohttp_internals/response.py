"""Responses to a client: without aiohttp's `Server`, and with a head and chunks as given.

aiohttp's own tell its version and Python's, invent a Content-Type, and take two coroutines and
four calls for each chunk.
"""

from typing import cast

from aiohttp import ClientConnectionResetError, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter

from rustygate.core.headers import Headers


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
    """A response with the given headers, and those that a subclass adds in `add_headers`.

    With a body it is complete: `send` writes head and body at once. Without one, `prepare` starts
    the response, `write_chunk` writes a chunk (the first one together with the head), and
    `write_eof` ends it.
    """

    def __init__(
        self, status: int, reason: str | None, headers: Headers, body: bytes | None = None
    ) -> None:
        super().__init__(status=status, reason=reason, headers=headers)
        self.complete_body = body
        self._writer: StreamWriter

    def add_headers(self, request: web.BaseRequest, writer: StreamWriter) -> bool:
        """A hook: add the headers of this connection; returns whether it is kept alive."""
        raise NotImplementedError

    async def send(self, request: web.BaseRequest) -> None:
        """Send a complete response."""
        assert self.complete_body is not None
        await self.prepare(request)
        await self.write_eof(b"" if self._must_be_empty_body else self.complete_body)

    def write_head(self) -> None:
        """Write the head without waiting for the first chunk. Raises ConnectionError."""
        self._writer.send_headers()

    def write_chunk(self, chunk: bytes) -> None:
        """Write a chunk at once, however much is buffered already. Raises ConnectionError."""
        writer = self._writer
        if writer._headers_buf is not None:
            writer._send_headers_with_payload(chunk, is_eof=False)
            return
        transport = writer.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError
        if writer.chunked:
            chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)
        writer.output_size += len(chunk)
        transport.write(chunk)

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        # Called by `prepare`.
        self._req = request
        writer = self._payload_writer = self._writer = cast(StreamWriter, request.writer)
        await request._prepare_hook(self)
        self._keep_alive = self.add_headers(request, writer)
        major, minor = request.version
        status_line = f"HTTP/{major}.{minor} {self.status} {self.reason}"
        await writer.write_headers(status_line, self.headers)
        return writer
