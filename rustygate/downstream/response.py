"""A response downstream whose head and chunks are written as they cross the gate.

aiohttp's own invents a Content-Type, and takes two coroutines and four calls for each chunk.
"""

from typing import cast

from aiohttp import ClientConnectionResetError, HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import must_be_empty_body, rfc822_formatted_time, should_remove_content_length
from aiohttp.http import SERVER_SOFTWARE, StreamWriter

from rustygate.core.headers import Headers


class PassthroughResponse(web.StreamResponse):
    """A response with just these headers, `Date`, `Server`, and what frames it (RFC 9112, 6).

    With a body it is whole: `send` writes head and body at once. Without, `prepare` begins it,
    `put` writes a chunk, the first one with the head, and `write_eof` the end.
    """

    def __init__(
        self, status: int, reason: str | None, headers: Headers, body: bytes | None = None
    ) -> None:
        super().__init__(status=status, reason=reason, headers=headers)
        self._whole = body
        self._writer: StreamWriter

    async def send(self, request: web.BaseRequest) -> None:
        """Send a whole response."""
        assert self._whole is not None
        await self.prepare(request)
        await self.write_eof(b"" if self._must_be_empty_body else self._whole)

    def put_head(self) -> None:
        """Write the head, for a body that is still to come. Raises ConnectionError."""
        self._writer.send_headers()

    def put(self, chunk: bytes) -> None:
        """Write a chunk at once, however much waits already. Raises ConnectionError."""
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
        self._frame(request, writer)
        major, minor = request.version
        status_line = f"HTTP/{major}.{minor} {self._status} {self._reason}"
        await writer.write_headers(status_line, self._headers)
        return writer

    def _frame(self, request: web.BaseRequest, writer: StreamWriter) -> None:
        """Add the headers that are this hop's own."""
        headers, version = self._headers, request.version
        keep_alive = request.keep_alive if self._keep_alive is None else self._keep_alive
        if must_be_empty_body(request.method, self._status):
            if should_remove_content_length(request.method, self._status):
                headers.popall(hdrs.CONTENT_LENGTH, None)
        elif hdrs.CONTENT_LENGTH not in headers:
            if version >= HttpVersion11:
                writer.enable_chunking()
                headers[hdrs.TRANSFER_ENCODING] = "chunked"
            elif self._whole is not None:
                headers[hdrs.CONTENT_LENGTH] = str(len(self._whole))
            else:
                keep_alive = False
        if hdrs.DATE not in headers:
            headers[hdrs.DATE] = rfc822_formatted_time()
        headers.setdefault(hdrs.SERVER, SERVER_SOFTWARE)
        if not keep_alive:
            headers[hdrs.CONNECTION] = "close"
        elif version == HttpVersion10:
            headers[hdrs.CONNECTION] = "keep-alive"
        self._keep_alive = keep_alive
