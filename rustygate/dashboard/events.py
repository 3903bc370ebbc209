"""The state as server-sent events: computed once a second for all viewers.

Nothing is computed, and no timer runs, while nobody looks. A viewer that reads slowly misses
states: the next one it gets is the latest, so at most one is buffered for it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from rustygate.aiohttp_internals.response import HandshakeResponse, OwnResponse
from rustygate.dashboard.headers import STATE_HEADERS
from rustygate.errors import TooManyViewers
from rustygate.exchange import ID_HEADER, new_id

INTERVAL_S = 1.0

# Each viewer occupies a connection of CONNECTION_LIMIT.
VIEWER_LIMIT = 100

# How soon a page connects again after the stream has ended.
RETRY_MS = 1000

# A viewer that has not read a state after this time is disconnected.
SEND_TIMEOUT_S = 30.0

# There is an event each second, so no comments are needed to keep the stream alive.
_NO_PINGS_S = 24 * 3600.0


class Events:
    """The viewers of the state, and the timer that runs while there are any.

    Args:
        compute: the state as JSON.
    """

    def __init__(self, compute: Callable[[], str]) -> None:
        self._compute = compute
        self._latest = ""
        self._viewers: set[_Viewer] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Events {len(self._viewers)} viewers>"

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def close(self) -> None:
        """End all streams. Those that begin later end after one state."""
        self._closed = True
        for viewer in self._viewers:
            viewer.end()

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Send the state each second until the viewer leaves or the gate stops."""
        if request.method == hdrs.METH_HEAD:
            return OwnResponse(headers=STATE_HEADERS | {hdrs.CONTENT_TYPE: "text/event-stream"})
        if len(self._viewers) >= VIEWER_LIMIT:
            raise TooManyViewers(VIEWER_LIMIT)
        with self._viewer() as viewer:
            response = _StateStream(ping_interval=_NO_PINGS_S, send_timeout=SEND_TIMEOUT_S)
            await response.prepare(request)
            async with response:
                async for state in self._states(viewer):
                    await response.send(state, retry=RETRY_MS)
        return response

    @contextmanager
    def _viewer(self) -> "Iterator[_Viewer]":
        viewer = _Viewer()
        if not self._viewers:
            self._start()
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                self._stop()

    async def _states(self, viewer: "_Viewer") -> AsyncIterator[str]:
        """The latest state at once, and each new one that the viewer is ready for."""
        yield self._latest
        while not self._closed:
            await viewer.changed()
            yield self._latest

    def _start(self) -> None:
        self._latest = self._compute()
        self._schedule(asyncio.get_running_loop().time() + INTERVAL_S)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._latest = None, ""

    def _schedule(self, at: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(at, self._tick, at)

    def _tick(self, due: float) -> None:
        # After a stall of the process, missed ticks are not made up for.
        now = asyncio.get_running_loop().time()
        self._schedule(max(due + INTERVAL_S, now))
        self._latest = self._compute()
        for viewer in self._viewers:
            viewer.notify()


class _Viewer:
    """Someone who looks: wakes at each new state."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait for a state that the viewer has not got."""
        await self._changed.wait()
        self._changed.clear()

    def notify(self) -> None:
        self._changed.set()

    end = notify


class _StateStream(HandshakeResponse, EventSourceResponse):
    """An event stream with the headers of the live page."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self.headers.update(STATE_HEADERS | {ID_HEADER: new_id()})
        return await super().prepare(request)
