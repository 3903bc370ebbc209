"""Keepalives in an event stream that is idle.

`relay.queue_keepalive` writes those of a request that is still in the queue.
"""

import asyncio
from contextlib import suppress

from aiohttp import web

from rustygate.core.response_observer import ResponseObserver
from rustygate.core.sse import KEEPALIVE
from rustygate.downstream.response import PassthroughResponse


class Keepalive:
    """Writes a keepalive whenever a stream has been idle for an interval, at an event boundary
    and only to a client that reads.

    One timer a stream, which compares its deadline with the time of the last byte. Resetting a
    timer for each chunk would cost more.

    Args:
        idle_since: when bytes last passed, on the loop's clock; the stream updates it.
    """

    def __init__(
        self,
        request: web.Request,
        response: PassthroughResponse,
        observer: ResponseObserver,
        interval_s: float,
        idle_since: float,
    ) -> None:
        self._request = request
        self._response = response
        self._observer = observer
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since = idle_since

    def start(self) -> None:
        """Start the timer."""
        self._timer = self._loop.call_at(self.idle_since + self._interval_s, self._check)

    def stop(self) -> None:
        """Write no more keepalives."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        # Bytes that arrived in this turn of the loop were passed before this ran.
        now = self._loop.time()
        due = self.idle_since + self._interval_s
        if due <= now:
            due = now + self._interval_s
            self._write()
        self._timer = self._loop.call_at(due, self._check)

    def _write(self) -> None:
        if self._observer.at_boundary and not self._request.protocol.writing_paused:
            with suppress(ConnectionError):
                self._response.write_chunk(KEEPALIVE)
