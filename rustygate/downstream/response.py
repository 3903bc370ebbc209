"""A response to a client with the headers of the response that it passes on."""

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.helpers import must_be_empty_body, rfc822_formatted_time, should_remove_content_length

from rustygate.aiohttp_internals.response import RawResponse
from rustygate.aiohttp_internals.server import ServerConnection
from rustygate.core.headers import HeaderLines, NamedLines, header_lines, lines_without


class PassthroughResponse(RawResponse):
    """A response with just these headers, `Date`, and its framing (RFC 9112, 6)."""

    def complete_head(
        self, request: web.BaseRequest, headers: NamedLines
    ) -> tuple[HeaderLines, bool]:
        lines, names = headers
        keep_alive = request.keep_alive if self.keep_alive is None else self.keep_alive
        connection = request.protocol
        if isinstance(connection, ServerConnection) and connection.is_draining:
            keep_alive = keep_alive and connection.has_more_requests
        if must_be_empty_body(request.method, self.status):
            if should_remove_content_length(request.method, self.status):
                lines = lines_without(lines, {"content-length"})
        elif "content-length" not in names:
            if request.version >= HttpVersion11:
                self.frames_chunks = True
                lines += b"Transfer-Encoding: chunked\r\n"
            elif self.complete_body is not None:
                lines += b"Content-Length: %d\r\n" % len(self.complete_body)
            else:
                keep_alive = False
        if "date" not in names:
            lines += header_lines([("Date", rfc822_formatted_time())])
        if not keep_alive:
            lines += b"Connection: close\r\n"
        elif request.version == HttpVersion10:
            lines += b"Connection: keep-alive\r\n"
        return lines, bool(keep_alive)
