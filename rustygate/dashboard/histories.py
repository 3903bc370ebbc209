"""The last ten minutes of the gate, its lanes and its clients, kept even without viewers.

A timer takes samples every five seconds. That costs time by the number of lanes and clients, and
requests cost nothing more.
"""

import asyncio

from rustygate.admission.gate import Gate
from rustygate.core.history import CountHistory, History
from rustygate.telemetry.metrics import Metrics

INTERVAL_S = 5.0

# Ten minutes.
LENGTH = 120

# Five minutes of 429s.
_429_INTERVALS = 60

# A rate is computed over at least this time.
_MIN_SPAN_S = 1.0


class Histories:
    """The histories of a gate; `start` them, and `stop` them."""

    def __init__(self, gate: Gate, metrics: Metrics) -> None:
        self._gate = gate
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self.admitted = CountHistory(LENGTH)
        self.waiting = History(LENGTH)
        self._upstream_429s = CountHistory(_429_INTERVALS)
        # When the last two samples were taken.
        self._sampled = self._sampled_before = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self._loop.call_later(INTERVAL_S, self._sample)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @property
    def admitted_per_s(self) -> float:
        """Admissions per second, over the last five to ten seconds."""
        span_s = max(_MIN_SPAN_S, self._loop.time() - self._sampled_before)
        return self.admitted.growth(self._gate.dispatcher.activity.admitted, 1) / span_s

    @property
    def upstream_429s(self) -> int:
        """429s from upstream in the last five minutes, up to five seconds more."""
        return self._upstream_429s.growth(self._metrics.upstream_429s, _429_INTERVALS)

    def _sample(self) -> None:
        now = self._loop.time()
        # The process may have been stopped for a while.
        intervals = max(1, round((now - self._sampled) / INTERVAL_S))
        self._sampled_before, self._sampled = self._sampled, now
        self._timer = self._loop.call_later(INTERVAL_S, self._sample)
        dispatcher = self._gate.dispatcher
        dispatcher.activity.sample(intervals)
        self.admitted.sample(dispatcher.activity.admitted, intervals)
        self.waiting.sample(dispatcher.waiting, intervals)
        self._upstream_429s.sample(self._metrics.upstream_429s, intervals)
        for lane in self._gate.lanes:
            if lane.history is None:
                lane.history = CountHistory(LENGTH)
            lane.history.sample(lane.admitted, intervals)
