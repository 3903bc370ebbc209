"""A WebSocket client of the simulator."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import ClientWebSocketResponse

from tests.support.simulator import KEY, SOON_S, Site

REALTIME = "/realtime?model=gpt-realtime"


CREATE = {"type": "response.create", "model": "gpt-5", "input": "Hi", "max_output_tokens": 2}


BEARER = {"Authorization": f"Bearer {KEY}"}


@asynccontextmanager
async def connected(
    site: Site, path: str = REALTIME, simulate: str = "", **options: Any
) -> AsyncIterator[ClientWebSocketResponse]:
    """A connection whose messages are seen as they come."""
    headers = options.pop("headers", BEARER) | ({"X-Simulate": simulate} if simulate else {})
    defaults: dict[str, Any] = {"autoping": False, "max_msg_size": 0, "timeout": _CLOSE}
    options = defaults | options
    async with (
        asyncio.timeout(SOON_S),
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{site.url}{path}", **options) as socket,
    ):
        yield socket


_CLOSE = aiohttp.ClientWSTimeout(ws_close=SOON_S)


async def through(socket: ClientWebSocketResponse, last: str) -> list[dict[str, Any]]:
    """The events up to and with one of that type."""
    events: list[dict[str, Any]] = [json.loads(await socket.receive_str())]
    while events[-1]["type"] != last:
        events.append(json.loads(await socket.receive_str()))
    return events


async def answer(socket: ClientWebSocketResponse, message: object) -> dict[str, Any]:
    """The next event after a message."""
    await socket.send_str(message if isinstance(message, str) else json.dumps(message))
    event: dict[str, Any] = json.loads(await socket.receive_str())
    return event
