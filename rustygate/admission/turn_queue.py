"""The order of the turns in one WebSocket, and a turn's way through the gate.

Each turn waits for the same budgets as a request, from its arrival on. Turns for different models
wait in different lanes, so a later one could be admitted first. It would then hold what it was
granted until the earlier one goes upstream, perhaps the very slot that the earlier one waits for.
So a turn is admitted only after all turns before it.
"""

import asyncio
from collections import OrderedDict

from rustygate.admission.admission import Admission
from rustygate.admission.dispatcher import Dispatcher
from rustygate.admission.lanes import Lanes
from rustygate.admission.wait_queues import (
    ClientQueue,
    GateQueue,
    Prediction,
    Waiter,
    WaitQueue,
)
from rustygate.core.budgets import Budgets
from rustygate.errors import Refusal
from rustygate.exchange import Exchange


class TurnQueue(WaitQueue):
    """A wait queue without limits of its own, that admits the turns of a WebSocket in order.

    `line` has all turns that wait, in this queue or another. Those in this queue had their turn
    in the gate's queue before it could be used.
    """

    def __init__(self, gate_queue: GateQueue, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__("", Budgets(), gate_queue, loop)
        self.line: OrderedDict[Waiter, None] = OrderedDict()
        self._early: set[Waiter] = set()

    def __repr__(self) -> str:
        return f"<TurnQueue {len(self.line)} waiting, {len(self._early)} of them here>"

    def can_admit(self, waiter: Waiter, now: int) -> bool:
        return next(iter(self.line), waiter) is waiter

    def count(self, waiter: Waiter, sign: int) -> None:
        if sign > 0:
            self.line[waiter] = None
        else:
            self._count_out(waiter)

    def take(self, admitted: Waiter, at: int) -> None:
        super().take(admitted, at)
        self._count_out(admitted)

    def enqueue(self, waiter: Waiter) -> None:
        waiter.had_turn_in -= {self}
        self._early.add(waiter)

    def remove(self, waiter: Waiter) -> bool:
        was_here = waiter in self._early
        self._early.discard(waiter)
        return was_here

    def refuse_all(self, refusal: Refusal) -> None:
        for waiter in self.line:
            if waiter in self._early:
                waiter.refuse(refusal)
        self._early.clear()

    def advance(self) -> None:
        """Return the first turn to the front of its flow in the gate's queue."""
        first = next(iter(self.line), None)
        if first in self._early:
            self._early.remove(first)
            first.had_turn_in |= {self}
            self._gate_queue.put_nowait(first)

    def predict(self, waiter: Waiter, now: int, at_most: bool) -> Prediction:
        """Nothing of its own: the turns before this one have earlier deadlines."""
        return Prediction(0, 0)

    def _count_out(self, waiter: Waiter) -> None:
        self.line.pop(waiter, None)
        self.advance()


class TurnAdmission(Admission):
    """A turn's way through the gate, after the turns before it in its WebSocket."""

    __slots__ = ()

    def __init__(
        self,
        exchange: Exchange,
        dispatcher: Dispatcher,
        lanes: Lanes,
        client_queue: ClientQueue | None,
        turn_queue: TurnQueue,
    ) -> None:
        super().__init__(exchange, dispatcher, lanes, client_queue)
        self.wait_queues += (turn_queue,)
