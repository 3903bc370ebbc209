"""Answers on the connection: whole or streamed, at their pace, and broken where that was asked.

Streams are served by aiohttp-sse, told not to do what OpenAI does not: no pings (a stall would
not be one), no CRLF, none of its own headers. A client that leaves cancels the handler, which
ends all waits here.
"""

import asyncio
import gzip
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import NoReturn

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from rustygate.simulator.asked import Event
from rustygate.simulator.errors import ApiError, Severed
from rustygate.simulator.faults import BEFORE_HEAD, Faults

# aiohttp-sse cannot be told not to ping, only to ping late; no stream lasts a day.
_NEVER_S = 86_400.0

# A socket that is closed with no time to linger sends a reset (socket(7), SO_LINGER).
_NO_LINGER = struct.pack("ii", 1, 0)


async def before_head(request: web.Request, faults: Faults) -> None:
    """What takes its time or goes wrong before an answer begins.

    Raises:
        ApiError: the answer shall be a failure.
        Severed: the connection was reset.
    """
    await asyncio.sleep(faults.latency or 0)
    if faults.reset:
        _reset(request)
    if faults.stall == BEFORE_HEAD:
        await _for_ever()
    if faults.failure is not None:
        raise ApiError(faults.failure)


async def reply(request: web.Request, text: str, faults: Faults) -> web.StreamResponse:
    """A plain JSON answer; a stall or cut, wherever a stream would have it, is in its middle.

    Raises:
        Severed: the answer was cut.
    """
    body, headers = text.encode(), {"Content-Type": "application/json"}
    if faults.gzip:
        body, headers = gzip.compress(body, mtime=0), headers | {"Content-Encoding": "gzip"}
    if faults.stall is None and faults.cut is None and faults.cut_inside is None:
        return web.Response(body=body, headers=headers)
    response = web.StreamResponse(headers=headers)
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if faults.stall is not None:
        await _for_ever()
    _close(request)


async def stream(
    request: web.Request, events: Iterable[Event], faults: Faults
) -> web.StreamResponse:
    """An event stream; one that has no more events than a fault lets pass comes whole.

    Raises:
        Severed: the stream was cut.
    """
    response = EventSourceResponse(
        sep="\n", ping_interval=_NEVER_S, send_timeout=None, allow_all_methods=True
    )
    del response.headers["Connection"], response.headers["X-Accel-Buffering"]
    response.headers["Content-Type"] = "text/event-stream; charset=utf-8"
    await response.prepare(request)
    async with response:
        whole = await _send(response, events, faults)
    if not whole:
        _close(request)
    return response


async def _send(response: EventSourceResponse, events: Iterable[Event], faults: Faults) -> bool:
    """Send events until they end or a fault ends them; whether they all went."""
    pace = _Pace(faults.tokens_per_second or 0.0)
    for number, event in enumerate(events):
        await pace.wait(event.paced)
        if number == faults.stall:
            await _for_ever()
        if number == faults.cut:
            return False
        if number == faults.cut_inside:
            await response.write(_half(event))
            return False
        await response.send(event.data, event=event.name)
    return True


class _Pace:
    """Spaces out tokens from the first one on; what a late one lost, the next one gains.

    It lets other tasks run before every event, also when there is nothing to wait for.
    """

    __slots__ = ("_clock", "_rate", "_start", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._clock = asyncio.get_running_loop().time
        self._start = self._clock()
        self._tokens = 0

    async def wait(self, paced: bool) -> None:
        await asyncio.sleep(self._due() - self._clock() if paced and self._rate else 0)

    def _due(self) -> float:
        self._tokens += 1
        return self._start + (self._tokens - 1) / self._rate


def _half(event: Event) -> bytes:
    """The first half of an event, which ends inside its data."""
    line = f"data: {event.data}".encode()
    return line[: len(line) // 2]


async def _for_ever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody sets it")


def _close(request: web.Request) -> NoReturn:
    """Close once all is sent; the client sees an answer that ends before its end."""
    if request.transport is not None:
        request.transport.close()
    raise Severed


def _reset(request: web.Request) -> NoReturn:
    if request.transport is not None:
        with suppress(OSError):
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        request.transport.abort()
    raise Severed
