"""A response to a client with the headers of the response that it passes on."""

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.helpers import must_be_empty_body, rfc822_formatted_time, should_remove_content_length
from aiohttp.http import StreamWriter

from rustygate.aiohttp_internals.response import RawResponse


class PassthroughResponse(RawResponse):
    """A response with just these headers, `Date`, and its framing (RFC 9112, 6)."""

    def add_headers(self, request: web.BaseRequest, writer: StreamWriter) -> bool:
        headers, version = self.headers, request.version
        keep_alive = request.keep_alive if self.keep_alive is None else self.keep_alive
        if must_be_empty_body(request.method, self.status):
            if should_remove_content_length(request.method, self.status):
                headers.popall(hdrs.CONTENT_LENGTH, None)
        elif hdrs.CONTENT_LENGTH not in headers:
            if version >= HttpVersion11:
                writer.enable_chunking()
                headers[hdrs.TRANSFER_ENCODING] = "chunked"
            elif self.complete_body is not None:
                headers[hdrs.CONTENT_LENGTH] = str(len(self.complete_body))
            else:
                keep_alive = False
        if hdrs.DATE not in headers:
            headers[hdrs.DATE] = rfc822_formatted_time()
        if not keep_alive:
            headers[hdrs.CONNECTION] = "close"
        elif version == HttpVersion10:
            headers[hdrs.CONNECTION] = "keep-alive"
        return bool(keep_alive)
