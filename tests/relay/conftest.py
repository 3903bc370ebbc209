"""WebSockets through a gate of their own."""

import pytest

from tests.conftest import StartGate
from tests.support.gate import Gate
from tests.support.upstream import Upstream
from tests.support.websocket import WebSocketEnd, open_websocket
from tests.support.websocket_turns import OpenSocket, open_responses

Opened = tuple[Gate, WebSocketEnd, WebSocketEnd]


@pytest.fixture
def realtime(gate: StartGate, upstream: Upstream) -> OpenSocket:
    """Opens a WebSocket of the Realtime API: the gate, the client's end and upstream's."""

    async def start(**settings: object) -> Opened:
        running = await gate(**settings)
        return running, *await open_websocket(running, upstream)

    return start


@pytest.fixture
def responses(gate: StartGate, upstream: Upstream) -> OpenSocket:
    """The same of the Responses API."""

    async def start(**settings: object) -> Opened:
        running = await gate(**settings)
        return running, *await open_responses(running, upstream)

    return start
