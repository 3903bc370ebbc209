"""WebSocket connections: receiving messages, sending events, and applying faults.

A `WebSocketSession` turns messages into events and knows nothing of the connection. One task
receives messages and answers pings, another sends events at their pace, so that pings are
answered during a slow response.
"""

import asyncio
import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

from aiohttp import WSCloseCode, WSMsgType, web
from multidict import CIMultiDict

from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.faults import Faults
from rustygate.simulator.request_context import CONTEXT
from rustygate.simulator.response_bodies import Event
from rustygate.simulator.transport.delivery import StreamPacer, apply_early_faults, cut_connection

# The subprotocols that the server selects. Browsers cannot set headers and offer their API key as
# a subprotocol, which is never selected.
SUBPROTOCOLS = ("realtime",)
KEY_SUBPROTOCOL_PREFIX = "openai-insecure-api-key."

# Longer messages close the connection with 1009. aiohttp's own limit must be higher: when aiohttp
# closes, unread data turns the close into a reset, and the client may not see the code.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_AIOHTTP_MAX_MESSAGE_BYTES = 4 * MAX_MESSAGE_BYTES

# Messages received ahead of their turn; when the queue is full, no more are read.
_RECEIVE_QUEUE_SIZE = 16

_SUBPROTOCOL_HEADER = "Sec-WebSocket-Protocol"


class WebSocketSession(Protocol):
    """The server's side of a conversation, without the connection."""

    def initial_events(self) -> Iterable[Event]:
        """The events to send before the first message."""

    def handle_message(self, message: str) -> Iterable[Event]:
        """The events in response to a message; messages are handled in order."""

    def handle_immediately(self, message: str) -> bool:
        """Handle a message that must not wait for its turn; return whether it was one."""


def key_from_subprotocol(request: web.Request) -> str | None:
    """The API key that a WebSocket request offers as a subprotocol."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return None
    for subprotocol in _offered_subprotocols(request):
        if subprotocol.startswith(KEY_SUBPROTOCOL_PREFIX):
            return subprotocol.removeprefix(KEY_SUBPROTOCOL_PREFIX) or None
    return None


async def serve_websocket(request: web.Request, session: WebSocketSession) -> web.StreamResponse:
    """Serve a session until the client or a fault closes the connection.

    Raises:
        ApiError: the request is not a WebSocket upgrade, or its faults ask for an error.
        ConnectionCut: the connection was cut.
    """
    websocket = web.WebSocketResponse(
        protocols=SUBPROTOCOLS, autoclose=False, max_msg_size=_AIOHTTP_MAX_MESSAGE_BYTES
    )
    keyless_request = _without_key(request)
    if not websocket.can_prepare(keyless_request):
        message = "This is a WebSocket endpoint. Send a WebSocket upgrade request."
        raise ApiError(ErrorResponse(400, message))
    await apply_early_faults(request)
    await websocket.prepare(keyless_request)
    faults = _websocket_faults(request[CONTEXT].faults)
    code = await _Connection(request, websocket, session, StreamPacer(faults)).run()
    code = faults.close if code is None else code
    if code is None:
        cut_connection(request)
    await websocket.close(code=code)
    return websocket


def _offered_subprotocols(request: web.Request) -> list[str]:
    offers = ",".join(request.headers.getall(_SUBPROTOCOL_HEADER, []))
    return [offer.strip() for offer in offers.split(",")]


def _without_key(request: web.Request) -> web.Request:
    """The request without its key: aiohttp logs the subprotocols that it does not know."""
    headers = CIMultiDict(request.headers)
    headers.popall(_SUBPROTOCOL_HEADER, None)
    if supported := [offer for offer in _offered_subprotocols(request) if offer in SUBPROTOCOLS]:
        headers[_SUBPROTOCOL_HEADER] = ", ".join(supported)
    return request.clone(headers=headers)


def _websocket_faults(faults: Faults) -> Faults:
    """The faults, with `close` alone meaning that the stream ends at once."""
    return replace(faults, cut=0) if faults.close is not None and faults.cut is None else faults


def _reply_close_code(code: int | None) -> int:
    """The code to reply to a close with: the client's own if it is an application's."""
    return code if code is not None and 3000 <= code < 5000 else 1000


class _Connection:
    """Receives the messages and sends the events of one connection."""

    def __init__(
        self,
        request: web.Request,
        websocket: web.WebSocketResponse,
        session: WebSocketSession,
        pacer: StreamPacer,
    ) -> None:
        self._request = request
        self._websocket = websocket
        self._session = session
        self._pacer = pacer
        self._received: asyncio.Queue[str | bytes] = asyncio.Queue(_RECEIVE_QUEUE_SIZE)

    async def run(self) -> int | None:
        """Serve to the end; return the code to close with, or None if a fault ended it."""
        receiving = asyncio.create_task(self._receive())
        responding = asyncio.create_task(self._respond())
        for task in (receiving, responding):
            task.add_done_callback(_retrieve_exception)
        try:
            await asyncio.wait((receiving, responding), return_when=asyncio.FIRST_COMPLETED)
        finally:
            receiving.cancel()
            responding.cancel()
        return responding.result() if responding.done() else receiving.result()

    async def _receive(self) -> int:
        """Receive messages to the last; return the code to close with. aiohttp answers pings."""
        async for message in self._websocket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            if _size_bytes(message.data) > MAX_MESSAGE_BYTES:
                return WSCloseCode.MESSAGE_TOO_BIG
            data: str | bytes = message.data
            if isinstance(data, bytes) or not self._session.handle_immediately(data):
                await self._received.put(data)
        return _reply_close_code(self._websocket.close_code)

    async def _respond(self) -> None:
        """Respond to text messages and echo binary ones, until a fault ends the stream."""
        is_open = await self._send_events(self._session.initial_events())
        while is_open:
            message = await self._received.get()
            if isinstance(message, bytes):
                await self._websocket.send_bytes(message)
            else:
                self._pacer.restart()
                is_open = await self._send_events(self._session.handle_message(message))

    async def _send_events(self, events: Iterable[Event]) -> bool:
        """Send events; return whether the stream goes on.

        A cut comes right after the event before it, since another event may never come.
        """
        if self._pacer.is_cut():
            return False
        for event in events:
            if await self._pacer.next_portion(event.paced) == "half":
                self._send_half(event.data.encode())
                return False
            await self._websocket.send_str(event.data)
            if self._pacer.is_cut():
                return False
        return True

    def _send_half(self, data: bytes) -> None:
        frame = _frame_header(len(data)) + data
        if self._request.transport is not None:
            self._request.transport.write(frame[: len(frame) // 2])


def _frame_header(length: int) -> bytes:
    """The header of an unmasked text frame (RFC 6455, 5.2)."""
    if length < 126:
        return struct.pack(">BB", 0x81, length)
    if length < 65_536:
        return struct.pack(">BBH", 0x81, 126, length)
    return struct.pack(">BBQ", 0x81, 127, length)


def _size_bytes(message: str | bytes) -> int:
    return len(message if isinstance(message, bytes) else message.encode())


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Retrieve a task's exception, or asyncio logs that it never was."""
    if not task.cancelled():
        task.exception()
