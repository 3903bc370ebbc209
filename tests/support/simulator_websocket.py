"""A WebSocket client for the simulator."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import ClientWebSocketResponse

from tests.support.simulator import KEY, Simulator
from tests.support.waiting import SOON_S, soon

REALTIME = "/realtime?model=gpt-realtime"
CREATE = {"type": "response.create", "model": "gpt-5", "input": "Hi"}
BEARER = {"Authorization": f"Bearer {KEY}"}
_CLOSE_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=SOON_S)


@asynccontextmanager
async def connect(
    simulator: Simulator, path: str = REALTIME, simulate: str = "", **options: Any
) -> AsyncIterator[ClientWebSocketResponse]:
    """Connect to the simulator, with control frames visible to the test."""
    headers = options.pop("headers", BEARER) | ({"X-Simulate": simulate} if simulate else {})
    defaults: dict[str, Any] = {"autoping": False, "max_msg_size": 0, "timeout": _CLOSE_TIMEOUT}
    options = defaults | options
    async with (
        soon(),
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{simulator.url}{path}", **options) as websocket,
    ):
        yield websocket


async def receive_until(websocket: ClientWebSocketResponse, last: str) -> list[dict[str, Any]]:
    """Receive events up to and including one of type `last`."""
    events: list[dict[str, Any]] = [json.loads(await websocket.receive_str())]
    while events[-1]["type"] != last:
        events.append(json.loads(await websocket.receive_str()))
    return events


async def send_and_receive(websocket: ClientWebSocketResponse, message: object) -> dict[str, Any]:
    """Send a message, and return the next event."""
    await websocket.send_str(message if isinstance(message, str) else json.dumps(message))
    event: dict[str, Any] = json.loads(await websocket.receive_str())
    return event
