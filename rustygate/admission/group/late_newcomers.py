"""Refuses requests as soon as the group has told what waits before them at other members.

On arrival, a gate knows that of flows that it has reported. Of a flow that is new to it, such as
that of a client's first request here, the reply to the report tells. The waits of its waiters are
predicted again then; at a single gate they are known on arrival.
"""

import asyncio
from collections.abc import Callable, Iterator

from rustygate.admission.waiter import Waiter
from rustygate.core.predicted_wait import Prediction
from rustygate.core.work import NO_WORK, Work

# So many are examined in one turn of the event loop.
BATCH = 100


class LateNewcomers:
    """Examines the waiters of flows.

    Args:
        predict: the wait of a waiter that has so much before it in its flow here, if that may be
            too long for it.
        refuse: refuses a waiter whose wait is predicted to be too long.
    """

    def __init__(
        self,
        predict: Callable[[Waiter, Work], Prediction | None],
        refuse: Callable[[Waiter, Prediction], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._predict = predict
        self._refuse = refuse
        self._loop = loop

    def examine(self, waiters: list[Waiter]) -> None:
        """Refuse those of a flow that cannot make it. The refusal of one makes room for those
        behind it."""
        self._examine_batch(iter(waiters), NO_WORK)

    def _examine_batch(self, waiters: Iterator[Waiter], before: Work) -> None:
        for _ in range(BATCH):
            waiter = next(waiters, None)
            if waiter is None:
                return
            if waiter.decided:
                continue
            predicted = self._predict(waiter, before)
            if predicted is None:
                before = before.plus(0, waiter.tokens)
            else:
                self._refuse(waiter, predicted)
        self._loop.call_soon(self._examine_batch, waiters, before)
