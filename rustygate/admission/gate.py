"""The gate: budgets, and the queue of waiters before them.

An exchange is admitted when every budget it needs has room: the gate's own (requests, tokens,
slots in flight), its client's if it has limits of its own, and its lane's, which is what
upstream's answers taught about its model. With nobody waiting and room everywhere, admission is a
few assignments. Otherwise the exchange becomes a waiter in an `asyncio.Queue` whose order is
`core.fairqueue`; the dispatcher, one coroutine, takes the waiter whose turn it is, sleeps out
what the gate's own budgets still lack, and admits it.

A waiter whose turn comes while its client or lane has no room does not hold up the others: it
moves to a line before that client or lane, in the same fair order, and its turn is refunded. When
there is room for the first of a line, that one goes back to the front of its flow in the queue,
as the line's envoy; the next follows when it has been admitted. Nothing is reserved while
waiting, so that whatever a budget has goes to whoever can use it.

Ownership is handed over before a waiter wakes: what it was granted is already its own, and is
given back if a cancellation meets the grant. Nobody barges: a newcomer passes at once only if
nobody waits for what it needs.

Time is the event loop's clock in integer nanoseconds, so that a test's loop may make it jump.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

from rustygate.config import Settings
from rustygate.core.backlog import Ahead, Size
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets, Level
from rustygate.core.clients import Limits
from rustygate.core.fairqueue import FairQueue
from rustygate.core.flow import Flow
from rustygate.core.lane import Lane, Mark
from rustygate.core.priority_class import CLASSES
from rustygate.core.rate_limit_headers import RateLimitUpdate
from rustygate.errors import Draining, QueueFull, QueueTimeout, Refusal, RequestTooLarge
from rustygate.exchange import MS, Exchange

# A timer of the event loop fires up to a millisecond late (epoll counts in those), and later on
# a busy machine. An admission that fell due while its waiter was at the head is charged to the
# instant it fell due, or a bucket without burst would lose that time with each unit. What is
# later than this is charged to the present: a stalled process must not burst afterwards.
TIMER_SLACK = 2 * MS

# How often at most the costs of those that wait before a lane are counted anew.
RECKONED_EVERY_S = 1.0

# Lanes that are kept while nobody uses them; the least recently used goes first.
LANES = 1000

# So many of them are looked at when there are too many.
_LOOKED_AT = 8


class WaiterQueue(asyncio.Queue["Admission"]):
    """An `asyncio.Queue` that serves its flows fairly instead of first in, first out."""

    def _init(self, maxsize: int) -> None:
        self._queue: FairQueue[Admission] = FairQueue()

    def _put(self, item: "Admission") -> None:
        self._queue.push(item, item.flow, item.size, rank=item.rank)

    def _get(self) -> "Admission":
        return self._queue.pop()

    @property
    def order(self) -> FairQueue["Admission"]:
        """The order behind, for what an `asyncio.Queue` has no word for."""
        return self._queue


@dataclass(frozen=True, slots=True)
class GateState:
    """A gate at an instant: waiters by class, and what there is of its own budgets and of those
    of the lanes whose models are known."""

    waiters: Mapping[str, int]
    in_flight: int
    own: tuple[Level, ...]
    lanes: Mapping[str, tuple[Level, ...]]


class Gate:
    """Budgets plus the queue before them.

    `admission(exchange)` is the one way through. `start` and `close` frame its life; after
    `close` everybody is refused with `Draining`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self.own = _own_budgets(settings)
        self._lanes: OrderedDict[str, LaneQueue] = OrderedDict()
        self._clients: dict[str, ClientQueue] = {}
        self._waiting = 0
        self._waiting_in = dict.fromkeys(CLASSES, 0)
        self._queue = WaiterQueue()
        self._head: Admission | None = None
        self._alarm: asyncio.Future[None] | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self.closed = False

    def __repr__(self) -> str:
        own = self.own
        return f"<Gate {own.in_flight} in flight, {self._waiting} waiting, {own.requests}>"

    def start(self) -> None:
        """Set the dispatcher to work."""
        self._dispatcher = self._loop.create_task(self._dispatch(), name="dispatcher")

    def close(self) -> None:
        """Refuse all waiters and whoever comes; exchanges in flight are left alone."""
        self.closed = True
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        if self._head is not None:
            self._head.refuse(Draining())
        lines = (*self._lanes.values(), *self._clients.values())
        for queue in (self._queue.order, *(line.queue for line in lines)):
            while queue:
                queue.pop().refuse(Draining())

    def snapshot(self) -> dict[str, int]:
        """The gate's live numbers."""
        return {"waiters": self._waiting, "in_flight": self.own.in_flight}

    def lanes(self) -> "list[LaneQueue]":
        """The lanes there are, the one used last at the end."""
        return list(self._lanes.values())

    def limit_clients(self, limits: Mapping[str, Limits]) -> None:
        """Give clients, by name, limits of their own; whoever is not named has none any more.
        Who may be given some later is named from the first, with none.

        Who waits goes on waiting, for the new limits. Limits that are new begin with full
        budgets, those that have not changed go on.
        """
        for name in limits.keys() - self._clients.keys():
            self._clients[name] = ClientQueue(name, Budgets(), self._queue, self._loop)
        for name, line in list(self._clients.items()):
            line.limit(limits.get(name, Limits()))
            if name not in limits and not (line.waiting or line.budgets.in_flight):
                del self._clients[name]

    def describe(self) -> GateState:
        """All there is to show of it. Takes time by the lanes, not by the waiters."""
        now = self.now()
        known = (line for line in self._lanes.values() if line.lane.known)
        return GateState(
            dict(self._waiting_in),
            self.own.in_flight,
            tuple(self.own.levels(now)),
            {line.name: tuple(line.lane.levels(now)) for line in known},
        )

    def knows(self, model: str) -> bool:
        """Whether upstream has answered well for a model, as far as is remembered."""
        line = self._lanes.get(model)
        return line is not None and line.lane.known

    def admission(self, exchange: Exchange) -> "Admission":
        """The passage of one attempt; see `Admission`."""
        return Admission(self, exchange)

    def now(self) -> int:
        """The event loop's clock, in nanoseconds."""
        return _now(self._loop)

    # What an admission is made of.

    def lane_queue(self, model: str | None) -> "LaneQueue":
        """The line before a model's lane; requests without a model share one."""
        name = model or ""
        line = self._lanes.get(name)
        if line is None:
            probes = self._settings.rate_limit_burst if self._settings.rate_limit is None else None
            line = self._lanes[name] = LaneQueue(name, Lane(slots=probes), self._queue, self._loop)
            if len(self._lanes) > LANES:
                self._forget_lanes()
        else:
            self._lanes.move_to_end(name)
        return line

    def client_queue(self, client: str) -> "WaitQueue | None":
        """The line before a client's own limits, if it has any."""
        return self._clients.get(client)

    def admit_at_once(self, newcomer: "Admission") -> bool:
        """Admit a newcomer if nobody waits for what it needs and the budgets have room."""
        if self.closed or self._head is not None or self._queue.order:
            return False
        now = self.now()
        if self._lacking(newcomer, now) is not None or self.own.wait(now, newcomer.tokens) != 0:
            return False
        self._take(newcomer, now)
        return True

    async def wait_for_turn(self, newcomer: "Admission", deadline: int) -> None:
        """Wait until admitted. Raises a refusal at the deadline at the latest."""
        self._refuse_hopeless(newcomer, deadline)
        newcomer.turn = self._loop.create_future()
        timer = self._loop.call_at(deadline / SECOND, self._expire, newcomer)
        self._queue.put_nowait(newcomer)
        self._count(newcomer, 1)
        try:
            await newcomer.turn
        except asyncio.CancelledError:
            self._forget(newcomer)
            raise
        finally:
            self._count(newcomer, -1)
            timer.cancel()

    def leave(self, line: "LaneQueue") -> None:
        """A user of a line is gone; with the last one goes a lane that knows nothing."""
        line.users -= 1
        if not (line.users or line.lane.known) and line.lane.forgettable(self.now()):
            self._lanes.pop(line.name, None)
        elif len(self._lanes) > LANES:
            self._forget_lanes()

    def ring(self) -> None:
        """Wake the dispatcher: a budget of the gate's own has changed."""
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    def _count(self, waiter: "Admission", sign: int) -> None:
        self._waiting += sign
        self._waiting_in[waiter.flow.priority] += sign
        for line in waiter.lines:
            line.count(waiter, sign)

    def _lacking(self, waiter: "Admission", now: int) -> "WaitQueue | None":
        """The first line that does not let the waiter pass."""
        for line in waiter.lines:
            if not line.has_room(waiter, now):
                return line
        return None

    def _take(self, admitted: "Admission", at: int) -> None:
        self.own.take(at, admitted.tokens)
        for line in admitted.lines:
            line.take(admitted, at)

    def _forget_lanes(self) -> None:
        """Forget the lanes that were used least recently, as long as there are too many. A few are
        looked at; those in use are as good as used just now, and so not in the way next time."""
        for model, line in list(islice(self._lanes.items(), _LOOKED_AT)):
            if len(self._lanes) <= LANES:
                return
            if line.users:
                self._lanes.move_to_end(model)
            else:
                del self._lanes[model]

    # The dispatcher.

    async def _dispatch(self) -> None:
        while True:
            self._head = await self._queue.get()
            try:
                await self._serve(self._head)
            except Exception as error:
                # A defect costs the waiter that met it its turn, not everybody theirs.
                self._head.fail(error)
            self._head = None
            if not self._queue.order:
                self._queue.order.forget()

    async def _serve(self, waiter: "Admission") -> None:
        """Admit the waiter at the head as soon as there is room, unless it leaves before or its
        lane has none."""
        at = self.now()
        while not waiter.over:
            lacking = self._lacking(waiter, at)
            if lacking is not None:
                lacking.park(waiter)
                waiter.dismiss()
                break
            wait = self.own.wait(at, waiter.tokens)
            if wait == 0:
                self._take(waiter, at)
                waiter.grant()
                return
            await self._sleep(wait)
            now = self.now()
            due = now if wait is None else at + wait
            at = min(now, max(due, now - TIMER_SLACK))
        else:
            waiter.forsake()
        self._queue.order.refund(waiter.flow, waiter.size.cost)

    async def _sleep(self, wait: int | None) -> None:
        """Sleep for `wait` nanoseconds, or until the alarm rings because something changed."""
        self._alarm = self._loop.create_future()
        # A microsecond more than asked for: a timer that fires early costs another round.
        timer = None if wait is None else self._loop.call_later(wait / SECOND + 1e-6, self.ring)
        try:
            await self._alarm
        finally:
            self._alarm = None
            if timer is not None:
                timer.cancel()

    # Refusing and leaving.

    def _refuse_hopeless(self, newcomer: "Admission", deadline: int) -> None:
        """Refuse on arrival whoever could not be admitted before its deadline."""
        if self.closed:
            raise Draining
        if self._waiting >= self._settings.queue_limit and not newcomer.retries:
            message = f"The queue is full: {self._waiting} requests wait already."
            raise QueueFull(message, *self._outlook(newcomer, self.predicted_wait(newcomer)))
        left = deadline - self.now()
        if self.predicted_wait(newcomer, at_most=True) <= left:
            return
        wait = self.predicted_wait(newcomer)
        if wait > left:
            message = (
                f"Not admitted: this request would wait about {wait / SECOND:.1f} s behind "
                f"{self._waiting} others, and may wait {left / SECOND:.1f} s."
            )
            raise QueueTimeout(message, *self._outlook(newcomer, wait))

    def _outlook(self, waiter: "Admission", wait: int) -> tuple[int, str]:
        """What a refusal tells: after how many ms a new try may do better, and what lacks."""
        now = self.now()
        budgets = [self.own, *(line.budgets for line in waiter.lines)]
        slowest = max(budgets, key=lambda each: each.wait(now, waiter.tokens) or 0)
        scarcest = slowest.scarcest(now, waiter.tokens)
        return -(-wait // MS), scarcest

    def _expire(self, waiter: "Admission") -> None:
        if waiter.over:
            return
        message = f"Not admitted by its deadline, behind {self._waiting - 1} other waiters."
        waiter.refuse(QueueTimeout(message, *self._outlook(waiter, self.predicted_wait(waiter))))
        self._unlink(waiter)

    def _forget(self, waiter: "Admission") -> None:
        """A waiter's client left. If that met the grant, the grant goes to the next."""
        if waiter.granted:
            waiter.give_back()
            waiter.release()
            waiter.forsake()
            self._queue.order.refund(waiter.flow, waiter.size.cost)
        else:
            self._unlink(waiter)

    def _unlink(self, waiter: "Admission") -> None:
        queued = self._queue.order.remove(waiter, waiter.flow)
        if queued or any(line.remove(waiter) for line in waiter.lines):
            waiter.forsake()
        else:
            self.ring()

    def predicted_wait(self, waiter: "Admission", *, at_most: bool = False) -> int:
        """Nanoseconds until a newcomer would be admitted, as far as that is a matter of time; or
        `at_most` so many, which is told without looking at flows."""
        now = self.now()
        ahead = self._queue.order.waiting() if at_most else waiter.behind(self._queue.order)
        if self._head is not None:
            ahead = ahead.after(self._head.size)
        own = self.own.wait_behind(now, waiter.tokens, ahead)
        return max(own, *(line.predicted_wait(waiter, now, at_most) for line in waiter.lines))


class WaitQueue:
    """The waiters before the budgets of one client or lane, beside the gate's queue, in the same
    fair order.

    `envoy` is the one for whom there is room, on its way through the gate's queue. `users` counts
    the attempts that hold this line, waiting or admitted; `waiting` and `waiting_tokens` count
    those that wait, here or elsewhere, and what they cost.
    """

    def __init__(
        self, name: str, budgets: Budgets, gate: WaiterQueue, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.name = name
        self.budgets = budgets
        self.queue: FairQueue[Admission] = FairQueue()
        self.candidate: Admission | None = None
        self.users = self.waiting = self.waiting_tokens = 0
        self._gate = gate
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.queue} {self.budgets}>"

    @property
    def is_sure(self) -> bool:
        """Whether what exceeds the limits now will not fit later either."""
        return True

    @property
    def idle(self) -> bool:
        """Whether nobody waits here."""
        return self.candidate is None and not self.queue

    def has_room(self, waiter: "Admission", now: int) -> bool:
        """Whether the waiter may pass: the budgets have room, and nobody is before it.

        Who was first of this line once is not sent to its end again: it would never get through
        two lines at once.
        """
        if self not in waiter.passed and not self.idle:
            return False
        return self.budgets.wait(now, waiter.tokens) == 0

    def count(self, waiter: "Admission", sign: int) -> None:
        """A waiter came, or waits no more."""
        self.waiting += sign
        self.waiting_tokens += sign * waiter.tokens

    def take(self, admitted: "Admission", at: int) -> None:
        """Charge the budgets."""
        self.budgets.take(at, admitted.tokens)
        self.dismiss(admitted)

    def charged(self, admitted: "Admission") -> bool:
        """Whether what is there now was charged for an exchange."""
        return True

    def park(self, waiter: "Admission") -> None:
        """Let a waiter stand in line whose turn came too early."""
        size = self.budgets.size(waiter.tokens)
        if waiter is self.candidate:
            self.candidate = None
        rank = waiter.rank
        self._refund(waiter)
        self.queue.push(waiter, waiter.flow, size, rank=rank)
        self.advance()

    def dismiss(self, waiter: "Admission") -> None:
        """A waiter was admitted, or waits elsewhere; if it was the envoy, the next one follows."""
        if waiter is self.candidate:
            self.candidate = None
            self.advance()

    def forsake(self, waiter: "Admission") -> None:
        """A waiter left, and does not need its turn any more if it had it here."""
        self._refund(waiter)
        self.dismiss(waiter)

    def _refund(self, waiter: "Admission") -> None:
        if self in waiter.passed:
            waiter.passed -= {self}
            self.queue.refund(waiter.flow, self.budgets.cost(waiter.tokens))

    def remove(self, waiter: "Admission") -> bool:
        """A waiter left; False if it did not stand here."""
        if not self.queue.remove(waiter, waiter.flow):
            return False
        self.advance()
        return True

    def advance(self) -> None:
        """Something changed: send the first of the line ahead, or see when there will be room."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.candidate is not None:
            return
        if not self.queue:
            self.queue.forget()
            return
        wait = self.budgets.wait(self._now(), self.queue.peek().tokens)
        if wait == 0:
            self.candidate = self.queue.pop()
            self.candidate.passed |= {self}
            self._gate.put_nowait(self.candidate)
        elif wait is not None:
            self._timer = self._loop.call_later(wait / SECOND + 1e-6, self._wake)

    def predicted_wait(self, waiter: "Admission", now: int, at_most: bool) -> int:
        """As of the gate, for these budgets alone."""
        ahead = self._all() if at_most else self._ahead(waiter)
        return self.budgets.wait_behind(now, waiter.tokens, ahead)

    def _ahead(self, waiter: "Admission") -> Ahead:
        ahead = waiter.behind(self.queue)
        return (
            ahead
            if self.candidate is None
            else ahead.after(self.budgets.size(self.candidate.tokens))
        )

    def _all(self) -> Ahead:
        return Ahead(0, self.waiting, self.waiting_tokens)

    def reckon(self) -> None:
        """Costs are counted in something else than before."""
        if self.queue:
            self.queue.reckon(lambda waiter: self.budgets.size(waiter.tokens))

    def _now(self) -> int:
        return _now(self._loop)

    def _wake(self) -> None:
        self._timer = None
        self.advance()


class ClientQueue(WaitQueue):
    """The line before a client's own limits, which its operator may change."""

    def __init__(
        self, name: str, budgets: Budgets, gate: WaiterQueue, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(name, budgets, gate, loop)
        self.limits = Limits()
        self._classes = dict.fromkeys(CLASSES, Ahead())

    def take(self, admitted: "Admission", at: int) -> None:
        super().take(admitted, at)
        admitted.limits = self.limits

    def charged(self, admitted: "Admission") -> bool:
        """Not if the limits are others since: those began with full budgets."""
        return admitted.limits is self.limits

    def count(self, waiter: "Admission", sign: int) -> None:
        super().count(waiter, sign)
        _, items, tokens = self._classes[waiter.flow.priority]
        self._classes[waiter.flow.priority] = Ahead(0, items + sign, tokens + sign * waiter.tokens)

    def _ahead(self, waiter: "Admission") -> Ahead:
        """All of the client's in the same class, for those before a lane will need these budgets
        too, and what other classes get meanwhile."""
        if waiter.rank is not None:
            return Ahead()
        priority = waiter.flow.priority
        _, items, tokens = self._classes[priority]
        turn = self._cost(priority) / CLASSES[priority]
        for name, other in self._classes.items():
            if name != priority and other.items:
                share = turn * CLASSES[name] / self._cost(name)
                share = min(1, max(1 / other.items, share))
                items += share * other.items
                tokens += share * other.tokens
        return Ahead(0, items, tokens)

    def _cost(self, priority: str) -> float:
        """What those of a class cost that wait."""
        _, items, tokens = self._classes[priority]
        request, token = self.budgets.unit
        return max(items, items * request, tokens * token)

    def limit(self, limits: Limits) -> None:
        if limits != self.limits:
            self.limits = limits
            self.budgets.replace(limits.budgets())
            self.reckon()
            self.advance()


class LaneQueue(WaitQueue):
    """The line before a lane, whose limits may change with each answer."""

    def __init__(
        self, model: str, lane: Lane, gate: WaiterQueue, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(model, lane, gate, loop)
        self.lane = lane
        self._unit = lane.unit
        self._overdue: asyncio.TimerHandle | None = None

    def take(self, admitted: "Admission", at: int) -> None:
        super().take(admitted, at)
        admitted.mark = self.lane.mark

    @property
    def is_sure(self) -> bool:
        return self.lane.updated_lately(self._now())

    def learned(self) -> None:
        """If the limits are others than before, so are the costs. Limits that change with each
        answer must not make all flows equal with each answer: what comes sooner waits."""
        if self._overdue is None and _differ(self._unit, self.lane.unit):
            self._unit = self.lane.unit
            self._overdue = self._loop.call_later(RECKONED_EVERY_S, self._reckon_again)
            self.reckon()

    def _reckon_again(self) -> None:
        self._overdue = None
        self.learned()


class Admission:
    """One attempt's passage through the gate: entering waits for it, leaving frees its slots.

    While it waits it is the waiter in the queue. Once it is admitted, it takes what becomes known
    of the attempt: `answered`, `pause`, `settle`, `give_back`.
    """

    __slots__ = (
        "_answered", "_exchange", "_gate", "lane_queue", "limits", "lines", "mark", "passed",
        "retries", "tokens", "turn",
    )  # fmt: skip

    def __init__(self, gate: Gate, exchange: Exchange) -> None:
        self._gate = gate
        self._exchange = exchange
        self._answered = False
        self.tokens = exchange.tokens
        self.retries = exchange.attempts > 0
        self.passed: frozenset[WaitQueue] = frozenset()
        self.lane_queue = gate.lane_queue(exchange.model)
        client_queue = gate.client_queue(exchange.client)
        self.lines: tuple[WaitQueue, ...] = (
            (self.lane_queue,) if client_queue is None else (client_queue, self.lane_queue)
        )
        self.turn: asyncio.Future[None] | None = None
        self.limits: Limits
        self.mark: Mark

    async def __aenter__(self) -> Self:
        self.lane_queue.users += 1
        try:
            self._refuse_oversized()
            if not self._gate.admit_at_once(self):
                await self._wait()
        except BaseException:
            self._gate.leave(self.lane_queue)
            raise
        return self

    async def _wait(self) -> None:
        began = self._gate.now()
        try:
            await self._gate.wait_for_turn(self, self._exchange.deadline)
        finally:
            self._exchange.queued += self._gate.now() - began

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
        self._gate.leave(self.lane_queue)

    def _refuse_oversized(self) -> None:
        least = self._exchange.tokens_least
        own = self._gate.own.tokens
        if own is not None and least > own.burst:
            raise RequestTooLarge(least, own.burst)
        for line in self.lines:
            bucket = line.budgets.tokens
            if bucket is not None and least > bucket.burst and line.is_sure:
                raise RequestTooLarge(least, bucket.burst)

    # While it waits.

    @property
    def rank(self) -> int | None:
        """Its place among those that go in front of their flow, since they were tried before or
        were first of a line: who came first. None for all others."""
        return self._exchange.arrived if self.retries or self.passed else None

    def dismiss(self) -> None:
        """It is nobody's envoy any more."""
        for line in self.lines:
            line.dismiss(self)

    def forsake(self) -> None:
        """It left: the turns it had in lines go to others."""
        for line in self.lines:
            line.forsake(self)

    @property
    def flow(self) -> Flow:
        """Whose turn it waits for."""
        return Flow(self._exchange.client, self._exchange.priority, self._exchange.weight)

    def behind(self, queue: FairQueue["Admission"]) -> Ahead:
        """What would go before it in a queue."""
        return queue.ahead(self.flow) if self.rank is None else Ahead()

    @property
    def size(self) -> Size:
        """What its turn in the gate's queue costs its flow."""
        return self._gate.own.size(self.tokens)

    @property
    def over(self) -> bool:
        """Whether the waiting is over, one way or the other."""
        return self.turn is not None and self.turn.done()

    @property
    def granted(self) -> bool:
        """Whether it was admitted, so that what it costs is its own."""
        turn = self.turn
        return turn is not None and turn.done() and not turn.cancelled() and not turn.exception()

    def grant(self) -> None:
        assert self.turn is not None
        self.turn.set_result(None)

    def fail(self, error: Exception) -> None:
        """The gate failed over it."""
        if self.turn is not None and not self.turn.done():
            self.turn.set_exception(error)

    def refuse(self, refusal: Refusal) -> None:
        assert self.turn is not None
        if not self.turn.done():
            self.turn.set_exception(refusal)

    # Once it is admitted.

    def answered(self, ok: bool, news: RateLimitUpdate | None = None) -> None:
        """Upstream's head came, well or not; `news` is what it tells of the quota."""
        lane = self.lane_queue.lane
        if ok and not (lane.known and lane.slots is None):
            lane.open(self.mark)
        if news is not None and lane.learn(self._gate.now(), self.mark, news):
            self.lane_queue.learned()
        self._answer()

    def pause(self, wait: int, *, slow: bool = False) -> None:
        """Upstream wants nobody of this model for `wait` nanoseconds, and if `slow`, fewer."""
        lane, now = self.lane_queue.lane, self._gate.now()
        lane.pause(now, wait)
        if slow:
            lane.slow(now, self.mark)
        self.lane_queue.advance()

    def settle(self, tokens: int) -> None:
        """Replace the estimated cost by the actual one; what the lane has, upstream tells."""
        now = self._gate.now()
        if self._gate.own.tokens is not None:
            self._gate.own.settle(now, self.tokens, tokens)
            self._gate.ring()
        for line in self.lines:
            if line is not self.lane_queue and line.charged(self):
                line.budgets.settle(now, self.tokens, tokens)
                line.advance()
        self.tokens = tokens

    def give_back(self) -> None:
        """Return what was taken, for nothing went upstream."""
        self._gate.own.give_back(self.tokens)
        for line in self.lines:
            if line.charged(self):
                line.budgets.give_back(self.tokens)
                line.advance()
        self._gate.ring()

    def release(self) -> None:
        """Free the slots."""
        if not self._answered:
            self._answer()
        for line in self.lines:
            if line is not self.lane_queue:
                line.budgets.release()
                line.advance()
        self._gate.own.release()
        if self._gate.own.slots is not None:
            self._gate.ring()

    def _answer(self) -> None:
        if not self._answered:
            self._answered = True
            self.lane_queue.lane.release()
        self.lane_queue.advance()


def _now(loop: asyncio.AbstractEventLoop) -> int:
    return int(loop.time() * SECOND)


def _differ(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether costs in two units are no more to be compared; a factor below two is let pass."""
    pairs = (sorted(pair) for pair in zip(one, other, strict=True))
    return any(greater > 2 * lesser for lesser, greater in pairs)


def _own_budgets(settings: Settings) -> Budgets:
    """The budgets the operator set."""
    requests = tokens = None
    if settings.rate_limit is not None:
        requests = TokenBucket.of_rate(settings.rate_limit, settings.rate_limit_burst)
    per_minute = settings.tokens_per_minute
    if per_minute is not None:
        tokens = TokenBucket.per_minute(per_minute)
    return Budgets(requests, tokens, settings.concurrency_limit)
