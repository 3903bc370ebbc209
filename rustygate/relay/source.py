"""The body of upstream's response, as it is read.

aiohttp's exceptions become refusals here, and `Source.pump` hands on each read without waking a
task.
"""

import asyncio
from collections.abc import Callable

from aiohttp import ClientError, ClientOSError, ServerTimeoutError, hdrs

from rustygate.config import Settings
from rustygate.errors import UpstreamDisconnected, UpstreamFailure, UpstreamTimeout
from rustygate.upstream.response import UpstreamResponse

# How long the response head waits for the first byte of the body. Until the head is sent, a
# failure can still become an error response, which a client retries; afterwards the stream can
# only be cut.
FIRST_BYTE_TIMEOUT_S = 0.25

# How much of an error's body is read before the error is judged.
READ_AHEAD = 64 * 1024

# What reading from upstream raises; aiohttp raises RuntimeError for a connection that is gone.
READ_ERRORS = (ClientError, RuntimeError)


async def read_ahead(response: UpstreamResponse, settings: Settings) -> bytes:
    """The whole body if it is no longer than `READ_AHEAD`, otherwise the start of it.

    Raises `UpstreamFailure` if upstream cuts the body.
    """
    source, body = Source(response, settings), b""
    while len(body) <= READ_AHEAD and (chunk := await source.read()):
        body += chunk
    return body


class Source:
    """A response's body, to be read or pumped."""

    def __init__(self, response: UpstreamResponse, settings: Settings) -> None:
        self._response = response
        self._content = response.content
        self._settings = settings
        # A body with neither a length nor chunks ends where the connection does.
        headers = response.headers
        framed = hdrs.CONTENT_LENGTH in headers or hdrs.TRANSFER_ENCODING in headers
        self._ends_with = None if framed else response.connection

    @property
    def ended(self) -> bool:
        """Whether all of the body has been read."""
        return self._content.at_eof()

    async def read_first(self) -> bytes | None:
        """The first bytes, empty if the body is; None if they take too long."""
        if self._content.total_bytes or self._content.is_eof():
            return await self.read()
        keepalive = self._settings.sse_keepalive_interval or FIRST_BYTE_TIMEOUT_S
        try:
            async with asyncio.timeout(min(FIRST_BYTE_TIMEOUT_S, keepalive)):
                return await self.read()
        except TimeoutError:
            return None

    async def read(self) -> bytes:
        """The next bytes as they arrived; empty at the end. Raises `UpstreamFailure`."""
        try:
            chunk = await self._content.readany()
        except READ_ERRORS as error:
            raise self._failure(error) from error
        if not chunk:
            self.check_end()
        return chunk

    def read_nowait(self) -> bytes:
        """What has arrived; empty if nothing has. Raises `UpstreamFailure`."""
        try:
            return self._content.read_nowait()
        except READ_ERRORS as error:
            raise self._failure(error) from error

    async def pump(self, sink: Callable[[bytes], bool]) -> None:
        """Pass what arrives to `sink` until the body ends or `sink` returns False.

        Bytes that arrived before upstream cut the body are passed too. Raises `UpstreamFailure`,
        or what `sink` raises.
        """
        if self._content.is_eof():
            sink(self.read_nowait())
        elif self._response.closed_early:
            self.pass_buffered(sink)
            raise cut_by_upstream()
        else:
            await _Pump(self, self._response, sink).run()

    def pass_buffered(self, sink: Callable[[bytes], bool]) -> None:
        """Pass on what arrived of a body that upstream cut."""
        buffered = self._response.take_buffered()
        if buffered:
            sink(buffered)

    def check_end(self) -> None:
        """Raise `UpstreamFailure` if the body was cut rather than ended."""
        lost = None if self._ends_with is None else self._ends_with.exception()
        if self._response.closed_early or isinstance(lost, ClientOSError):
            raise cut_by_upstream()

    def _failure(self, error: Exception) -> UpstreamFailure:
        """The refusal for one of `READ_ERRORS`."""
        if isinstance(error, ServerTimeoutError):
            return UpstreamTimeout(self._response.read_timeout_s)
        return cut_by_upstream()


def cut_by_upstream() -> UpstreamDisconnected:
    """The failure of a response that upstream did not finish."""
    return UpstreamDisconnected("Upstream closed the connection mid-response.", started=True)


class _Pump:
    """Passes a body on in the turn of the event loop in which it arrives.

    Waking a task for each read takes one more turn, and costs half as much again as the read and
    the write.
    """

    def __init__(
        self, source: Source, response: UpstreamResponse, sink: Callable[[bytes], bool]
    ) -> None:
        assert response.connection is not None
        self._source = source
        self._connection = response.connection
        self._content = response.content
        self._sink = sink
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Run until the body ends, upstream cuts it, or the sink is full."""
        self._connection.on_data = self._on_data
        try:
            self._on_data()
            await self._done
        finally:
            self._connection.on_data = None
            # The future may hold an exception whose traceback refers to this pump.
            del self._done

    def _on_data(self) -> None:
        if self._done.done():
            return
        try:
            more = self._pass_on()
        except Exception as error:
            self._done.set_exception(error)
        else:
            if not more:
                self._done.set_result(None)

    def _pass_on(self) -> bool:
        """Pass on what arrived; returns whether to go on."""
        try:
            chunk = self._source.read_nowait()
        except UpstreamFailure:
            self._source.pass_buffered(self._sink)
            raise
        return (not chunk or self._sink(chunk)) and not self._content.at_eof()
