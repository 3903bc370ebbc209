"""WebSockets: what is heard on one, what is said on it, and what was asked to go wrong.

A `Speaker` makes events of messages and knows no connection. One task listens and answers pings,
another talks, at its pace: a response that takes its time is no reason to leave a ping alone.
"""

import asyncio
import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

from aiohttp import WSCloseCode, WSMsgType, web
from multidict import CIMultiDict

from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.faults import Faults
from rustygate.simulator.request_context import PASSAGE
from rustygate.simulator.response_bodies import Event
from rustygate.simulator.transport.delivery import Course, before_head, close

# The subprotocols that are chosen, if offered. Browsers, which cannot set headers, offer their
# key as one too; that is never chosen.
PROTOCOLS = ("realtime",)
KEY_PROTOCOL = "openai-insecure-api-key."

# Longer messages end the connection with 1009. aiohttp's own bound is above it: where that ends a
# connection, what was not read yet makes a reset of it, and the client may not see the code.
LONGEST_MESSAGE = 16 * 1024 * 1024
_AIOHTTPS_BOUND = 4 * LONGEST_MESSAGE

# Messages that wait for their turn; with more of them, the client has to wait.
_WAITING = 16

_OFFERED = "Sec-WebSocket-Protocol"


class Speaker(Protocol):
    """One end of a conversation, without the connection."""

    def greeting(self) -> Iterable[Event]:
        """What is said before anything is heard."""

    def answers(self, message: str) -> Iterable[Event]:
        """What is said to a message, in its turn."""

    def interrupts(self, message: str) -> bool:
        """Whether a message was not to wait for its turn, and has been heeded."""


def offered_key(request: web.Request) -> str | None:
    """The key that is offered as a subprotocol."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return None
    keys = [one for one in _offered(request) if one.startswith(KEY_PROTOCOL)]
    return keys[0].removeprefix(KEY_PROTOCOL) or None if keys else None


async def converse(request: web.Request, speaker: Speaker) -> web.StreamResponse:
    """Talk until the client closes the connection or a fault does.

    Raises:
        ApiError: no connection was asked for, or a failure was.
        Severed: the connection was cut.
    """
    socket = web.WebSocketResponse(
        protocols=PROTOCOLS, autoclose=False, max_msg_size=_AIOHTTPS_BOUND
    )
    keyless = _keyless(request)
    if not socket.can_prepare(keyless):
        raise ApiError(Failure(400, "This is a WebSocket endpoint; ask for an upgrade to one."))
    await before_head(request)
    await socket.prepare(keyless)
    faults = _socket_faults(request[PASSAGE].faults)
    code = await _Conversation(request, socket, speaker, Course(faults)).last()
    code = faults.close if code is None else code
    if code is None:
        close(request)
    await socket.close(code=code)
    return socket


def _offered(request: web.Request) -> list[str]:
    offers = ",".join(request.headers.getall(_OFFERED, []))
    return [offer.strip() for offer in offers.split(",")]


def _keyless(request: web.Request) -> web.Request:
    """The request as aiohttp may see it, which logs offers that it does not know: a key is one."""
    headers = CIMultiDict(request.headers)
    headers.popall(_OFFERED, None)
    if known := [offer for offer in _offered(request) if offer in PROTOCOLS]:
        headers[_OFFERED] = ", ".join(known)
    return request.clone(headers=headers)


def _socket_faults(faults: Faults) -> Faults:
    """The faults, with the cut that closing with a code is."""
    return replace(faults, cut=0) if faults.close is not None and faults.cut is None else faults


def _echo(code: int | None) -> int:
    """The code to answer a closing with: the client's own where it is an application's."""
    return code if code is not None and 3000 <= code < 5000 else 1000


class _Conversation:
    """What is heard and said on one connection."""

    def __init__(
        self,
        request: web.Request,
        socket: web.WebSocketResponse,
        speaker: Speaker,
        course: Course,
    ) -> None:
        self._request = request
        self._socket = socket
        self._speaker = speaker
        self._course = course
        self._last_update: asyncio.Queue[str | bytes] = asyncio.Queue(_WAITING)

    async def last(self) -> int | None:
        """Listen and talk to the end; the code to close with, unless a fault was the end."""
        listening = asyncio.create_task(self._listen())
        talking = asyncio.create_task(self._talk())
        for task in (listening, talking):
            task.add_done_callback(_look_at)
        try:
            await asyncio.wait((listening, talking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
            talking.cancel()
        return talking.result() if talking.done() else listening.result()

    async def _listen(self) -> int:
        """Hear messages until the last; the code to close with. aiohttp answers pings."""
        async for message in self._socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            if _size(message.data) > LONGEST_MESSAGE:
                return WSCloseCode.MESSAGE_TOO_BIG
            if isinstance(message.data, bytes) or not self._speaker.interrupts(message.data):
                await self._last_update.put(message.data)
        return _echo(self._socket.close_code)

    async def _talk(self) -> None:
        """Answer what is heard, and give back bytes as they are, until a fault ends it."""
        more = await self._say(self._speaker.greeting())
        while more:
            message = await self._last_update.get()
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                more = await self._say(self._speaker.answers(message))

    async def _say(self, events: Iterable[Event]) -> bool:
        """Send events; whether that was not the end.

        A cut comes right after the event before it: the next one may never come.
        """
        if self._course.is_cut():
            return False
        for event in events:
            if await self._course.share(event.paced) == "half":
                self._send_half(event.data.encode())
                return False
            await self._socket.send_str(event.data)
            if self._course.is_cut():
                return False
        return True

    def _send_half(self, data: bytes) -> None:
        frame = _head(len(data)) + data
        if self._request.transport is not None:
            self._request.transport.write(frame[: len(frame) // 2])


def _head(length: int) -> bytes:
    """The head of a text frame from a server (RFC 6455, 5.2)."""
    if length < 126:
        return struct.pack(">BB", 0x81, length)
    if length < 65_536:
        return struct.pack(">BBH", 0x81, 126, length)
    return struct.pack(">BBQ", 0x81, 127, length)


def _size(message: str | bytes) -> int:
    return len(message if isinstance(message, bytes) else message.encode())


def _look_at(task: asyncio.Task[Any]) -> None:
    """Take note of how a task ended, or asyncio would complain if nobody else does."""
    if not task.cancelled():
        task.exception()
