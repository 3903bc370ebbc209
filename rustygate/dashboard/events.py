"""The state as server-sent events: computed once a second for all viewers.

Without viewers, nothing is computed and no timer runs. A slow viewer misses states: it next gets
the latest one, so at most one is buffered for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from rustygate.aiohttp_internals.response import HandshakeResponse, OwnResponse
from rustygate.dashboard.headers import STATE_HEADERS
from rustygate.errors import Draining, TooManyViewers
from rustygate.exchange import ID_HEADER, new_id
from rustygate.system.background import start_task
from rustygate.system.shared_counts import Count

INTERVAL_S = 1.0

# A viewer takes one connection of CONNECTION_LIMIT; most of them are for the API.
MOST_VIEWERS = 100
_CONNECTIONS_PER_VIEWER = 2

# How soon a page connects again after the stream has ended.
RETRY_MS = 1000

# A viewer that has not read a state after this time is disconnected.
SEND_TIMEOUT_S = 30.0

# There is an event each second, so no comments are needed to keep the stream alive.
_NO_PINGS_S = 24 * 3600.0


class Events:
    """The viewers of the state, and the task that computes it while there are any.

    Args:
        compute: the state as JSON.
        connections: how many connections the gate may have.
        count: of viewers here, and in other processes that share the limit.
    """

    def __init__(
        self, compute: Callable[[], Awaitable[str]], connections: int, count: Count
    ) -> None:
        self._compute = compute
        self._count = count
        self._limit = min(MOST_VIEWERS, max(1, connections // _CONNECTIONS_PER_VIEWER))
        self._latest = ""
        self._viewers: set[_Viewer] = set()
        self._updating: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Events {len(self._viewers)} viewers>"

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def close(self) -> None:
        """End all streams, including those that begin later."""
        self._closed = True
        self._end_streams()

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Send the state each second until the viewer leaves or the gate stops."""
        if request.method == hdrs.METH_HEAD:
            return OwnResponse(headers=STATE_HEADERS | {hdrs.CONTENT_TYPE: "text/event-stream"})
        response = _StateStream(ping_interval=_NO_PINGS_S, send_timeout=SEND_TIMEOUT_S)
        with self._viewer() as viewer:
            await response.prepare(request)
            # A viewer that leaves, or stops reading, is not an error.
            with suppress(ConnectionError, TimeoutError):
                async with response:
                    while await viewer.next_state():
                        await response.send(self._latest, retry=RETRY_MS)
        return response

    @contextmanager
    def _viewer(self) -> "Iterator[_Viewer]":
        viewer = _Viewer()
        self._viewers.add(viewer)
        self._count.own = len(self._viewers)
        try:
            if self._count.total > self._limit:
                raise TooManyViewers(self._limit)
            self._start(viewer)
            yield viewer
        finally:
            self._viewers.discard(viewer)
            self._count.own = len(self._viewers)
            if not self._viewers:
                self._stop()

    def _start(self, viewer: "_Viewer") -> None:
        if self._closed:
            viewer.end()
        elif self._updating is None:
            self._updating = start_task("computing the live page's state", self._update())
        elif self._latest:
            viewer.notify()

    def _stop(self) -> None:
        if self._updating is not None:
            self._updating.cancel()
        self._updating, self._latest = None, ""

    def _end_streams(self) -> None:
        for viewer in self._viewers:
            viewer.end()

    async def _update(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                self._latest = await self._compute()
                for viewer in self._viewers:
                    viewer.notify()
                # After a stall of the process, missed states are skipped.
                due = max(due + INTERVAL_S, loop.time())
                await asyncio.sleep(due - loop.time())
        except Exception as error:
            # Another viewer may come before the last of these has left.
            self._updating, self._latest = None, ""
            self._end_streams()
            # The supervisor of a worker may have ended.
            if not isinstance(error, Draining):
                raise


class _Viewer:
    """A viewer of the page: wakes at each new state."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._ended = False

    async def next_state(self) -> bool:
        """Wait for a state that the viewer has not received. Returns False at the end."""
        await self._changed.wait()
        self._changed.clear()
        return not self._ended

    def notify(self) -> None:
        """There is a new state."""
        self._changed.set()

    def end(self) -> None:
        """End the stream."""
        self._ended = True
        self._changed.set()


class _StateStream(HandshakeResponse, EventSourceResponse):
    """An event stream with the headers of the live page."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self.headers.update(STATE_HEADERS | {ID_HEADER: new_id()})
        return await super().prepare(request)
