"""Upstream's answer on its way down: its head, then its body as it comes.

Bytes are passed as read, each read written at once, never decoded. An answer that is whole when
its head is sent goes out in one write. An idle event stream gets keepalives, at event boundaries
only. An answer that breaks off is never ended cleanly: the connection is aborted, so that a
client can always tell a whole answer from a cut one.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

from aiohttp import (
    ClientError,
    ClientOSError,
    HttpVersion11,
    ServerTimeoutError,
    hdrs,
    web,
)

from rustygate.config import Settings
from rustygate.core.headers import reason_phrase, response_headers
from rustygate.core.sse import KEEPALIVE, EventBoundary, error_event, is_event_stream
from rustygate.core.usage import Usage, UsageReader, may_contain_usage
from rustygate.downstream.response import PassthroughResponse
from rustygate.errors import UpstreamDisconnected, UpstreamFailure, UpstreamTimeout
from rustygate.exchange import Exchange
from rustygate.system.tls import socket_transport, unsent_bytes
from rustygate.upstream.pool import UpstreamResponse

# How long the head waits for the first byte of the body. A head that nothing follows can still
# become an error, which a client retries; once it is sent it can only be cut.
FIRST_BYTE_PATIENCE_S = 0.25

# How much of an error is read before it is decided what it means.
READ_AHEAD = 64 * 1024

# What is read ahead, and may wait for the client, of an answer that is no event stream: so much
# keeps a large one from pausing both sides at each read.
BULK_BUFFER = 128 * 1024

# How long a client may take to read what it is owed before its connection is aborted.
ABORT_PATIENCE_S = 5.0

# How often a connection by TLS is looked at that is to be aborted once it has sent its bytes.
TLS_LOOK_S = 0.02

# What reading from upstream raises; RuntimeError is aiohttp's word for a connection that is gone.
READ_ERRORS = (ClientError, RuntimeError)

# SO_LINGER switched on with no time: closing sends a reset.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Downstream:
    """Where an answer goes to; `early` is its event stream if that has begun before."""

    request: web.Request
    exchange: Exchange
    settings: Settings
    early: PassthroughResponse | None = None


async def read_ahead(answer: UpstreamResponse, settings: Settings) -> bytes:
    """An answer's body, if it is as short as an error's, else its beginning.

    Raises `UpstreamFailure` if it breaks off.
    """
    source, body = _Source(answer, settings), b""
    while len(body) <= READ_AHEAD and (chunk := await source.read()):
        body += chunk
    return body


async def pipe(
    downstream: Downstream, answer: UpstreamResponse, read: bytes | None = None
) -> web.StreamResponse:
    """Pass an answer on and stamp the exchange. `read` is what was read of its body before.

    Raises `UpstreamFailure` if the answer breaks off before anything went downstream. What
    breaks off later the client sees in its stream; this then returns all the same.
    """
    source = _Source(answer, downstream.settings)
    began = asyncio.get_running_loop().time()
    first = await source.first() if read is None else read
    if first is not None and source.ended and downstream.early is None and not answer.given_up:
        return await _send_whole(downstream, answer, first)
    return await _Stream(downstream, answer, source, began).run(first)


class _Source:
    """An answer's body, with aiohttp's exceptions told as what they mean."""

    def __init__(self, answer: UpstreamResponse, settings: Settings) -> None:
        self._answer = answer
        self._content = answer.content
        self._settings = settings
        # Only the connection's end tells the end of a body that has neither length nor chunks.
        headers = answer.headers
        marked = hdrs.CONTENT_LENGTH in headers or hdrs.TRANSFER_ENCODING in headers
        self._closing = None if marked else answer.wire

    @property
    def ended(self) -> bool:
        """Whether all of the body has been read."""
        return self._content.at_eof()

    async def first(self) -> bytes | None:
        """The first bytes, none if the body is empty; None if they take too long."""
        if self._content.total_bytes or self._content.is_eof():
            return await self.read()
        keepalive = self._settings.sse_keepalive_interval or FIRST_BYTE_PATIENCE_S
        try:
            async with asyncio.timeout(min(FIRST_BYTE_PATIENCE_S, keepalive)):
                return await self.read()
        except TimeoutError:
            return None

    async def read(self) -> bytes:
        """The next bytes as they came; none at the end. Raises `UpstreamFailure`."""
        try:
            chunk = await self._content.readany()
        except READ_ERRORS as error:
            raise self._failure(error) from error
        if not chunk:
            self.check_end()
        return chunk

    def read_nowait(self) -> bytes:
        """What has come; none if nothing has. Raises `UpstreamFailure`."""
        try:
            return self._content.read_nowait()
        except READ_ERRORS as error:
            raise self._failure(error) from error

    async def pump(self, sink: Callable[[bytes], bool]) -> None:
        """Hand to `sink` what comes, until the end, or until it says that it takes no more.

        What came before the body broke off is handed on too. Raises `UpstreamFailure`, or what
        the sink raises.
        """
        if self._content.is_eof():
            sink(self.read_nowait())
        elif self._answer.given_up:
            self.hand_rest(sink)
            raise _broken_off()
        else:
            await _Pump(self, self._answer, sink).run()

    def hand_rest(self, sink: Callable[[bytes], bool]) -> None:
        """Hand on what came of a body that broke off."""
        rest = self._answer.rest()
        if rest:
            sink(rest)

    def _failure(self, error: Exception) -> UpstreamFailure:
        """What one of `READ_ERRORS` means."""
        if isinstance(error, ServerTimeoutError):
            limit = self._settings.upstream_read_timeout
            return UpstreamTimeout(f"Upstream was silent for {limit:g} s.")
        return _broken_off()

    def check_end(self) -> None:
        """Raise `UpstreamFailure` if the end that was read was none."""
        lost = None if self._closing is None else self._closing.exception()
        if self._answer.given_up or isinstance(lost, ClientOSError):
            raise _broken_off()


class _Pump:
    """Hands a body on in the turn of the loop in which it comes.

    To wake a task for each read takes a turn more, and costs half as much again as to read it and
    to write it.
    """

    def __init__(
        self, source: _Source, answer: UpstreamResponse, sink: Callable[[bytes], bool]
    ) -> None:
        assert answer.wire is not None
        self._source = source
        self._wire = answer.wire
        self._sink = sink
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Run until the body ends, breaks off, or the sink takes no more."""
        self._wire.on_arrival = self._on_arrival
        try:
            self._on_arrival()
            await self._over
        finally:
            self._wire.on_arrival = None
            # It may hold an exception, and that this.
            del self._over

    def _on_arrival(self) -> None:
        if self._over.done():
            return
        try:
            more = self._hand_on()
        except Exception as error:
            self._over.set_exception(error)
        else:
            if not more:
                self._over.set_result(None)

    def _hand_on(self) -> bool:
        """Hand on what came; returns whether there may be more."""
        try:
            chunk = self._source.read_nowait()
        except UpstreamFailure:
            self._source.hand_rest(self._sink)
            raise
        return (not chunk or self._sink(chunk)) and not self._source.ended


async def _send_whole(
    downstream: Downstream, answer: UpstreamResponse, body: bytes
) -> web.StreamResponse:
    """Send an answer whose end has come: head and body in one write."""
    request, exchange = downstream.request, downstream.exchange
    response = _reply(answer, exchange, body)
    exchange.first_byte = monotonic_ns()
    exchange.bytes = len(body)
    reader = _usage_reader(answer)
    if reader is not None:
        reader.feed(body)
        _stamp_usage(exchange, reader.usage())
    await response.send(request)
    return response


class _Stream:
    """An answer whose end has not come yet, passed on as it comes."""

    def __init__(
        self, downstream: Downstream, answer: UpstreamResponse, source: _Source, began: float
    ) -> None:
        self._request = downstream.request
        self._exchange = downstream.exchange
        self._settings = downstream.settings
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._boundary = EventBoundary()
        self._usage = _usage_reader(answer)
        self._commentable = downstream.early is not None or _is_commentable(answer)
        self._capacity = self._settings.stream_capacity // 2
        if not is_event_stream(answer.headers.get(hdrs.CONTENT_TYPE)):
            self._capacity = max(self._capacity, BULK_BUFFER)
            answer.content.set_read_chunk_size(BULK_BUFFER)
        self._response = downstream.early or _reply(answer, self._exchange)
        # On the loop's clock: when bytes came last, at first the head's.
        self.passed_at = began

    @property
    def takes_comment(self) -> bool:
        """Whether a comment may go down now: between events, to a client that reads."""
        return bool(self._boundary) and not self._request.protocol.writing_paused

    def comment(self, comment: bytes) -> None:
        """Write what is no part of the answer."""
        self._response.put(comment)

    async def run(self, first: bytes | None) -> web.StreamResponse:
        """Send the head, then the body; `first` is what was read of it, None if nothing."""
        self._bound_buffer()
        if not self._response.prepared:
            await self._response.prepare(self._request)
        interval = self._settings.sse_keepalive_interval
        keepalive = _Keepalive(self, interval) if self._commentable and interval else None
        try:
            await self._pass_on(first)
        except UpstreamFailure as failure:
            await self._break_off(failure)
        else:
            await self._response.write_eof()
        finally:
            if keepalive is not None:
                keepalive.stop()
            if self._usage is not None:
                _stamp_usage(self._exchange, self._usage.usage())
        return self._response

    async def _pass_on(self, first: bytes | None) -> None:
        if first:
            self._pass(first)
        else:
            self._response.put_head()
        while not self._source.ended:
            await self._request.writer.drain()
            await self._source.pump(self._pass)
        self._source.check_end()

    def _pass(self, chunk: bytes) -> bool:
        """Pass bytes on; returns whether the client takes more."""
        exchange = self._exchange
        if exchange.first_byte is None:
            exchange.first_byte = monotonic_ns()
        exchange.bytes += len(chunk)
        self.passed_at = self._loop.time()
        self._boundary.feed(chunk)
        if self._usage is not None:
            self._usage.feed(chunk)
        self._response.put(chunk)
        return not self._request.protocol.writing_paused

    def _bound_buffer(self) -> None:
        """Hold half of what a stream may hold; the connection upstream reads ahead the other."""
        transport = self._request.transport
        if transport is not None:
            _bound_buffer(transport, self._capacity)

    async def _break_off(self, failure: UpstreamFailure) -> None:
        """Tell the client, if its stream has a place for that, and abort the connection."""
        self._exchange.outcome, self._exchange.reason = "aborted", failure.reason
        if self._commentable and self._boundary:
            self.comment(error_event(self._exchange.path, failure.error()))
        await cut(self._request)


class _Keepalive:
    """Writes a keepalive whenever a stream was idle for an interval, at an event boundary.

    One timer a stream, which looks at what passed since it was set, rather than one that each
    chunk would set anew.
    """

    def __init__(self, stream: _Stream, interval_s: float) -> None:
        self._stream = stream
        self._interval = interval_s
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_at(stream.passed_at + interval_s, self._wake)

    def stop(self) -> None:
        """Write no more."""
        self._timer.cancel()

    def _wake(self) -> None:
        # What came in the same turn of the loop was passed before this ran.
        now = self._loop.time()
        due = self._stream.passed_at + self._interval
        if due <= now:
            due = now + self._interval
            self._write()
        self._timer = self._loop.call_at(due, self._wake)

    def _write(self) -> None:
        if self._stream.takes_comment:
            with suppress(ConnectionError):
                self._stream.comment(KEEPALIVE)


async def cut(request: web.Request) -> None:
    """Abort a connection in the middle of an answer, after what was written has gone out."""
    transport = request.transport
    if transport is None:
        return
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(ABORT_PATIENCE_S):
            await _gone_out(request, transport)
    abort(request, transport)


def abort(request: web.Request, transport: asyncio.Transport) -> None:
    """Abort a connection so that a body cannot pass for a whole one.

    Where closing is what ends a body (HTTP/1.0), only a reset says that this is no end.
    """
    if request.version < HttpVersion11:
        with suppress(OSError):
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


async def _gone_out(request: web.Request, transport: asyncio.Transport) -> None:
    """Wait until what was written has left for the kernel."""
    if socket_transport(transport) is transport:
        transport.set_write_buffer_limits(high=0)
        await request.writer.drain()
        return
    # TLS tells when it has handed its bytes down; of these nobody tells when they have gone.
    while unsent_bytes(transport):  # noqa: ASYNC110
        await asyncio.sleep(TLS_LOOK_S)


def _bound_buffer(transport: asyncio.Transport, size: int) -> None:
    """Have writing pause beyond so many bytes. With TLS two transports hold some of them."""
    below = socket_transport(transport)
    if below is not transport:
        # TLS would take no bytes for too many.
        size = max(1, size // 2)
        below.set_write_buffer_limits(high=size)
    transport.set_write_buffer_limits(high=size)


def _reply(
    answer: UpstreamResponse, exchange: Exchange, body: bytes | None = None
) -> PassthroughResponse:
    """A response with upstream's status and headers, and what the gate tells of itself."""
    headers = response_headers(answer.raw_headers) + exchange.headers()
    exchange.status = answer.status
    return PassthroughResponse(answer.status, reason_phrase(answer.reason), headers, body)


async def break_off(downstream: Downstream, error: Mapping[str, Any]) -> web.StreamResponse:
    """End an event stream that has begun early with an error, OpenAI's object, and abort it."""
    assert downstream.early is not None
    downstream.early.put(error_event(downstream.exchange.path, error))
    await cut(downstream.request)
    return downstream.early


def is_plain_event_stream(answer: UpstreamResponse) -> bool:
    """Whether it is a good answer that can go on in an event stream that has begun."""
    if not answer.ok or hdrs.CONTENT_ENCODING in answer.headers:
        return False
    return is_event_stream(answer.headers.get(hdrs.CONTENT_TYPE))


def _is_commentable(answer: UpstreamResponse) -> bool:
    """Whether it is an event stream to which something may be added: neither encoded nor of a
    promised length."""
    headers = answer.headers
    if hdrs.CONTENT_ENCODING in headers or hdrs.CONTENT_LENGTH in headers:
        return False
    return is_event_stream(headers.get(hdrs.CONTENT_TYPE))


def _usage_reader(answer: UpstreamResponse) -> UsageReader | None:
    headers = answer.headers
    if not may_contain_usage(headers.get(hdrs.CONTENT_TYPE, "")):
        return None
    return UsageReader(headers.get(hdrs.CONTENT_ENCODING, ""))


def _stamp_usage(exchange: Exchange, usage: Usage | None) -> None:
    if usage is not None:
        exchange.tokens_in, exchange.tokens_out = usage.tokens_in, usage.tokens_out


def _broken_off() -> UpstreamDisconnected:
    return UpstreamDisconnected("Upstream's answer broke off.", begun=True)
