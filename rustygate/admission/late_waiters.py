"""Refuses waiters as soon as it is known that they cannot be admitted by their deadlines.

On arrival a request is refused if its predicted wait is too long. That is not known while its
lane's limits are unknown, and changes with them. So when a lane's limits become known or change,
the lane is paused, or a request comes back to be sent again, the waits of its waiters are
predicted again, in the order in which they will be served: the refusal of one makes room for
those behind it.
"""

import asyncio
from collections.abc import Callable, Iterator

from rustygate.admission.wait_queues import GateQueue, LaneQueue, Prediction, Waiter, clock_ns
from rustygate.core.backlog import Size, Work

# The waiters of a lane are examined at most once in this time, because it takes microseconds each.
INTERVAL_S = 1.0

# So many are refused in one turn of the event loop.
BATCH = 250


class LateWaiters:
    """Examines the waiters of lanes.

    Args:
        refuse: refuses a waiter whose wait is predicted to be too long.
    """

    def __init__(
        self,
        gate_queue: GateQueue,
        refuse: Callable[[Waiter, Prediction], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._gate_queue = gate_queue
        self._refuse = refuse
        self._loop = loop
        # Lanes examined lately, and whether that has to be done again.
        self._examined: dict[LaneQueue, bool] = {}

    def examine(self, lane_queue: LaneQueue, *, again: bool = False) -> None:
        """Refuse those waiters of a lane that cannot make it, now and after the interval.

        Args:
            again: this is the second time.
        """
        if not lane_queue.waiting:
            return
        if lane_queue in self._examined:
            self._examined[lane_queue] = True
            return
        # Once more when the responses to the requests in flight have told the level.
        self._examined[lane_queue] = not again
        self._loop.call_later(INTERVAL_S, self._on_interval, lane_queue)
        self._refuse_batch(self._late(lane_queue))

    def _on_interval(self, lane_queue: LaneQueue) -> None:
        if self._examined.pop(lane_queue):
            self.examine(lane_queue, again=True)

    def _refuse_batch(self, late: list[tuple[Waiter, Prediction]]) -> None:
        for waiter, predicted in late[:BATCH]:
            if not waiter.decided:
                self._refuse(waiter, predicted)
        if len(late) > BATCH:
            self._loop.call_soon(self._refuse_batch, late[BATCH:])

    def _late(self, lane_queue: LaneQueue) -> list[tuple[Waiter, Prediction]]:
        """The waiters that cannot make it, with their predicted waits."""
        now, lane = clock_ns(self._loop), lane_queue.lane
        # Upstream may have charged those in flight already: then they are not ahead.
        _, items, tokens = lane.unanswered
        late, ahead = [], Work(0, -items, -tokens)
        for waiter in self._in_order(lane_queue):
            wait = lane.wait_behind(now, waiter.tokens, ahead)
            if wait > waiter.exchange.deadline - now:
                late.append((waiter, Prediction(wait, max(0, round(ahead.items)))))
            else:
                ahead = ahead.plus(Size(1, lane.token_charge(waiter.tokens)))
        return late

    def _in_order(self, lane_queue: LaneQueue) -> Iterator[Waiter]:
        """The waiters of a lane in the order in which they will be served."""
        if lane_queue.candidate is not None:
            yield lane_queue.candidate
        yield from lane_queue.queue.in_order()
        if lane_queue.waiting > len(lane_queue.queue):
            for waiter in self._gate_queue.fair_queue.in_order():
                if lane_queue in waiter.wait_queues and waiter is not lane_queue.candidate:
                    yield waiter
