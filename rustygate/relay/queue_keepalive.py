"""Keeps a streaming client alive until its response starts, in the queue and at upstream.

QUEUE_KEEPALIVE_AFTER is for clients, and for proxies in front of the gate, that close a silent
connection. After that time without a response, because the request is queued or upstream is
silent, the gate sends the head of the response and then keepalives. From then on the status is
200 whatever happens, upstream's own headers cannot be sent, and an error can only be an event in
the stream.
"""

import asyncio
from contextlib import suppress
from time import monotonic_ns
from typing import Self

from aiohttp import web

from rustygate.config import Settings
from rustygate.core.headers import NamedLines
from rustygate.core.sse import KEEPALIVE
from rustygate.downstream.response import PassthroughResponse
from rustygate.exchange import Exchange
from rustygate.relay.stream import Downstream
from rustygate.system.lockstep import Lockstep


class QueueKeepalive:
    """The keepalives of one exchange that waits for its response.

    They run from `start` until `stop`, over all attempts. The end of the context stops them too.
    """

    __slots__ = ("_exchange", "_lockstep", "_request", "_settings", "_started", "_task")

    def __init__(
        self, request: web.Request, exchange: Exchange, settings: Settings, lockstep: Lockstep
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._settings = settings
        self._lockstep = lockstep
        self._started: PassthroughResponse | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_task()

    def start(self) -> None:
        """Start the timer."""
        after_s = self._settings.queue_keepalive_after
        if after_s is not None:
            self._task = asyncio.create_task(self._run(after_s))

    async def stop(self) -> Downstream:
        """Write no more keepalives; returns where the response continues or starts."""
        await self._stop_task()
        return Downstream(
            self._request, self._exchange, self._settings, self._lockstep, self._started
        )

    async def _run(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        exchange = self._exchange
        # Before the first attempt, all of the time was spent in the queue.
        queued = None if exchange.attempts else monotonic_ns() - exchange.arrived
        lines = b"Content-Type: text/event-stream\r\n" + exchange.header_lines(queued)
        response = PassthroughResponse(200, None, NamedLines(lines, frozenset({"content-type"})))
        exchange.status = response.status
        self._started = response
        with suppress(ConnectionError):
            await response.prepare(self._request)
            while True:
                response.write_chunk(KEEPALIVE)
                await asyncio.sleep(self._settings.sse_keepalive_interval or after_s)

    async def _stop_task(self) -> None:
        # Waits for the task, so that a write in progress is not cut short.
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
