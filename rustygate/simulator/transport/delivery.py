"""Answers on the connection: whole, in pieces or streamed, at their pace, and broken where that
was asked.

Streams are served by aiohttp-sse, told not to do what OpenAI does not: no pings (a stall would
not be one), no CRLF, none of its own headers. A client that leaves cancels the handler, which
ends all waits here.
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

from rustygate.simulator.errors import ApiError, Severed
from rustygate.simulator.faults import BEFORE_HEAD, Faults
from rustygate.simulator.request_context import PASSAGE
from rustygate.simulator.response_bodies import Event, Events, Pieces, Whole, json_answer

# aiohttp-sse cannot be told not to ping, only to ping late; no stream lasts a day.
_NEVER_S = 86_400.0

# A socket that is closed with no time to linger sends a reset (socket(7), SO_LINGER).
_NO_LINGER = struct.pack("ii", 1, 0)


async def before_head(request: web.Request) -> None:
    """What takes its time or goes wrong before an answer begins.

    Raises:
        ApiError: the answer shall be a failure.
        Severed: the connection was reset.
    """
    passage = request[PASSAGE]
    faults = passage.faults
    await asyncio.sleep(faults.latency or 0)
    if faults.reset:
        _reset(request)
    if faults.stall == BEFORE_HEAD:
        await for_ever()
    if passage.failure is not None:
        raise ApiError(passage.failure)


async def put(request: web.Request, value: Any) -> web.StreamResponse:
    """Answer with an object, after what comes before an answer."""
    await before_head(request)
    return await reply(request, json_answer(value))


async def reply(request: web.Request, answer: Whole | Pieces) -> web.StreamResponse:
    """An answer that is no event stream.

    A stall or cut, wherever a stream would have it, is in its middle; only an answer that goes
    out chunked has as many pieces as a stream has events.

    Raises:
        Severed: the answer was cut.
    """
    faults = request[PASSAGE].faults
    if isinstance(answer, Whole):
        headers = {"Content-Type": answer.type}
        if faults.gzip:
            headers["Content-Encoding"] = "gzip"
            answer = Whole(gzip.compress(answer.data, mtime=0), answer.type)
        if request.method == "HEAD" or not _breaks(faults):
            return web.Response(body=answer.data, headers=headers)
        answer = Pieces((answer.data,), answer.type, len(answer.data), headers=headers)
    return await _send_pieces(request, answer, faults)


async def _send_pieces(request: web.Request, answer: Pieces, faults: Faults) -> web.StreamResponse:
    headers = {**answer.headers, "Content-Type": answer.type}
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.content_length = answer.length
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    if answer.length is None:
        whole = await _send_chunks(response, answer.data, faults)
    else:
        whole = await _send_bytes(response, answer.data, answer.length, faults)
    if not whole:
        close(request)
    return response


async def _send_bytes(
    response: web.StreamResponse, pieces: Iterable[bytes], length: int, faults: Faults
) -> bool:
    """Send a body whose length was told, or the first half of it; whether all of it went."""
    broken = _breaks(faults)
    for piece in section(pieces, 0, length // 2 if broken else length):
        await response.write(piece)
    if faults.stall is not None:
        await for_ever()
    return not broken


async def _send_chunks(
    response: web.StreamResponse, pieces: Iterable[bytes], faults: Faults
) -> bool:
    """Send pieces until they end or a fault ends them; whether they all went."""
    course = Course(faults)
    for piece in pieces:
        share = await course.share(paced=True)
        if share == "half":
            await response.write(piece[: len(piece) // 2])
        if share != "whole":
            return False
        await response.write(piece)
    return True


def section(pieces: Iterable[bytes], start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to before `stop` of what the pieces make together."""
    at = 0
    for piece in pieces:
        if at >= stop:
            return
        if at + len(piece) > start:
            yield piece[max(0, start - at) : stop - at]
        at += len(piece)


async def stream(request: web.Request, answer: Events) -> web.StreamResponse:
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
        whole = await _send_events(response, answer.events, request[PASSAGE].faults)
    if not whole:
        close(request)
    return response


async def _send_events(
    response: EventSourceResponse, events: Iterable[Event], faults: Faults
) -> bool:
    """Send events until they end or a fault ends them; whether they all went."""
    course = Course(faults)
    for event in events:
        share = await course.share(event.paced)
        if share == "half":
            await response.write(_half(event))
        if share != "whole":
            return False
        await response.send(event.data, event=event.name)
    return True


class Course:
    """How far a stream comes: the pace of what is sent, and the faults that end it.

    Tokens are spaced out from the first one on; what a late one lost, the next one gains. Other
    tasks get to run before every event, also when there is nothing to wait for.
    """

    __slots__ = ("_clock", "_faults", "_rate", "_sent", "_start", "_tokens")

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._rate = faults.tokens_per_second or 0.0
        self._clock = asyncio.get_running_loop().time
        self._start = self._clock()
        self._tokens = 0
        self._sent = 0

    def is_cut(self) -> bool:
        """Whether as many events were sent as are before a cut."""
        return self._sent == self._faults.cut

    async def share(self, paced: bool) -> Literal["whole", "half", "none"]:
        """Wait until the next event is due; how much of it shall go before the end, if it ends."""
        await asyncio.sleep(self._due() - self._clock() if paced and self._rate else 0)
        number, self._sent = self._sent, self._sent + 1
        if number == self._faults.stall:
            await for_ever()
        if number == self._faults.cut:
            return "none"
        return "half" if number == self._faults.cut_inside else "whole"

    def _due(self) -> float:
        self._tokens += 1
        return self._start + (self._tokens - 1) / self._rate


def _breaks(faults: Faults) -> bool:
    """Whether an answer stops somewhere on its way."""
    return (faults.stall, faults.cut, faults.cut_inside) != (None, None, None)


def _half(event: Event) -> bytes:
    """The first half of an event, which ends inside its data."""
    line = f"data: {event.data}".encode()
    return line[: len(line) // 2]


async def for_ever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody sets it")


def close(request: web.Request) -> NoReturn:
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
