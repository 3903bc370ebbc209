"""Refuses requests as soon as the gate knows that those waiting at other members make them late.

On arrival, a gate knows what waits elsewhere in the flows that it has reported. For a new flow,
such as that of a client's first request here, it learns this from the reply to the report, and
then predicts the waits of the flow's waiters again. A single gate knows all waits on arrival.
"""

import asyncio
from collections.abc import Callable, Iterator

from rustygate.admission.waiter import Waiter
from rustygate.core.predicted_wait import Prediction
from rustygate.core.work import NO_WORK, Work

# How many waiters are examined in one iteration of the event loop.
BATCH = 100


class LateNewcomers:
    """Examines the waiters of flows.

    Args:
        predict: the wait of a waiter with this much work before it in its flow here, or None if
            it is not too late.
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
        """Refuse the waiters of a flow that are too late. Each refusal makes room for those
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
