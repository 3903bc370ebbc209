"""The lanes by key: a bounded set, because clients choose the names.

The key is the model or, for requests that name none, the endpoint (`core.lane_key`). A lane that
upstream has not confirmed with a successful response is deleted when its last request leaves. Of
the others, the least recently used go first when there are too many.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from rustygate.admission.waiter import LaneQueue, clock_ns
from rustygate.core.budgets import periods_differ
from rustygate.core.lane import Lane
from rustygate.core.pace import Pace
from rustygate.core.pace_group import PaceGroup

# Unused lanes are deleted above this number.
MAX_LANES = 1000

# The flows of a lane are made equal at most once in this time.
RESET_INTERVAL_S = 1.0

# This many lanes are examined each time there are too many.
_EXAMINED = 8


class Lanes:
    """The budgets of each lane, the least recently used first.

    Args:
        probes: how many requests of a lane may be in flight before its first response; None: any
            number.
    """

    def __init__(self, probes: int | None, loop: asyncio.AbstractEventLoop) -> None:
        self._lanes: OrderedDict[str, LaneQueue] = OrderedDict()
        self.probes = probes
        self._pace_group = PaceGroup()
        self._loop = loop
        self._lately_reset: set[LaneQueue] = set()

    def __iter__(self) -> Iterator[LaneQueue]:
        return iter(self._lanes.values())

    def __len__(self) -> int:
        return len(self._lanes)

    def get(self, key: str | None) -> LaneQueue:
        """The budgets of a lane; requests without a key share one."""
        name = key or ""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = LaneQueue(
                name, Lane(slots=self.probes, pace_group=self._pace_group)
            )
        else:
            self._lanes.move_to_end(name)
        return lane

    def find(self, key: str) -> LaneQueue | None:
        """A lane, if there is one. It does not count as used."""
        return self._lanes.get(key)

    def is_known(self, key: str) -> bool:
        """Whether upstream has confirmed that a model or endpoint exists, as far as is
        remembered."""
        lane = self._lanes.get(key)
        return lane is not None and lane.budgets.known

    def sharing_pace(self, pace: Pace | None) -> list[LaneQueue]:
        """The lanes that share a pace."""
        return [lane for lane in self._lanes.values() if lane.budgets.current_pace is pace]

    def release(self, lane: LaneQueue) -> None:
        """Count out a user of a lane; a lane that holds no knowledge goes with its last user."""
        lane.users -= 1
        if not lane.users and lane.budgets.is_evictable(clock_ns(self._loop)):
            self._lanes.pop(lane.name, None)
        elif len(self._lanes) > MAX_LANES:
            self._evict()

    def on_limits_changed(self, lane: LaneQueue) -> None:
        """Make all flows of a lane equal again if its limits changed enough, at most once per
        interval.

        Their tags were in the old unit of cost. Limits that change with each response must not do
        that with each response, so a change within the interval waits for its end.
        """
        periods = lane.budgets.refill_periods
        if lane in self._lately_reset or not periods_differ(lane.refill_periods, periods):
            return
        lane.refill_periods = periods
        lane.forget_order()
        self._lately_reset.add(lane)
        self._loop.call_later(RESET_INTERVAL_S, self._on_reset_interval, lane)

    def _on_reset_interval(self, lane: LaneQueue) -> None:
        self._lately_reset.discard(lane)
        self.on_limits_changed(lane)

    def _evict(self) -> None:
        """Delete the least recently used lanes while there are too many.

        Only a few are examined. Those in use count as used just now, so that they are not
        examined again next time.
        """
        for key, lane in list(islice(self._lanes.items(), _EXAMINED)):
            if len(self._lanes) <= MAX_LANES:
                return
            if lane.users:
                self._lanes.move_to_end(key)
            else:
                del self._lanes[key]
