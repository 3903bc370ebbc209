"""Upstream's response: its head, and its body as it arrives."""

import asyncio

from aiohttp import StreamReader
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage

from rustygate.aiohttp_internals.client import (
    UpstreamConnection,
    connection_of,
    drop_eof_callbacks,
    take_buffered,
)
from rustygate.core.headers import HeaderLines, NamedLines, response_headers
from rustygate.core.location import LocationMap

# Statuses below are of successful responses and redirects.
FIRST_ERROR_STATUS = 400


class UpstreamResponse:
    """Upstream's response. `request_headers` are the lines of those of its request.

    At the end of the body its connection goes back to the pool; `close` closes the connection
    before that. `closed_early`: it was closed before the end of its body. `read_timeout_s`: how
    long upstream may be silent.
    """

    __slots__ = (
        "_locations", "_message", "_pooled", "_upload", "closed_early", "content", "headers",
        "read_timeout_s", "reason", "request_headers", "status",
    )  # fmt: skip

    def __init__(
        self,
        pooled: Connection,
        message: RawResponseMessage,
        content: StreamReader,
        request_headers: HeaderLines,
        upload: asyncio.Task[None] | None,
        locations: LocationMap,
        read_timeout_s: float,
    ) -> None:
        self._pooled: Connection | None = pooled
        self._message = message
        self._locations = locations
        self.read_timeout_s = read_timeout_s
        self.status: int = message.code
        self.reason: str | None = message.reason
        self.headers = message.headers
        self.content = content
        self.request_headers = request_headers
        self._upload = upload
        self.closed_early = False
        content.on_eof(self._release)

    def __repr__(self) -> str:
        return f"<UpstreamResponse {self.status}>"

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < FIRST_ERROR_STATUS

    @property
    def successful(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def request_is_sent(self) -> bool:
        """Whether upstream has taken the whole request."""
        return self._upload is None or self._upload.done()

    @property
    def connection(self) -> UpstreamConnection | None:
        """The connection, until it goes back to the pool or is closed."""
        return None if self._pooled is None else connection_of(self._pooled)

    def forwarded_headers(self) -> NamedLines:
        """The headers that go downstream."""
        return response_headers(self._message.raw_headers, self._locations)

    def take_buffered(self) -> bytes:
        """What arrived of the body before upstream cut it."""
        return take_buffered(self.content)

    def close(self) -> None:
        """Close the connection, unless it went back to the pool."""
        if self._upload is not None:
            self._upload.cancel()
        if self._pooled is not None:
            self._pooled.close()
            self._pooled = None
        if not self.content.is_eof():
            self.closed_early = True
            drop_eof_callbacks(self.content)

    def _release(self) -> None:
        pooled = self._pooled
        if pooled is None or connection_of(pooled).upgraded:
            return
        if self._upload is not None and not self._upload.done():
            # Upstream responded without reading the whole request.
            self.close()
        else:
            pooled.release()
            self._pooled = None
