"""The lanes by key: a bounded set, because clients choose the names.

The key is the model or, for requests that name none, the endpoint (`core.lane_key`). A lane that
upstream has not confirmed with a successful response is deleted when its last request leaves. Of
the others, the least recently used go first when there are too many.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from rustygate.admission.wait_queues import GateQueue, LaneQueue, clock_ns
from rustygate.core.lane import Lane
from rustygate.core.pace import Pace
from rustygate.core.pace_group import PaceGroup

# Unused lanes are deleted above this number.
MAX_LANES = 1000

# So many lanes are examined each time there are too many.
_EXAMINED = 8


class Lanes:
    """The wait queue of each lane, the least recently used first.

    Args:
        probes: how many requests of a lane may be in flight before its first response; None: any
            number.
    """

    def __init__(
        self, probes: int | None, gate_queue: GateQueue, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._queues: OrderedDict[str, LaneQueue] = OrderedDict()
        self._probes = probes
        self._pace_group = PaceGroup()
        self._gate_queue = gate_queue
        self._loop = loop

    def __iter__(self) -> Iterator[LaneQueue]:
        return iter(self._queues.values())

    def __len__(self) -> int:
        return len(self._queues)

    def queue(self, key: str | None) -> LaneQueue:
        """The wait queue of a lane; requests without a key share one."""
        name = key or ""
        queue = self._queues.get(name)
        if queue is None:
            lane = Lane(slots=self._probes, pace_group=self._pace_group)
            queue = self._queues[name] = LaneQueue(name, lane, self._gate_queue, self._loop)
        else:
            self._queues.move_to_end(name)
        return queue

    def is_known(self, key: str) -> bool:
        """Whether upstream has confirmed that a model or endpoint exists, as far as is
        remembered."""
        queue = self._queues.get(key)
        return queue is not None and queue.lane.known

    def advance_pace(self, pace: Pace | None) -> None:
        """A pace became faster: set the timers of the lanes that share it anew."""
        for queue in self._queues.values():
            if queue.lane.pace is pace:
                queue.advance()

    def release(self, queue: LaneQueue) -> None:
        """Count out a user of a lane; a lane that holds no knowledge goes with its last user."""
        queue.users -= 1
        lane = queue.lane
        if not (queue.users or lane.known) and lane.is_evictable(clock_ns(self._loop)):
            self._queues.pop(queue.name, None)
        elif len(self._queues) > MAX_LANES:
            self._evict()

    def _evict(self) -> None:
        """Delete the least recently used lanes while there are too many.

        Only a few are examined. Those in use count as used just now, so that they are not
        examined again next time.
        """
        for key, queue in list(islice(self._queues.items(), _EXAMINED)):
            if len(self._queues) <= MAX_LANES:
                return
            if queue.users:
                self._queues.move_to_end(key)
            else:
                del self._queues[key]
