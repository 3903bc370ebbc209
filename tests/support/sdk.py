"""The official SDK, blocking and asynchronous, and what tests call with it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import openai

from tests.support import http
from tests.support.client import Client
from tests.support.waiting import soon
from tests.support.wire import Wire

# At most so many blocking calls at a time.
THREADS = 20

HELLO = [{"role": "user", "content": "Hello, who is there?"}]
ENDLESS = {"X-Simulate": "tokens=100000,tokens_per_second=100"}
QUOTA_HEADERS = {
    f"x-ratelimit-{what}-{kind}"
    for what in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens")
}

Ask = Callable[[Any], Any]


class Sdk(Protocol):
    """A client of one gate, whichever way it works."""

    async def call(self, ask: Ask) -> Any:
        """What the client answers."""

    async def events(self, ask: Ask) -> list[Any]:
        """A stream, read to its end."""

    async def glimpse(self, ask: Ask) -> Any:
        """A stream's first event; then the stream is closed."""


StartSdk = Callable[..., Sdk]


class Blocking:
    """`openai.OpenAI`, in threads beside the gate."""

    def __init__(self, client: openai.OpenAI, threads: ThreadPoolExecutor) -> None:
        self._client = client
        self._threads = threads

    async def call(self, ask: Ask) -> Any:
        return await self._in_thread(ask)

    async def events(self, ask: Ask) -> list[Any]:
        events: list[Any] = await self._in_thread(lambda client: list(ask(client)))
        return events

    async def glimpse(self, ask: Ask) -> Any:
        def first(client: openai.OpenAI) -> Any:
            with ask(client) as stream:
                return next(iter(stream))

        return await self._in_thread(first)

    async def _in_thread(self, work: Callable[[openai.OpenAI], Any]) -> Any:
        loop = asyncio.get_running_loop()
        async with soon():
            return await loop.run_in_executor(self._threads, work, self._client)


class Asynchronous:
    """`openai.AsyncOpenAI`."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client

    async def call(self, ask: Ask) -> Any:
        async with soon():
            return await ask(self._client)

    async def events(self, ask: Ask) -> list[Any]:
        async with soon():
            return [event async for event in await ask(self._client)]

    async def glimpse(self, ask: Ask) -> Any:
        async with soon(), await ask(self._client) as stream:
            return await anext(aiter(stream))


def chat(**more: Any) -> Ask:
    asked = {"model": "gpt-4o", "messages": HELLO} | more
    return lambda client: client.chat.completions.create(**asked)


def raw_chat(**more: Any) -> Ask:
    asked = {"model": "gpt-4o", "messages": HELLO} | more
    return lambda client: client.chat.completions.with_raw_response.create(**asked)


def response(**more: Any) -> Ask:
    asked = {"model": "gpt-5", "input": "Hi"} | more
    return lambda client: client.responses.create(**asked)


def text_of(chunks: list[Any]) -> str:
    """The text of a streamed chat."""
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return "".join(choice.delta.content or "" for choice in choices)


async def stats(simulator: str) -> dict[str, Any]:
    """What the simulator saw."""
    client = Client(await Wire.connect(simulator))
    try:
        seen = (await client.request(http.get("/simulator/stats"))).json
    finally:
        client.disconnect()
    assert isinstance(seen, dict)
    return seen
