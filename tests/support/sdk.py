"""The official SDK, blocking and asynchronous, and the operations that tests call."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import openai

from tests.support import http
from tests.support.client import Client
from tests.support.waiting import soon
from tests.support.wire import Wire

# The number of blocking calls that can run at a time.
MAX_THREADS = 20

HELLO = [{"role": "user", "content": "Hello, who is there?"}]
ENDLESS = {"X-Simulate": "tokens=100000,tokens_per_second=100"}
QUOTA_HEADERS = {
    f"x-ratelimit-{what}-{kind}"
    for what in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens")
}

Operation = Callable[[Any], Any]


class SdkClient(Protocol):
    """An SDK client of one gate, blocking or not."""

    async def call(self, operation: Operation) -> Any:
        """The result of an operation."""

    async def events(self, operation: Operation) -> list[Any]:
        """All events of a stream."""

    async def first_event(self, operation: Operation) -> Any:
        """The first event of a stream, which is then closed."""


StartSdk = Callable[..., SdkClient]


class BlockingClient:
    """`openai.OpenAI`, in threads of the gate's process."""

    def __init__(self, client: openai.OpenAI, threads: ThreadPoolExecutor) -> None:
        self._client = client
        self._threads = threads

    async def call(self, operation: Operation) -> Any:
        return await self._in_thread(operation)

    async def events(self, operation: Operation) -> list[Any]:
        events: list[Any] = await self._in_thread(lambda client: list(operation(client)))
        return events

    async def first_event(self, operation: Operation) -> Any:
        def first(client: openai.OpenAI) -> Any:
            with operation(client) as stream:
                return next(iter(stream))

        return await self._in_thread(first)

    async def _in_thread(self, work: Callable[[openai.OpenAI], Any]) -> Any:
        loop = asyncio.get_running_loop()
        async with soon():
            return await loop.run_in_executor(self._threads, work, self._client)


class AsyncClient:
    """`openai.AsyncOpenAI`."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client

    async def call(self, operation: Operation) -> Any:
        async with soon():
            return await operation(self._client)

    async def events(self, operation: Operation) -> list[Any]:
        async with soon():
            return [event async for event in await operation(self._client)]

    async def first_event(self, operation: Operation) -> Any:
        async with soon(), await operation(self._client) as stream:
            return await anext(aiter(stream))


def chat(**overrides: Any) -> Operation:
    arguments = {"model": "gpt-4o", "messages": HELLO} | overrides
    return lambda client: client.chat.completions.create(**arguments)


def raw_chat(**overrides: Any) -> Operation:
    arguments = {"model": "gpt-4o", "messages": HELLO} | overrides
    return lambda client: client.chat.completions.with_raw_response.create(**arguments)


def create_response(**overrides: Any) -> Operation:
    arguments = {"model": "gpt-5", "input": "Hi"} | overrides
    return lambda client: client.responses.create(**arguments)


def chat_text(chunks: list[Any]) -> str:
    """The text of a streamed chat."""
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return "".join(choice.delta.content or "" for choice in choices)


async def simulator_stats(simulator: str) -> dict[str, Any]:
    """The simulator's statistics."""
    client = Client(await Wire.connect(simulator))
    try:
        counts = (await client.request(http.get("/simulator/stats"))).json
    finally:
        client.disconnect()
    assert isinstance(counts, dict)
    return counts
