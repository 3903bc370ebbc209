"""Pings on an idle WebSocket, so that no proxy or firewall drops the connection."""

import asyncio
from secrets import token_bytes

from rustygate.relay.websocket_side import Side

PAYLOAD_BYTES = 8


class Pinger:
    """Pings a side of a WebSocket whenever it has been silent for an interval.

    One timer, which compares its deadline with the time of the last read: setting one for each
    read would cost more.
    """

    def __init__(self, side: Side, interval_s: float) -> None:
        self._side = side
        self._interval_s = interval_s
        self._payload = token_bytes(PAYLOAD_BYTES)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(interval_s, self._check)

    def stop(self) -> None:
        """Send no more pings."""
        self._timer.cancel()

    def _check(self) -> None:
        now = self._loop.time()
        due = self._side.last_read_at + self._interval_s
        if due <= now:
            due = now + self._interval_s
            self._side.ping(self._payload)
        self._timer = self._loop.call_at(due, self._check)
