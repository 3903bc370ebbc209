"""Requests for the live page, and its event stream as a browser reads it."""

import json
from typing import Any

from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import Response
from tests.support.metrics import scrape_request
from tests.support.waiting import soon


def page_request(target: str, *lines: str, method: str = "GET", host: str = "localhost") -> bytes:
    """A request for a page about the gate, from this machine."""
    request = scrape_request(*lines, host=host, target=target)
    return request.replace(b"GET", method.encode(), 1)


async def get_page(gate: Gate, target: str, *lines: str, method: str = "GET") -> Response:
    return await gate.request(page_request(target, *lines, method=method))


async def get_state(gate: Gate) -> dict[str, Any]:
    """The state of a gate as JSON."""
    response = await get_page(gate, "/gate/state")
    assert response.status == 200
    state: dict[str, Any] = response.json
    return state


class Viewer:
    """Someone who looks at the event stream."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @classmethod
    async def open(cls, gate: Gate) -> "Viewer":
        return await cls.of(await gate.connect())

    @classmethod
    async def of(cls, client: Client) -> "Viewer":
        """A viewer over a new connection."""
        client.send(page_request("/gate/events"))
        head = await client.head()
        assert (head.status, head["content-type"]) == (200, "text/event-stream")
        return cls(client)

    async def event(self) -> bytes:
        """The next event, as sent."""
        pieces: list[bytes] = []
        async with soon():
            # The data has no line breaks, and no event begins in a piece in which another ends.
            while not pieces or not pieces[-1].endswith(b"\r\n\r\n"):
                pieces.append(await self.client.body.read_some())
                assert pieces[-1], "the stream has ended"
        return b"".join(pieces).removesuffix(b"\r\n\r\n")

    async def text(self) -> str:
        """The data of the next event."""
        lines = (await self.event()).split(b"\r\n")
        [data] = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
        return data.decode()

    async def state(self) -> dict[str, Any]:
        """The state in the next event."""
        state: dict[str, Any] = json.loads(await self.text())
        return state
