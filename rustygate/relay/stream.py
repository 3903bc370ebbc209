"""A response that is passed on while upstream is still sending it.

Each read is written at once, unchanged and never decoded. The bytes of the body are counted in
`Stream._pass`. An event stream that is cut, by upstream or by the end of DRAIN_TIMEOUT, gets an
error event if it is between two events; then the client's connection is aborted.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic_ns

from aiohttp import hdrs, web

from rustygate.aiohttp_internals.server import free_head
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.content_coding import codings_of
from rustygate.core.headers import NamedLines, reason_phrase
from rustygate.core.response_observer import BATCH_BYTES
from rustygate.core.sse import error_event, is_event_stream
from rustygate.downstream.response import PassthroughResponse
from rustygate.errors import Draining, Refusal, UpstreamFailure
from rustygate.exchange import Exchange
from rustygate.relay.abort import flush_and_abort
from rustygate.relay.keepalive import Keepalive
from rustygate.relay.observation import observe, stamp_body
from rustygate.relay.source import Source
from rustygate.system.lockstep import Lockstep
from rustygate.system.tls import socket_transport
from rustygate.upstream.response import UpstreamResponse

# How much of a body that is not an event stream is read ahead, and may wait for the client. With
# less, a large body would pause both sides at each read.
BULK_BUFFER = 128 * 1024

# How long a client may take to read the error event of a stream for which DRAIN_TIMEOUT is over.
DRAIN_FLUSH_TIMEOUT_S = 1.0


@dataclass(slots=True)
class Downstream:
    """The client's side of an exchange.

    Args:
        started: the event stream that the queue keepalive has started, if it has.
    """

    request: web.Request
    exchange: Exchange
    settings: Settings
    lockstep: Lockstep
    started: PassthroughResponse | None = None


class Stream:
    """Passes on a response whose end has not arrived yet."""

    def __init__(
        self,
        downstream: Downstream,
        upstream_response: UpstreamResponse,
        source: Source,
    ) -> None:
        self._request = downstream.request
        self._connection = downstream.request.protocol
        self._exchange = downstream.exchange
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._upstream_response = upstream_response
        self._observer = observe(upstream_response, downstream.exchange)
        self._scan_at = BATCH_BYTES
        self._takes_events = downstream.started is not None or _takes_events(upstream_response)
        self._buffer_size = downstream.settings.stream_capacity // 2
        if not is_event_stream(upstream_response.headers.get(hdrs.CONTENT_TYPE)):
            self._buffer_size = max(self._buffer_size, BULK_BUFFER)
            upstream_response.content.set_read_chunk_size(BULK_BUFFER)
        self._response = downstream.started or passthrough_response(
            upstream_response, self._exchange
        )
        self._keepalive: Keepalive | None = None
        interval_s = downstream.settings.sse_keepalive_interval
        if self._takes_events and interval_s:
            assert self._observer is not None
            assert self._exchange.responded is not None
            since_head = (monotonic_ns() - self._exchange.responded) / SECOND
            head_arrived = self._loop.time() - since_head
            self._keepalive = Keepalive(
                self._request, self._response, self._observer, interval_s, head_arrived
            )

    async def run(self, body_start: bytes | None) -> web.StreamResponse:
        """Send the head and the body; `body_start` is what was read of the body, if anything."""
        free_head(self._request)
        self._limit_write_buffer()
        if not self._response.prepared:
            await self._response.prepare(self._request)
        if self._keepalive is not None:
            self._keepalive.start()
        try:
            await self._send(body_start)
            await self._response.write_eof()
        except UpstreamFailure as failure:
            await self._cut(failure)
        except asyncio.CancelledError:
            await self._cancel()
            raise
        except ConnectionError:
            if not self._note_end():
                self._exchange.outcome = "client_left"
            raise
        finally:
            if self._keepalive is not None:
                self._keepalive.stop()
            stamp_body(self._exchange, self._upstream_response, self._observer)
        return self._response

    async def _send(self, body_start: bytes | None) -> None:
        if body_start:
            self._pass(body_start)
        else:
            self._response.write_head()
        while not self._source.ended:
            await self._request.writer.drain()
            await self._source.pump(self._pass)
        self._source.check_end()

    def _pass(self, chunk: bytes) -> bool:
        """Pass bytes on and count them; returns whether the client takes more."""
        exchange = self._exchange
        if exchange.first_byte is None:
            exchange.first_byte = monotonic_ns()
        self._response.write_chunk(chunk)
        exchange.bytes += len(chunk)
        if self._keepalive is not None:
            self._keepalive.idle_since = self._loop.time()
        if self._observer is not None:
            self._observer.pending.append(chunk)
            if exchange.bytes >= self._scan_at:
                self._observer.scan()
                self._scan_at = exchange.bytes + BATCH_BYTES
        return not self._connection.writing_paused

    def _limit_write_buffer(self) -> None:
        """Buffer half of what a stream may hold; the upstream connection reads ahead the rest."""
        transport = self._request.transport
        if transport is not None:
            _limit_write_buffer(transport, self._buffer_size)

    async def _cut(self, failure: UpstreamFailure) -> None:
        """End a stream that upstream has cut."""
        if not self._note_end():
            self._exchange.outcome, self._exchange.reason = "aborted", failure.reason
            self._write_error(failure)
        await flush_and_abort(self._request)

    async def _cancel(self) -> None:
        """End a stream whose client has left, or for which DRAIN_TIMEOUT is over."""
        if self._note_end():
            return
        if self._request.transport is None:
            self._exchange.outcome = "client_left"
            return
        self._exchange.outcome, self._exchange.reason = "aborted", Draining.reason
        with suppress(ConnectionError):
            if self._write_error(Draining()):
                await flush_and_abort(self._request, DRAIN_FLUSH_TIMEOUT_S)

    def _note_end(self) -> bool:
        """Whether the stream's final event was written: the client has the whole response."""
        end = None if self._observer is None else self._observer.end
        if end is not None and end.error is None and self._upstream_response.ok:
            self._exchange.outcome = "ok"
        return end is not None

    def _write_error(self, refusal: Refusal) -> bool:
        """Write an error event, if the stream is between two events; returns whether it is."""
        if not self._takes_events or self._observer is None or not self._observer.at_boundary:
            return False
        self._response.write_chunk(error_event(self._exchange.path, refusal.error()))
        return True


def passthrough_response(
    upstream_response: UpstreamResponse, exchange: Exchange, body: bytes | None = None
) -> PassthroughResponse:
    """A response with upstream's status and headers, and the gate's own headers."""
    lines, names = upstream_response.forwarded_headers()
    headers = NamedLines(lines + exchange.header_lines(), names)
    exchange.status = upstream_response.status
    reason = reason_phrase(upstream_response.reason)
    return PassthroughResponse(upstream_response.status, reason, headers, body)


def _takes_events(response: UpstreamResponse) -> bool:
    """Whether the gate may add to a response: to an event stream that is neither compressed nor
    of a declared length."""
    headers = response.headers
    if hdrs.CONTENT_LENGTH in headers or codings_of(headers):
        return False
    return is_event_stream(headers.get(hdrs.CONTENT_TYPE))


def _limit_write_buffer(transport: asyncio.Transport, size: int) -> None:
    """Pause writing beyond this many bytes. With TLS, two transports hold a part each."""
    below = socket_transport(transport)
    if below is not transport:
        # With a limit of 0, asyncio's TLS would treat an empty buffer as full.
        size = max(1, size // 2)
        below.set_write_buffer_limits(high=size)
    transport.set_write_buffer_limits(high=size)
