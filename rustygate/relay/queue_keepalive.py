"""A streaming request that queues long gets its answer's head early, and keepalives.

QUEUE_KEEPALIVE_AFTER is for clients, and for proxies before them, that give up on a connection
that stays silent. The price: once the head has gone down, the status is 200 whatever comes, and
upstream's own headers have no place any more. What goes wrong afterwards is told in the stream.
"""

import asyncio
import json
from contextlib import suppress
from time import monotonic_ns
from typing import Any, Self

from aiohttp import web

from rustygate.config import Settings
from rustygate.core.sse import KEEPALIVE
from rustygate.core.websocket_handshake import SWITCHING_PROTOCOLS
from rustygate.downstream.response import PassthroughResponse
from rustygate.errors import Refusal
from rustygate.exchange import Exchange
from rustygate.relay.pipe import Downstream, break_off, is_plain_event_stream, pipe, read_ahead
from rustygate.relay.websocket import bridge
from rustygate.upstream.pool import UpstreamResponse


class QueueKeepalive:
    """Keeps one exchange's client company until its answer goes down.

    `queues` and `admitted` frame its waiting; a head that has gone down by then is kept company
    until the answer comes. `deliver` and `refuse` are for whatever comes. As an async context
    manager it ends whatever it began.
    """

    def __init__(self, request: web.Request, exchange: Exchange, settings: Settings) -> None:
        self._request = request
        self._exchange = exchange
        self._settings = settings
        self._early: PassthroughResponse | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    def queues(self) -> None:
        """The exchange asks for admission."""
        after_s = self._settings.queue_keepalive_after
        if after_s is not None and self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(after_s))

    async def admitted(self) -> None:
        """It waits no more."""
        if self._early is None:
            await self._stop()

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def deliver(
        self, answer: UpstreamResponse, read: bytes | None = None
    ) -> web.StreamResponse:
        """Pass an answer on, as `pipe` does; an error goes into a stream that has begun. If
        upstream agreed to a WebSocket, `bridge` it."""
        if answer.status == SWITCHING_PROTOCOLS:
            return await bridge(self._request, answer, self._exchange)
        downstream = await self._downstream()
        if downstream.early is None or is_plain_event_stream(answer):
            return await pipe(downstream, answer, read)
        self._exchange.outcome = "upstream_error"
        if read is None:
            read = await read_ahead(answer, self._settings)
        return await break_off(downstream, _error_in(read, answer.status))

    async def refuse(self, refusal: Refusal) -> web.StreamResponse | None:
        """Tell a refusal in the stream; None if none has begun."""
        downstream = await self._downstream()
        if downstream.early is None:
            return None
        return await break_off(downstream, refusal.error())

    async def _downstream(self) -> Downstream:
        await self._stop()
        return Downstream(self._request, self._exchange, self._settings, self._early)

    async def _keep(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        waited = monotonic_ns() - self._exchange.arrived
        headers = [("Content-Type", "text/event-stream"), *self._exchange.headers(waited)]
        response = PassthroughResponse(200, None, headers)
        self._exchange.status = response.status
        self._early = response
        with suppress(ConnectionError):
            await response.prepare(self._request)
            while True:
                response.put(KEEPALIVE)
                await asyncio.sleep(self._settings.sse_keepalive_interval or after_s)

    async def _stop(self) -> None:
        """Write no more. A write that was begun is finished, so that no line is cut."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait((self._keeping,))
            self._keeping = None


def _error_in(body: bytes, status: int) -> dict[str, Any]:
    """Upstream's error object, or one that tells its status."""
    with suppress(ValueError, RecursionError):
        said = json.loads(body)
        if isinstance(said, dict) and isinstance(said.get("error"), dict):
            error: dict[str, Any] = said["error"]
            return error
    message = f"Upstream answered {status} instead of a stream."
    return {"message": message, "type": "upstream_error", "param": None, "code": None}
