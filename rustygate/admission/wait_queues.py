"""Waiters, and the queues that they wait in.

The gate's queue (`GateQueue`) stands in front of the gate's own budgets. A waiter whose turn
comes while its client or lane has no budget left does not block the others: it moves to the wait
queue of that client or lane, in the same fair order, and its turn is refunded. When the budgets
suffice for the first waiter of a wait queue, it returns to the front of its flow in the gate's
queue as the candidate of that wait queue. The next one follows once the candidate is admitted.
Nothing is reserved for waiters, so any waiter that fits can use a budget.
"""

import asyncio
from typing import NamedTuple

from rustygate.core.backlog import Work
from rustygate.core.bucket import SECOND
from rustygate.core.budgets import Budgets
from rustygate.core.clients import Limits
from rustygate.core.fairqueue import FairQueue
from rustygate.core.flow import Flow
from rustygate.core.lane import AdmissionTotals, Lane
from rustygate.core.priority_class import CLASS_WEIGHTS
from rustygate.errors import Refusal
from rustygate.exchange import Exchange

# Waiters of a lane get new costs at most once in this time.
RESIZE_INTERVAL_S = 1.0

# An error message repeats at most this many characters of a model's or client's name.
MAX_NAME_SHOWN = 100


class Prediction(NamedTuple):
    """How long a waiter would wait, in nanoseconds, and about how many requests go before it."""

    wait: int
    ahead: int


class Waiter:
    """An attempt that needs admission, as the queues see it.

    `decision` is set while it waits, and resolves when it is admitted or refused. `had_turn_in`
    holds the wait queues that have made it their candidate. `limits` and `lane_totals` record
    what its client's and its lane's budgets were when it was charged.
    """

    __slots__ = (
        "decision", "exchange", "had_turn_in", "is_retry", "lane_queue", "lane_totals", "limits",
        "tokens", "wait_queues",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, wait_queues: "tuple[WaitQueue, ...]") -> None:
        self.exchange = exchange
        self.tokens = exchange.tokens
        self.is_retry = exchange.attempts > 0
        self.wait_queues = wait_queues
        self.had_turn_in: frozenset[WaitQueue] = frozenset()
        self.decision: asyncio.Future[None] | None = None
        self.lane_queue: LaneQueue
        self.limits: Limits
        self.lane_totals: AdmissionTotals

    @property
    def flow(self) -> Flow:
        return Flow(self.exchange.client, self.exchange.priority, self.exchange.weight)

    @property
    def rank(self) -> int | None:
        """The arrival time of a retry or a candidate, which go to the front of their flow in
        order of arrival; None for all others."""
        return self.exchange.arrived if self.is_retry or self.had_turn_in else None

    def work_ahead(self, queue: "FairQueue[Waiter]") -> Work:
        """About how much a queue would serve before this waiter."""
        return queue.work_ahead(self.flow) if self.rank is None else Work()

    @property
    def decided(self) -> bool:
        """Whether it was admitted, refused or cancelled."""
        return self.decision is not None and self.decision.done()

    @property
    def granted(self) -> bool:
        """Whether it was admitted, so that it owns what it was charged."""
        decision = self.decision
        if decision is None or not decision.done() or decision.cancelled():
            return False
        return decision.exception() is None

    def grant(self) -> None:
        assert self.decision is not None
        self.decision.set_result(None)

    def fail(self, error: Exception) -> None:
        """Pass on an error of the dispatcher."""
        if self.decision is not None and not self.decision.done():
            self.decision.set_exception(error)

    def refuse(self, refusal: Refusal) -> None:
        assert self.decision is not None
        if not self.decision.done():
            self.decision.set_exception(refusal)

    def drop_candidacy(self) -> None:
        """Stop being the candidate of any wait queue."""
        for wait_queue in self.wait_queues:
            wait_queue.drop_candidate(self)

    def return_turns(self) -> None:
        """Give the turns it had in wait queues back to its flow, because it left unserved."""
        for wait_queue in self.wait_queues:
            wait_queue.return_turn(self)


class GateQueue(asyncio.Queue[Waiter]):
    """An `asyncio.Queue` in the order of `FairQueue` instead of first in, first out.

    A waiter's turn costs its flow what the waiter takes from the gate's own budgets. `fair_queue`
    is the container, for what an `asyncio.Queue` has no method for.
    """

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        super().__init__()

    # The methods that asyncio.Queue calls to create and use its container.

    def _init(self, maxsize: int) -> None:
        self.fair_queue: FairQueue[Waiter] = FairQueue()
        self._queue = self.fair_queue

    def _put(self, item: Waiter) -> None:
        size = self._budgets.size(item.tokens)
        self._queue.push(item, item.flow, size, rank=item.rank)

    def _get(self) -> Waiter:
        return self._queue.pop()


class WaitQueue:
    """The waiters in front of the budgets of one client or lane, in the order of the gate's queue.

    `candidate` is the waiter that fits these budgets and is on its way through the gate's queue.
    `users` counts the attempts that hold a lane's queue, waiting or admitted. `waiting` and
    `waiting_tokens` count the waiters that need these budgets, in this queue or another, and the
    tokens that they cost.
    """

    def __init__(
        self, name: str, budgets: Budgets, gate_queue: GateQueue, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.name = name
        self.budgets = budgets
        self.queue: FairQueue[Waiter] = FairQueue()
        self.candidate: Waiter | None = None
        self.users = self.waiting = self.waiting_tokens = 0
        self._gate_queue = gate_queue
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.queue} {self.budgets}>"

    @property
    def owner(self) -> str:
        """The owner of the limits, for an error message: ` for gpt-4o`, or nothing."""
        return f" for {self.name[:MAX_NAME_SHOWN]}" if self.name else ""

    @property
    def limits_are_current(self) -> bool:
        """Whether a cost above these limits is certain to be above them later, too."""
        return True

    def can_admit(self, waiter: Waiter, now: int) -> bool:
        """Whether the budgets suffice and no other waiter comes first.

        A former candidate is not sent to the end of this queue again: a waiter that needs two
        queues would never get through both at once.
        """
        is_empty = self.candidate is None and not self.queue
        if not is_empty and self not in waiter.had_turn_in:
            return False
        return self.budgets.wait(now, waiter.tokens) == 0

    def count(self, waiter: Waiter, sign: int) -> None:
        """Count a waiter in (1) or out (-1)."""
        self.waiting += sign
        self.waiting_tokens += sign * waiter.tokens

    def take(self, admitted: Waiter, at: int) -> None:
        """Charge the budgets for an admission."""
        self.budgets.take(at, admitted.tokens)
        self.drop_candidate(admitted)

    def charged(self, admitted: Waiter) -> bool:
        """Whether the present budgets are the ones that were charged for an admission."""
        return True

    def enqueue(self, waiter: Waiter) -> None:
        """Add a waiter whose turn came before the budgets sufficed."""
        size = self.budgets.size(waiter.tokens)
        if waiter is self.candidate:
            self.candidate = None
        rank = waiter.rank
        self._refund(waiter)
        self.queue.push(waiter, waiter.flow, size, rank=rank)
        self.advance()

    def drop_candidate(self, waiter: Waiter) -> None:
        """If the waiter is the candidate, let the next one follow: it was admitted, or waits in
        another queue."""
        if waiter is self.candidate:
            self.candidate = None
            self.advance()

    def return_turn(self, waiter: Waiter) -> None:
        """Refund the turn that a waiter had here, because it left unserved."""
        self._refund(waiter)
        self.drop_candidate(waiter)

    def _refund(self, waiter: Waiter) -> None:
        if self in waiter.had_turn_in:
            waiter.had_turn_in -= {self}
            self.queue.refund(waiter.flow, self.budgets.cost(waiter.tokens))

    def remove(self, waiter: Waiter) -> bool:
        """Remove a waiter that left; False if it was not in this queue."""
        if not self.queue.remove(waiter, waiter.flow):
            return False
        self.advance()
        return True

    def refuse_all(self, refusal: Refusal) -> None:
        while self.queue:
            self.queue.pop().refuse(refusal)

    def advance(self) -> None:
        """Make the first waiter the candidate, or set a timer for when the budgets suffice for
        it. Called after every change to the queue or the budgets."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.candidate is not None:
            return
        if not self.queue:
            self.queue.end_busy_period()
            return
        wait = self.budgets.wait(self._now(), self.queue.peek().tokens)
        if wait == 0:
            self.candidate = self.queue.pop()
            self.candidate.had_turn_in |= {self}
            self._gate_queue.put_nowait(self.candidate)
        elif wait is not None:
            self._timer = self._loop.call_later(wait / SECOND + 1e-6, self._on_timer)

    def predict(self, waiter: Waiter, now: int, at_most: bool) -> Prediction:
        """The wait for these budgets alone; with `at_most` an upper bound, which is cheap."""
        ahead = self._all_waiting() if at_most else self._work_ahead(waiter)
        wait = self.budgets.wait_behind(now, waiter.tokens, ahead)
        return Prediction(wait, round(ahead.items))

    def _work_ahead(self, waiter: Waiter) -> Work:
        ahead = waiter.work_ahead(self.queue)
        if self.candidate is None:
            return ahead
        return ahead.plus(self.budgets.size(self.candidate.tokens))

    def _all_waiting(self) -> Work:
        return Work(0, self.waiting, self.waiting_tokens)

    def resize(self) -> None:
        """Give all waiters new costs, because the limits that costs are measured by changed."""
        if self.queue:
            self.queue.resize_items(lambda waiter: self.budgets.size(waiter.tokens))

    def _now(self) -> int:
        return clock_ns(self._loop)

    def _on_timer(self) -> None:
        self._timer = None
        self.advance()


class ClientQueue(WaitQueue):
    """The wait queue of a client's own limits, which the operator can change at any time."""

    def __init__(
        self, name: str, budgets: Budgets, gate_queue: GateQueue, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(name, budgets, gate_queue, loop)
        self.limits = Limits()
        self._classes = dict.fromkeys(CLASS_WEIGHTS, Work())

    @property
    def owner(self) -> str:
        return f" for client {self.name[:MAX_NAME_SHOWN]}"

    def take(self, admitted: Waiter, at: int) -> None:
        super().take(admitted, at)
        admitted.limits = self.limits

    def charged(self, admitted: Waiter) -> bool:
        """False after the limits changed: new limits begin with full budgets."""
        return admitted.limits is self.limits

    def count(self, waiter: Waiter, sign: int) -> None:
        super().count(waiter, sign)
        _, items, tokens = self._classes[waiter.flow.priority]
        self._classes[waiter.flow.priority] = Work(0, items + sign, tokens + sign * waiter.tokens)

    def _work_ahead(self, waiter: Waiter) -> Work:
        """All of the client's waiters in the same class, because those in a lane's queue will
        need these budgets too, and what the other classes get in the meantime."""
        if waiter.rank is not None:
            return Work()
        priority = waiter.flow.priority
        _, items, tokens = self._classes[priority]
        turn = self._cost(priority) / CLASS_WEIGHTS[priority]
        for name, other in self._classes.items():
            if name != priority and other.items:
                share = turn * CLASS_WEIGHTS[name] / self._cost(name)
                share = min(1, max(1 / other.items, share))
                items += share * other.items
                tokens += share * other.tokens
        return Work(0, items, tokens)

    def _cost(self, priority: str) -> float:
        """The cost of all waiters of a class."""
        _, items, tokens = self._classes[priority]
        request, token = self.budgets.refill_periods
        return max(items, items * request, tokens * token)

    def set_limits(self, limits: Limits) -> None:
        if limits != self.limits:
            self.limits = limits
            self.budgets.replace_limits(limits.budgets())
            self.resize()
            self.advance()


class LaneQueue(WaitQueue):
    """The wait queue of a lane, whose limits can change with each response."""

    def __init__(
        self, model: str, lane: Lane, gate_queue: GateQueue, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(model, lane, gate_queue, loop)
        self.lane = lane
        self._refill_periods = lane.refill_periods
        self._resize_timer: asyncio.TimerHandle | None = None

    def take(self, admitted: Waiter, at: int) -> None:
        super().take(admitted, at)
        admitted.lane_totals = self.lane.totals

    @property
    def limits_are_current(self) -> bool:
        return self.lane.recently_updated(self._now())

    def on_limits_changed(self) -> None:
        """Give the waiters new costs if the limits changed enough, at most once per interval.

        New costs make all flows equal again. Limits that change with each response must not do
        that with each response, so a change within the interval waits for its end.
        """
        if self._resize_timer is None and _differ(self._refill_periods, self.lane.refill_periods):
            self._refill_periods = self.lane.refill_periods
            self._resize_timer = self._loop.call_later(RESIZE_INTERVAL_S, self._on_resize_timer)
            self.resize()

    def _on_resize_timer(self) -> None:
        self._resize_timer = None
        self.on_limits_changed()


def clock_ns(loop: asyncio.AbstractEventLoop) -> int:
    """An event loop's clock in nanoseconds."""
    return int(loop.time() * SECOND)


def _differ(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether costs in two units differ by more than a factor of two."""
    pairs = (sorted(pair) for pair in zip(one, other, strict=True))
    return any(greater > 2 * lesser for lesser, greater in pairs)
