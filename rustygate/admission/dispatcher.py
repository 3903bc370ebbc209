"""The dispatcher: runs the scheduler on the event loop's clock, and wakes the waiters it admits.

An exchange is admitted when every budget it needs suffices: the gate's own (requests, tokens,
slots in flight), its client's if it has limits of its own, and its lane's, which upstream's
responses set for each model. While no waiter needs the same budgets and all of them suffice,
admission is a few assignments. Otherwise the exchange becomes a waiter in the scheduler
(`core.scheduler`), which decides who is admitted next. It runs at every change of demand or
budgets, and when the next instant comes that it has named.

A waiter owns what it was granted before it wakes, and gives it back if it is cancelled at that
moment. A newcomer never overtakes: it is admitted on arrival only if no waiter needs what it
needs.

Time is the event loop's clock in integer nanoseconds, so that tests can use a virtual clock.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf

from rustygate.admission import refusals
from rustygate.admission.activity import Activity
from rustygate.admission.deadlines import Deadlines
from rustygate.admission.late_waiters import LateWaiters
from rustygate.admission.waiter import AnyQueue, ClientQueue, LaneQueue, Waiter
from rustygate.config import Settings
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASS_NAMES
from rustygate.core.predicted_wait import Prediction, longest_wait, predict, predict_by_class
from rustygate.core.scheduler import Grant, Scheduler
from rustygate.core.upcoming import Upcoming
from rustygate.errors import Draining
from rustygate.exchange import MS

# A timer of the event loop fires up to a millisecond late (epoll counts in milliseconds), and
# later on a busy machine. An admission after a wait is charged to the instant it was due, or a
# bucket without burst would lose that time with each unit. Delays above this slack are charged to
# the present: a stalled process must not burst afterwards.
TIMER_SLACK = 2 * MS


class Dispatcher:
    """Admits waiters in fair order as the budgets allow.

    Once it is `closed`, newcomers are refused, too. `token_capacity` is the most that one request
    may cost. `activity` counts the admissions. `held` has the turns of WebSockets that wait for
    an earlier turn of the same WebSocket.
    """

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.budgets = own_budgets(settings)
        self.token_capacity = None if self.budgets.tokens is None else self.budgets.tokens.burst
        self.scheduler: Scheduler[Waiter] = Scheduler(self.budgets, slack=TIMER_SLACK)
        self.closed = False
        self._deadlines = Deadlines(self._expire, loop)
        self.activity = Activity()
        self._late_waiters = LateWaiters(self._refuse_late, loop)
        self._queue_limit = settings.queue_limit
        self._loop = loop
        self.held: dict[Waiter, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float = inf
        self._is_deferred = False

    @property
    def waiting(self) -> int:
        return self.scheduler.waiting + len(self.held)

    @property
    def waiting_by_class(self) -> dict[str, int]:
        counts = dict(zip(CLASS_NAMES, self.scheduler.waiting_by_class, strict=True))
        for waiter in self.held:
            counts[waiter.exchange.priority] += 1
        return counts

    def close(self) -> None:
        """Stop, and refuse all waiters."""
        self.closed = True
        self._set_timer(inf)
        for waiter in (*self.scheduler.clear(), *self.held):
            waiter.refuse(Draining())
        self.held.clear()

    def now(self) -> int:
        """The event loop's clock, in nanoseconds."""
        return int(self._loop.time() * SECOND)

    def admit_at_once(self, newcomer: Waiter, now: int) -> bool:
        """Admit a newcomer if no waiter needs what it needs and all budgets suffice."""
        if self.closed or (newcomer.turn_queue is not None and newcomer.turn_queue.line):
            return False
        return self.scheduler.admit(newcomer, newcomer.lane, newcomer.client, now, newcomer.tokens)

    def charge(self, newcomer: Waiter) -> None:
        """Charge the budgets for what has begun without admission. The waiters wait longer."""
        self.scheduler.charge(
            newcomer, newcomer.lane, newcomer.client, self.now(), newcomer.tokens
        )
        self.scheduler.touch()

    def start_waiting(self, newcomer: Waiter, began: int) -> asyncio.Future[None]:
        """Queue a newcomer. Returns its `decision`, which is made at the deadline at the latest.
        After the decision, or to leave before it, call `stop_waiting`.

        Raises a refusal; nothing is left to do then.
        """
        self._refuse_on_arrival(newcomer, newcomer.exchange.deadline, began)
        newcomer.decision = self._loop.create_future()
        newcomer.deadline_number = self._deadlines.add(newcomer)
        newcomer.since = began
        self._join(newcomer)
        return newcomer.decision

    def stop_waiting(self, waiter: Waiter, began: int) -> None:
        """Remove a waiter that was admitted or refused, or whose client left."""
        self._deadlines.remove(waiter.deadline_number)
        waiter.exchange.queued += self.now() - began
        if waiter.turn_queue is not None:
            self._leave_turn_queue(waiter)

    def cancel(self, waiter: Waiter) -> None:
        """Remove a waiter whose client left, and give its turn back to its flow."""
        if waiter.granted and waiter.flow is not None:
            self.scheduler.refund(waiter.flow, waiter.tokens)
            self._dispatch()
        else:
            self._remove(waiter)

    def wake(self, *scopes: AnyQueue | None) -> None:
        """Budgets have changed: the gate's own, and those of scopes."""
        if self.scheduler.waiting:
            self.scheduler.touch(*scopes)
            self._dispatch()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Wake no waiter before the block ends.

        Units that are given back in the block then count together, and raise no level above its
        burst. One by one, each unit would be granted again at once, however many there are.
        """
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
            self.wake()

    def wake_by_slots(self, lane: LaneQueue, client: ClientQueue | None = None) -> None:
        """Slots have become free: wake the lane and the client if they are short."""
        if lane.short or (client is not None and client.short):
            self.wake(lane, client)

    def on_lane_changed(self, lane: LaneQueue) -> None:
        """A lane's limits have changed, or it is paused: refuse those that now wait too long."""
        self._late_waiters.examine(lane)

    def on_refusal(self, now: int) -> None:
        """Upstream refused a request, perhaps because its limit runs slightly behind this one."""
        self.budgets.on_refusal(now)

    def predict(self, waiter: Waiter) -> Prediction:
        """The wait of a newcomer, as far as it depends on time alone: a slot that must become free
        is not included."""
        return predict(self.scheduler, waiter.newcomer, self.now())

    def forecasts(self, lanes: Sequence[tuple[LaneQueue, int]]) -> list[list[int]]:
        """The waits of newcomers in lanes, as for `predict_by_class`."""
        return predict_by_class(self.scheduler, lanes, self.now())

    def expect(self, found: list[Upcoming[Waiter]]) -> list[Upcoming[Waiter]]:
        """The next admissions of the scheduler, as they are expected to come."""
        return found

    @property
    def _waiting_elsewhere(self) -> int:
        """The number of waiters at other gates."""
        return 0

    def _longest_wait(self, newcomer: Waiter, now: int) -> int:
        """An upper bound of the predicted wait, which is quick to compute."""
        lane, client = newcomer.lane, newcomer.client
        return longest_wait(self.scheduler, lane, client, newcomer.tokens, now)

    def _join(self, newcomer: Waiter) -> None:
        """Add a newcomer to its flow, or hold it behind the earlier turns of its WebSocket."""
        turns = newcomer.turn_queue
        if turns is not None:
            turns.line[newcomer] = None
            if not turns.may_wait_in_gate(newcomer):
                self.held[newcomer] = None
                return
        self._push(newcomer)
        if newcomer.is_retry:
            # It comes before those that were predicted to make it, and may itself be too late.
            self._late_waiters.examine(newcomer.lane)

    def _leave_turn_queue(self, turn: Waiter) -> None:
        """A turn was admitted, refused or cancelled: the turns behind it follow."""
        assert turn.turn_queue is not None
        self.held.pop(turn, None)
        turn.turn_queue.line.pop(turn, None)
        for follower in turn.turn_queue.followers():
            if self.held.pop(follower, follower) is None:
                self._push(follower)

    def _push(self, newcomer: Waiter) -> None:
        exchange = newcomer.exchange
        newcomer.flow = self.scheduler.flow(
            newcomer.lane, exchange.priority, exchange.client, exchange.weight, newcomer.client
        )
        if self.scheduler.push(newcomer.flow, newcomer, newcomer.tokens, newcomer.rank):
            self._dispatch()

    def _dispatch(self) -> None:
        """Wake the waiters whose turn has come, and return when the next one's will."""
        if self._is_deferred:
            return
        now = self.now()
        while grants := self.scheduler.dispatch(now):
            for grant in grants:
                if grant.error is not None:
                    grant.item.fail(grant.error)
                elif not grant.item.grant():
                    self._undo(grant)
        self._set_timer(self.scheduler.next_at)

    def _undo(self, grant: Grant[Waiter]) -> None:
        """Take back what was granted to a waiter that was cancelled just before."""
        waiter, lane = grant.item, grant.item.lane.budgets
        self.scheduler.refund(grant.flow, grant.tokens)
        self.budgets.give_back(grant.tokens)
        self.budgets.release()
        lane.give_back(grant.tokens)
        lane.count_refusal(waiter.lane_totals, grant.tokens)
        lane.answer(waiter.lane_totals)
        if waiter.client is not None:
            waiter.client.budgets.give_back(grant.tokens)
            waiter.client.budgets.release()
        self.scheduler.touch(*waiter.scopes)

    def _set_timer(self, at: float) -> None:
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at < inf:
            # One microsecond more: a timer that fires early costs another round.
            self._timer = self._loop.call_at(at / SECOND + 1e-6, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, inf
        self._dispatch()

    # Refusing and removing.

    def _refuse_on_arrival(self, newcomer: Waiter, deadline: int, now: int) -> None:
        """Refuse a newcomer that finds a full queue or could not be admitted by its deadline."""
        if self.closed:
            raise Draining
        if self.waiting >= self._queue_limit and not newcomer.is_retry:
            predicted = self.predict(newcomer)
            raise refusals.queue_full(
                newcomer, self.budgets, now, waiting=self.waiting, predicted=predicted
            )
        left = deadline - now
        if self._longest_wait(newcomer, now) <= left:
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
                others=self.waiting - 1 + self._waiting_elsewhere,
                predicted=self.predict(waiter),
            )
        )
        self._remove(waiter)

    def _remove(self, waiter: Waiter) -> None:
        if waiter.flow is not None and self.scheduler.remove(waiter.flow, waiter):
            self._dispatch()


def own_budgets(settings: Settings) -> Budgets:
    """The budgets that the operator set."""
    requests = tokens = None
    if settings.rate_limit is not None:
        requests = TokenBucket.from_rate(settings.rate_limit, settings.rate_limit_burst)
    per_minute = settings.tokens_per_minute
    if per_minute is not None:
        tokens = TokenBucket.per_minute(per_minute)
    return Budgets(requests, tokens, settings.concurrency_limit)
