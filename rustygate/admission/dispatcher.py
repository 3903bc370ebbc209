"""The dispatcher: the gate's own budgets, the queue in front of them, and who is admitted next.

An exchange is admitted when every budget it needs suffices: the gate's own (requests, tokens,
slots in flight), its client's if it has limits of its own, and its lane's, which upstream's
responses set for each model. While no waiter needs the same budgets and all of them suffice,
admission is a few assignments. Otherwise the exchange waits in the gate's queue, an
`asyncio.Queue` in the order of `core.fairqueue`. One task takes the waiter whose turn it is,
sleeps until the gate's own budgets suffice, and admits it.

A waiter owns what it was granted before it wakes, and gives it back if it is cancelled at that
moment. A newcomer never overtakes: it is admitted on arrival only if no waiter needs what it
needs.

Time is the event loop's clock in integer nanoseconds, so that tests can use a virtual clock.
"""

import asyncio

from rustygate.admission import refusals
from rustygate.admission.late_waiters import LateWaiters
from rustygate.admission.wait_queues import (
    GateQueue,
    LaneQueue,
    Prediction,
    Waiter,
    WaitQueue,
    clock_ns,
)
from rustygate.config import Settings
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.priority_class import CLASS_WEIGHTS
from rustygate.errors import Draining
from rustygate.exchange import MS

# A timer of the event loop fires up to a millisecond late (epoll counts in milliseconds), and
# later on a busy machine. An admission that became due while its waiter was at the head is charged
# to the instant it was due, or a bucket without burst would lose that time with each unit. Delays
# above this slack are charged to the present: a stalled process must not burst afterwards.
TIMER_SLACK = 2 * MS


class Dispatcher:
    """Admits waiters in fair order as the gate's own budgets allow.

    Once it is `closed`, newcomers are refused, too.
    """

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.budgets = _own_budgets(settings)
        self.queue = GateQueue(self.budgets)
        self.waiting = 0
        self.waiting_by_class = dict.fromkeys(CLASS_WEIGHTS, 0)
        self.closed = False
        self._late_waiters = LateWaiters(self.queue, self._refuse_late, loop)
        self._queue_limit = settings.queue_limit
        self._loop = loop
        self._head: Waiter | None = None
        self._wake_up: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._loop.create_task(self._dispatch(), name="dispatcher")

    def close(self) -> None:
        """Stop, and refuse all waiters in the gate's queue."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()
        if self._head is not None:
            self._head.refuse(Draining())
        while self.queue.fair_queue:
            self.queue.fair_queue.pop().refuse(Draining())

    def now(self) -> int:
        """The event loop's clock, in nanoseconds."""
        return clock_ns(self._loop)

    def admit_at_once(self, newcomer: Waiter) -> bool:
        """Admit a newcomer if no waiter needs what it needs and all budgets suffice."""
        if self.closed or self._head is not None or self.queue.fair_queue:
            return False
        now = self.now()
        if _blocking_queue(newcomer, now) is not None:
            return False
        if self.budgets.wait(now, newcomer.tokens) != 0:
            return False
        self._take(newcomer, now)
        return True

    def charge(self, newcomer: Waiter) -> None:
        """Charge the budgets for what has begun without admission. The waiters wait longer."""
        self._take(newcomer, self.now())

    async def wait_for_turn(self, newcomer: Waiter, deadline: int) -> None:
        """Wait until admitted. Raises a refusal at the deadline at the latest.

        If this is cancelled, call `cancel`.
        """
        self._refuse_on_arrival(newcomer, deadline)
        newcomer.decision = self._loop.create_future()
        timer = self._loop.call_at(deadline / SECOND, self._expire, newcomer)
        self.queue.put_nowait(newcomer)
        self._count(newcomer, 1)
        if newcomer.is_retry:
            # It comes before those that were predicted to make it, and may itself be too late.
            self._late_waiters.examine(newcomer.lane_queue)
        try:
            await newcomer.decision
        finally:
            self._count(newcomer, -1)
            timer.cancel()

    def cancel(self, waiter: Waiter) -> None:
        """Remove a waiter whose client left, and give its turns back to its flow."""
        if waiter.granted:
            waiter.return_turns()
            self._refund(waiter)
        else:
            self._remove(waiter)

    def wake(self) -> None:
        """Wake the task, because one of the gate's own budgets has changed."""
        if self._wake_up is not None and not self._wake_up.done():
            self._wake_up.set_result(None)

    def on_lane_changed(self, lane_queue: LaneQueue) -> None:
        """A lane's limits have changed, or it is paused: refuse those that now wait too long."""
        self._late_waiters.examine(lane_queue)

    def predict(self, waiter: Waiter, *, at_most: bool = False) -> Prediction:
        """The wait of a newcomer, as far as it depends on time alone: a slot that must become free
        is not included. With `at_most`, an upper bound that is quick to compute."""
        now, queue = self.now(), self.queue.fair_queue
        ahead = queue.total_work() if at_most else waiter.work_ahead(queue)
        if self._head is not None:
            ahead = ahead.plus(self.budgets.size(self._head.tokens))
        wait = self.budgets.wait_behind(now, waiter.tokens, ahead)
        own = Prediction(wait, round(ahead.items))
        return max(own, *(each.predict(waiter, now, at_most) for each in waiter.wait_queues))

    def _count(self, waiter: Waiter, sign: int) -> None:
        self.waiting += sign
        self.waiting_by_class[waiter.flow.priority] += sign
        for wait_queue in waiter.wait_queues:
            wait_queue.count(waiter, sign)

    def _take(self, admitted: Waiter, at: int) -> None:
        self.budgets.take(at, admitted.tokens)
        for wait_queue in admitted.wait_queues:
            wait_queue.take(admitted, at)

    def _refund(self, waiter: Waiter) -> None:
        """Undo what an unused turn in the gate's queue cost the waiter's flow."""
        self.queue.fair_queue.refund(waiter.flow, self.budgets.cost(waiter.tokens))

    # The task.

    async def _dispatch(self) -> None:
        while True:
            self._head = await self.queue.get()
            try:
                await self._serve(self._head)
            except Exception as error:
                # A defect costs one waiter its turn, and does not stop the gate.
                self._head.fail(error)
            self._head = None
            if not self.queue.fair_queue:
                self.queue.fair_queue.end_busy_period()

    async def _serve(self, waiter: Waiter) -> None:
        """Admit the waiter at the head once the gate's own budgets suffice, unless it leaves
        first, or has to wait in the queue of its client or lane."""
        at = self.now()
        while not waiter.decided:
            blocking = _blocking_queue(waiter, at)
            if blocking is not None:
                blocking.enqueue(waiter)
                waiter.drop_candidacy()
                break
            wait = self.budgets.wait(at, waiter.tokens)
            if wait == 0:
                self._take(waiter, at)
                waiter.grant()
                return
            await self._sleep(wait)
            now = self.now()
            due = now if wait is None else at + wait
            at = min(now, max(due, now - TIMER_SLACK))
        else:
            waiter.return_turns()
        self._refund(waiter)

    async def _sleep(self, wait: int | None) -> None:
        """Sleep for `wait` nanoseconds, or until `wake` is called."""
        self._wake_up = self._loop.create_future()
        # One microsecond more: a timer that fires early costs another round.
        timer = None if wait is None else self._loop.call_later(wait / SECOND + 1e-6, self.wake)
        try:
            await self._wake_up
        finally:
            self._wake_up = None
            if timer is not None:
                timer.cancel()

    # Refusing and removing.

    def _refuse_on_arrival(self, newcomer: Waiter, deadline: int) -> None:
        """Refuse a newcomer that finds a full queue or could not be admitted by its deadline."""
        if self.closed:
            raise Draining
        now = self.now()
        if self.waiting >= self._queue_limit and not newcomer.is_retry:
            predicted = self.predict(newcomer)
            raise refusals.queue_full(
                newcomer, self.budgets, now, waiting=self.waiting, predicted=predicted
            )
        left = deadline - now
        if self.predict(newcomer, at_most=True).wait <= left:
            return
        predicted = self.predict(newcomer)
        if predicted.wait > left:
            raise refusals.wait_too_long(
                newcomer, self.budgets, now, left=left, predicted=predicted
            )

    def _refuse_late(self, waiter: Waiter, predicted: Prediction) -> None:
        now = self.now()
        left = waiter.exchange.deadline - now
        waiter.refuse(
            refusals.wait_too_long(waiter, self.budgets, now, left=left, predicted=predicted)
        )
        self._remove(waiter)

    def _expire(self, waiter: Waiter) -> None:
        if waiter.decided:
            return
        waiter.refuse(
            refusals.deadline_passed(
                waiter,
                self.budgets,
                self.now(),
                others=self.waiting - 1,
                predicted=self.predict(waiter),
            )
        )
        self._remove(waiter)

    def _remove(self, waiter: Waiter) -> None:
        queued = self.queue.fair_queue.remove(waiter, waiter.flow)
        if queued or any(each.remove(waiter) for each in waiter.wait_queues):
            waiter.return_turns()
        else:
            self.wake()


def _blocking_queue(waiter: Waiter, now: int) -> WaitQueue | None:
    """The first wait queue that does not admit the waiter now."""
    for wait_queue in waiter.wait_queues:
        if not wait_queue.can_admit(waiter, now):
            return wait_queue
    return None


def _own_budgets(settings: Settings) -> Budgets:
    """The budgets that the operator set."""
    requests = tokens = None
    if settings.rate_limit is not None:
        requests = TokenBucket.from_rate(settings.rate_limit, settings.rate_limit_burst)
    per_minute = settings.tokens_per_minute
    if per_minute is not None:
        tokens = TokenBucket.per_minute(per_minute)
    return Budgets(requests, tokens, settings.concurrency_limit)
