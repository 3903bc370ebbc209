"""Sending HTTP responses: in one piece or streamed, at their pace, interrupted by faults.

Event streams are sent by aiohttp-sse, without what OpenAI does not send: no pings (they would end
a stall), no CRLF and no extra headers. A client that disconnects cancels the handler, which ends
all waits here.
"""

import asyncio
import gzip
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Literal, NoReturn

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from rustygate.simulator.errors import ApiError, ConnectionCut
from rustygate.simulator.faults import BEFORE_HEAD, Faults
from rustygate.simulator.request_context import CONTEXT
from rustygate.simulator.response_bodies import (
    CompleteBody,
    Event,
    EventStream,
    StreamedBody,
    json_body,
)

# aiohttp-sse's pings cannot be switched off, only put off; no stream lasts a day.
_PING_INTERVAL_S = 86_400.0

# Closing a socket whose linger time is 0 sends a reset (socket(7), SO_LINGER).
_NO_LINGER = struct.pack("ii", 1, 0)


async def apply_early_faults(request: web.Request) -> None:
    """Apply the faults that come before the response head: latency, reset, stall, error.

    Raises:
        ApiError: the faults ask for an error response.
        ConnectionCut: the connection was reset.
    """
    context = request[CONTEXT]
    faults = context.faults
    await asyncio.sleep(faults.latency or 0)
    if faults.reset:
        _reset_connection(request)
    if faults.stall == BEFORE_HEAD:
        await wait_forever()
    if context.simulated_error is not None:
        raise ApiError(context.simulated_error)


async def send_json(request: web.Request, value: Any) -> web.StreamResponse:
    """Apply early faults, then respond with a value as JSON."""
    await apply_early_faults(request)
    return await send_body(request, json_body(value))


async def send_body(request: web.Request, body: CompleteBody | StreamedBody) -> web.StreamResponse:
    """Send a body that is not an event stream.

    A stall or cut comes in the middle of the body, whatever its number of events. Only in a body
    sent with chunked encoding does it come after that number of chunks.

    Raises:
        ConnectionCut: the response was cut.
    """
    faults = request[CONTEXT].faults
    if isinstance(body, CompleteBody):
        headers = {"Content-Type": body.type}
        if faults.gzip:
            headers["Content-Encoding"] = "gzip"
            body = CompleteBody(gzip.compress(body.data, mtime=0), body.type)
        if request.method == "HEAD" or not _interrupts_body(faults):
            return web.Response(body=body.data, headers=headers)
        body = StreamedBody((body.data,), body.type, len(body.data), headers=headers)
    return await _send_streamed(request, body, faults)


async def _send_streamed(
    request: web.Request, body: StreamedBody, faults: Faults
) -> web.StreamResponse:
    headers = {**body.headers, "Content-Type": body.type}
    response = web.StreamResponse(status=body.status, headers=headers)
    response.content_length = body.length
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    if body.length is None:
        complete = await _send_chunks(response, body.data, faults)
    else:
        complete = await _send_bytes(response, body.data, body.length, faults)
    if not complete:
        cut_connection(request)
    return response


async def _send_bytes(
    response: web.StreamResponse, chunks: Iterable[bytes], length: int, faults: Faults
) -> bool:
    """Send a body of known length, or its first half; return whether all of it was sent."""
    interrupted = _interrupts_body(faults)
    for chunk in byte_range(chunks, 0, length // 2 if interrupted else length):
        await response.write(chunk)
    if faults.stall is not None:
        await wait_forever()
    return not interrupted


async def _send_chunks(
    response: web.StreamResponse, chunks: Iterable[bytes], faults: Faults
) -> bool:
    """Send chunks until they end or a fault stops them; return whether all were sent."""
    pacer = StreamPacer(faults)
    for chunk in chunks:
        portion = await pacer.next_portion(paced=True)
        if portion == "half":
            await response.write(chunk[: len(chunk) // 2])
        if portion != "whole":
            return False
        await response.write(chunk)
    return True


def byte_range(chunks: Iterable[bytes], start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` up to, not including, `stop` of the concatenated chunks."""
    offset = 0
    for chunk in chunks:
        if offset >= stop:
            return
        if offset + len(chunk) > start:
            yield chunk[max(0, start - offset) : stop - offset]
        offset += len(chunk)


async def send_event_stream(request: web.Request, body: EventStream) -> web.StreamResponse:
    """Send an event stream. It is sent completely if it ends before the event of the fault.

    Raises:
        ConnectionCut: the stream was cut.
    """
    response = EventSourceResponse(
        sep="\n", ping_interval=_PING_INTERVAL_S, send_timeout=None, allow_all_methods=True
    )
    del response.headers["Connection"], response.headers["X-Accel-Buffering"]
    response.headers["Content-Type"] = "text/event-stream; charset=utf-8"
    await response.prepare(request)
    async with response:
        complete = await _send_events(response, body.events, request[CONTEXT].faults)
    if not complete:
        cut_connection(request)
    return response


async def _send_events(
    response: EventSourceResponse, events: Iterable[Event], faults: Faults
) -> bool:
    """Send events until they end or a fault stops them; return whether all were sent."""
    pacer = StreamPacer(faults)
    for event in events:
        portion = await pacer.next_portion(event.paced)
        if portion == "half":
            await response.write(_first_half(event))
        if portion != "whole":
            return False
        await response.send(event.data, event=event.name)
    return True


class StreamPacer:
    """Sets the pace of a stream, and decides where a fault ends it.

    Tokens are due at fixed times counted from the first one, so a late token does not delay the
    next. Other tasks get to run before every event, even if there is no wait.
    """

    __slots__ = ("_clock", "_faults", "_rate", "_sent", "_start", "_tokens")

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._rate = faults.tokens_per_second or 0.0
        self._clock = asyncio.get_running_loop().time
        self._start = self._clock()
        self._tokens = 0
        self._sent = 0

    def restart(self) -> None:
        """Count the times from now on, for the next response of a WebSocket."""
        self._start, self._tokens = self._clock(), 0

    def is_cut(self) -> bool:
        """Whether all events before the cut have been sent."""
        return self._sent == self._faults.cut

    async def next_portion(self, paced: bool) -> Literal["whole", "half", "none"]:
        """Wait until the next event is due, and return how much of it to send.

        Anything but "whole" ends the stream.
        """
        await asyncio.sleep(self._due_time() - self._clock() if paced and self._rate else 0)
        index, self._sent = self._sent, self._sent + 1
        if index == self._faults.stall:
            await wait_forever()
        if index == self._faults.cut:
            return "none"
        return "half" if index == self._faults.cut_inside else "whole"

    def _due_time(self) -> float:
        self._tokens += 1
        return self._start + (self._tokens - 1) / self._rate


def _interrupts_body(faults: Faults) -> bool:
    """Whether a fault stops the body before its end."""
    return (faults.stall, faults.cut, faults.cut_inside) != (None, None, None)


def _first_half(event: Event) -> bytes:
    """The first half of an event; it ends inside the event's data."""
    line = f"data: {event.data}".encode()
    return line[: len(line) // 2]


async def wait_forever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable: the future is never done")


def cut_connection(request: web.Request) -> NoReturn:
    """Close the connection once all data is sent; the client sees a truncated response."""
    if request.transport is not None:
        request.transport.close()
    raise ConnectionCut


def _reset_connection(request: web.Request) -> NoReturn:
    if request.transport is not None:
        with suppress(OSError):
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        request.transport.abort()
    raise ConnectionCut
