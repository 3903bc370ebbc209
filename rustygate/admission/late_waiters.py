"""Refuses waiters as soon as it is known that they cannot be admitted by their deadlines.

On arrival a request is refused if its predicted wait is too long. That is not known while its
lane's limits are unknown, and changes with them. So when a lane's limits become known or change,
the lane is paused, or a request comes back to be sent again, the waits of its waiters are
predicted again, in the order in which they will be served: the refusal of one makes room for
those behind it.
"""

import asyncio
from collections.abc import Callable

from rustygate.admission.waiter import LaneBudgets, Waiter, clock_ns
from rustygate.core.backlog import Size, Work
from rustygate.core.predicted_wait import Prediction

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
        refuse: Callable[[Waiter, Prediction], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._refuse = refuse
        self._loop = loop
        # Lanes examined lately, and whether that has to be done again.
        self._examined: dict[LaneBudgets, bool] = {}

    def examine(self, lane_budgets: LaneBudgets, *, again: bool = False) -> None:
        """Refuse those waiters of a lane that cannot make it, now and after the interval.

        Args:
            again: this is the second time.
        """
        if not any(lane_budgets.waiting):
            return
        if lane_budgets in self._examined:
            self._examined[lane_budgets] = True
            return
        # Once more when the responses to the requests in flight have told the level.
        self._examined[lane_budgets] = not again
        self._loop.call_later(INTERVAL_S, self._on_interval, lane_budgets)
        self._refuse_batch(self._late(lane_budgets))

    def _on_interval(self, lane_budgets: LaneBudgets) -> None:
        if self._examined.pop(lane_budgets):
            self.examine(lane_budgets, again=True)

    def _refuse_batch(self, late: list[tuple[Waiter, Prediction]]) -> None:
        for waiter, predicted in late[:BATCH]:
            if not waiter.decided:
                self._refuse(waiter, predicted)
        if len(late) > BATCH:
            self._loop.call_soon(self._refuse_batch, late[BATCH:])

    def _late(self, lane_budgets: LaneBudgets) -> list[tuple[Waiter, Prediction]]:
        """The waiters that cannot make it, with their predicted waits."""
        now, lane = clock_ns(self._loop), lane_budgets.lane
        # Upstream may have charged those in flight already: then they are not ahead.
        _, items, tokens = lane.unanswered
        late, ahead = [], Work(0, -items, -tokens)
        for waiter in lane_budgets.in_order():
            wait = lane.wait_behind(now, waiter.tokens, ahead)
            if wait > waiter.exchange.deadline - now:
                late.append((waiter, Prediction(wait, max(0, round(ahead.items)))))
            else:
                ahead = ahead.plus(Size(1, lane.token_charge(waiter.tokens)))
        return late
