"""The client side of aiohttp: connections to upstream, what makes them, and reading a body."""

import asyncio
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, cast

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientHttpProxyError,
    ClientPayloadError,
    ClientRequest,
    StreamReader,
    TCPConnector,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError

from rustygate.core.headers import HEAD_END
from rustygate.core.own_connections import OwnConnections
from rustygate.core.websocket_handshake import SWITCHING_PROTOCOLS
from rustygate.system.lockstep import Lockstep
from rustygate.system.tcp import unacknowledged_bytes, unread_data
from rustygate.system.tls import abort, unsent_bytes

# Statuses below are of interim responses (RFC 9110, 15.2).
FIRST_FINAL_STATUS = 200


class UpstreamConnection(ResponseHandler):
    """A connection to upstream that fills seven gaps of aiohttp 3.14.

    - It notifies the reader of a body when more of it arrives or its framing breaks. aiohttp
      notifies only a reader of a head; the reader of a body would wait forever.
    - It keeps no unsent data once it is closed. aiohttp leaves a connection open while upstream
      does not read what was written.
    - It knows whether a response has started. aiohttp reports a cut head only after a close, not
      after a reset, and only without an earlier interim response (RFC 9110, 15.2); after one it
      waits forever.
    - It knows whether upstream closed it before receiving any of a request. aiohttp only knows
      that it was closed.
    - It measures upstream's silence with one timer, which compares its deadline with the time of
      the last read. aiohttp sets a new timer for each read.
    - It keeps a complete response if what follows is not HTTP, such as the body of a 204 (RFC
      9112, 6.3). aiohttp drops the head if both arrive in one read.
    - It reads what upstream sent before a reset. A write that meets the reset closes asyncio's
      transport without reading.
    """

    # The number of requests sent, and whether bytes of a response to the latest have arrived.
    request_count = 0
    response_started = False
    # The length of the latest request's first write, whether more was written, and whether
    # upstream closed the connection before it received any of it.
    first_write = 0
    wrote_more = False
    closed_unread = False
    # Called when more of a body, or its end, has arrived; never from within a read.
    on_data: Callable[[], None] | None = None
    _request_sent = False
    # Whether a head begins with the next read; the first read of one, until it is complete.
    _at_head = False
    _start = b""
    # Whether the parser expects responses without bodies, as to HEAD. None without a parser.
    _skips_bodies: bool | None = None
    _parser_options: Mapping[str, Any]
    # On the loop's clock; None while the clock is stopped.
    _silent_since: float | None = None
    # Whether the parser was ever paused, and so may hold data back.
    _was_paused = False

    def __init__(
        self, loop: Any, *, single_use: bool, own: OwnConnections, lockstep: Lockstep
    ) -> None:
        """`single_use`: the connection closes after its first response. `own`: those that are
        open."""
        super().__init__(loop)
        self._lockstep = lockstep
        self.single_use = single_use
        self._own = own
        self._ends: tuple[Any, Any] = (None, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._ends = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self._own.add(*self._ends)

    def start_request(
        self, parser_options: Mapping[str, Any], read_timeout_s: float, *, skip_body: bool
    ) -> None:
        """Prepare for the response to the next request. The last parser is reused if it fits."""
        self.request_count += 1
        self.response_started = self._request_sent = False
        self._at_head = True
        self.wrote_more = self.closed_unread = False
        self.first_write = 0
        # The end of the last response, or data after it, may have restarted the clock.
        self._silent_since = None
        if self._skips_bodies is not skip_body:
            self._skips_bodies, self._parser_options = skip_body, parser_options
            self.set_response_params(skip_payload=skip_body, **parser_options)
        if self._read_timeout != read_timeout_s:
            self._read_timeout = read_timeout_s
            # The timer of a longer timeout would be too late for this one.
            self._cancel_timer()

    def is_reusable(self) -> bool:
        """Whether no unrequested data has arrived that would pass for the next response, or for
        the start of one."""
        if not self.request_count:
            return True
        if self.should_close or self._parser is None:
            return False
        # Empty lines complete a partial head. Before a head the parser ignores them.
        try:
            messages, _, _ = self._parser.feed_data(b"\r\n\r\n")
        except HttpProcessingError:
            return False
        return not messages

    def start_timeout(self) -> None:
        # Called when the whole request has been sent.
        self._request_sent = True
        super().start_timeout()

    def data_received(self, data: bytes) -> None:
        # A reader that resumes passes no data, perhaps at the end of the previous response.
        if not data:
            super().data_received(data)
            return
        self._start = data if self._at_head else b""
        self._at_head, self.response_started = False, True
        awaits_head = self._waiter is not None
        super().data_received(data)
        if awaits_head and self._waiter is None:
            self._start = b""
            self._lockstep.expect(self)
        if self.on_data is not None:
            self.on_data()

    def _parse_head_alone(self, start: bytes) -> None:
        """Parse a response's head once more, and then what arrived with it."""
        end = start.find(HEAD_END) + len(HEAD_END)
        # Without a parser of its own, the connection waits for a proxy's response to CONNECT.
        if end < len(HEAD_END) or self._skips_bodies is None:
            return
        self.set_response_params(skip_payload=self._skips_bodies, **self._parser_options)
        # aiohttp closes the transport after an error. A TLS transport can be closed only once.
        transport, self.transport = self.transport, None
        for part in start[:end], start[end:]:
            super().data_received(part)
        self.transport = transport

    async def read(self) -> tuple[RawResponseMessage, StreamReader]:
        try:
            head = await super().read()
        finally:
            self._lockstep.arrive(self)
        code = head[0].code
        if code == SWITCHING_PROTOCOLS:
            # The connection cannot be reused. Without an Upgrade header, aiohttp would take a 101
            # for an empty response.
            self.force_close()
        elif code < FIRST_FINAL_STATUS:
            self._at_head = True
            # aiohttp stops the clock at any head without a body.
            if self._request_sent:
                super().start_timeout()
        return head

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        start, self._start = self._start, b""
        if start and isinstance(exc, HttpProcessingError):
            # If anything in a read is not HTTP, aiohttp's parser drops all of it.
            self._parse_head_alone(start)
        super().set_exception(exc, *cause)
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(exc if isinstance(exc, ClientError) else ClientPayloadError())
        # Not at once: a read may be in progress, whose data came before the exception.
        self._loop.call_soon(self._notify)

    def close(self) -> None:
        if self.transport is not None and unsent_bytes(self.transport):
            self.abort()
        else:
            super().close()

    def eof_received(self) -> None:
        if self.first_write and not self.wrote_more:
            self.closed_unread = self._is_unread()
        super().eof_received()
        # asyncio would first send the rest, for which upstream may never have room. Not at once,
        # because TLS may be in the middle of its shutdown.
        if self.transport is not None and unsent_bytes(self.transport):
            self._loop.call_soon(abort, self.transport)

    def _is_unread(self) -> bool:
        # The segment that closed the connection acknowledged all that upstream had received. Not
        # so a reset: the acknowledgement in it is ignored (RFC 9293, 3.10.7.4).
        unacknowledged = unacknowledged_bytes(self.transport)
        if unacknowledged is None or self.transport is None:
            return False
        # TLS adds bytes to each record. Even if as many were acknowledged, the first record would
        # be incomplete; if there was another write, it need not be.
        return unacknowledged + unsent_bytes(self.transport) >= self.first_write

    def connection_lost(self, exc: BaseException | None) -> None:
        if isinstance(exc, OSError) and self.transport is not None:
            for data in unread_data(self.transport):
                self.data_received(data)
        super().connection_lost(exc)
        self._own.discard(*self._ends)
        self._cancel_timer()

    def _notify(self) -> None:
        if self.on_data is not None:
            self.on_data()

    # Pauses and the clock. aiohttp calls these.

    def pause_reading(self) -> None:
        self._was_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        # As in `ServerConnection.resume_reading`.
        if not self._was_paused:
            return
        super().resume_reading(resume_parser)
        # Data that was held back may pause reading again, or end the body; aiohttp starts the
        # clock in any case.
        if self._reading_paused or self._payload is None or self._payload.is_eof():
            self._drop_timeout()
        self._loop.call_soon(self._notify)

    def _reschedule_timeout(self) -> None:
        timeout_s = self._read_timeout
        if timeout_s is None:
            return
        self._silent_since = self._loop.time()
        if self._read_timeout_handle is None:
            self._read_timeout_handle = self._loop.call_later(timeout_s, self._on_read_timeout)

    def _drop_timeout(self) -> None:
        self._silent_since = None

    def _cancel_timer(self) -> None:
        if self._read_timeout_handle is not None:
            self._read_timeout_handle.cancel()
            self._read_timeout_handle = None

    def _on_read_timeout(self) -> None:
        self._read_timeout_handle = None
        if self._silent_since is None or self._read_timeout is None:
            return
        due = self._silent_since + self._read_timeout
        if due > self._loop.time():
            self._read_timeout_handle = self._loop.call_at(due, self._on_read_timeout)
        else:
            super()._on_read_timeout()


class TunnelError(ClientError):
    """A proxy closed the connection instead of opening a tunnel, or did not speak HTTP."""


class UpstreamConnector(TCPConnector):
    """Opens `UpstreamConnection`s, as many as needed."""

    def __init__(self, own: OwnConnections, lockstep: Lockstep, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._factory = cast(
            "partial[ResponseHandler]",
            partial(
                UpstreamConnection,
                loop=self._loop,
                single_use=self.force_close,
                own=own,
                lockstep=lockstep,
            ),
        )

    async def _create_connection(self, *args: Any, **kwargs: Any) -> ResponseHandler:
        try:
            return await super()._create_connection(*args, **kwargs)
        except (ClientConnectorError, ClientHttpProxyError):
            raise
        except ClientError as error:
            # Any other error before there is a connection is the proxy's response to CONNECT.
            raise TunnelError from error


class Destination(ClientRequest):
    """The host that connections lead to, in the form that connectors take."""

    @cached_property
    def connection_key(self) -> ConnectionKey:
        return super().connection_key


def connection_of(pooled: Connection) -> UpstreamConnection:
    """The connection behind a pool's handle, until the handle is released."""
    return cast(UpstreamConnection, pooled.protocol)


def take_buffered(body: StreamReader) -> bytes:
    """What arrived of a body before it was cut; aiohttp's public methods raise instead."""
    return body._read_nowait(-1)


def drop_eof_callbacks(body: StreamReader) -> None:
    """Drop references that would keep their objects until the next garbage collection."""
    body._eof_callbacks.clear()
