"""Refuses waiters as soon as it is known that they cannot be admitted by their deadlines.

On arrival a request is refused if its predicted wait is too long. That is not known while its
lane's limits are unknown, and changes with them. So when a lane's limits become known or change,
the lane is paused, or a request comes back to be sent again, the waits of its waiters are
predicted again, in the order in which they will be served: the refusal of one makes room for
those behind it.
"""

import asyncio
from collections.abc import Callable

from rustygate.admission.waiter import LaneQueue, Waiter, clock_ns
from rustygate.core.predicted_wait import Prediction
from rustygate.core.work import Work

# The waiters of a lane are examined at most once in this time, because it takes microseconds each.
INTERVAL_S = 1.0

# This many are refused in one turn of the event loop.
BATCH = 250


class LateWaiters:
    """Examines the waiters of lanes.

    Args:
        refuse: refuses a waiter whose wait is predicted to be too long.
    """

    def __init__(
        self,
        refuse: Callable[[Waiter, Prediction], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._refuse = refuse
        self._loop = loop
        # Lanes examined lately, and whether that has to be done again.
        self._examined: dict[LaneQueue, bool] = {}

    def examine(self, lane: LaneQueue, *, again: bool = False) -> None:
        """Refuse those waiters of a lane that cannot make it, now and after the interval.

        Args:
            again: this is the second time.
        """
        if not any(lane.waiting):
            return
        if lane in self._examined:
            self._examined[lane] = True
            return
        # Once more when the responses to the requests in flight have shown the level.
        self._examined[lane] = not again
        self._loop.call_later(INTERVAL_S, self._on_interval, lane)
        self._refuse_batch(self._late(lane))

    def _on_interval(self, lane: LaneQueue) -> None:
        if self._examined.pop(lane):
            self.examine(lane, again=True)

    def _refuse_batch(self, late: list[tuple[Waiter, Prediction]]) -> None:
        for waiter, predicted in late[:BATCH]:
            if not waiter.decided:
                self._refuse(waiter, predicted)
        if len(late) > BATCH:
            self._loop.call_soon(self._refuse_batch, late[BATCH:])

    def _late(self, lane: LaneQueue) -> list[tuple[Waiter, Prediction]]:
        """The waiters that cannot make it, with their predicted waits."""
        now, budgets = clock_ns(self._loop), lane.budgets
        # Upstream may have charged those in flight already: then they are not ahead.
        _, items, tokens = budgets.unanswered
        late, ahead = [], Work(0, -items, -tokens)
        for waiter in lane.in_order():
            wait = budgets.wait_behind(now, waiter.tokens, ahead.items, ahead.tokens)
            if wait > waiter.exchange.deadline - now:
                late.append((waiter, Prediction(wait, max(0, round(ahead.items)))))
            else:
                ahead = ahead.plus(1, budgets.token_charge(waiter.tokens))
        return late
