"""The gate: budgets, and the queue of waiters before them.

An exchange is admitted when every budget has room for it: the token bucket of requests and the
slots in flight. With nobody waiting and room in the budgets, admission is a few assignments.
Otherwise the exchange becomes a waiter in an `asyncio.Queue` whose order is `core.fairqueue`;
the dispatcher, one coroutine, takes the waiter whose turn it is, sleeps out what the budgets
still lack, and admits it.

Ownership is handed over before the waiter wakes: what it was granted is already its own, and is
given back if a cancellation meets the grant. Nobody barges: a newcomer passes at once only if
nobody waits.

Time is the event loop's clock in integer nanoseconds, so that a test's loop may make it jump.
"""

import asyncio
from dataclasses import dataclass
from types import TracebackType

from rustygate.config import Settings
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.fairqueue import FairQueue
from rustygate.errors import Draining, QueueFull, QueueTimeout, Refusal
from rustygate.exchange import MS, Exchange

# A timer of the event loop fires up to a millisecond late (epoll counts in those), and later on
# a busy machine. An admission that fell due while its waiter was at the head is charged to the
# instant it fell due, or a bucket without burst would lose that time with each unit. What is
# later than this is charged to the present: a stalled process must not burst afterwards.
TIMER_SLACK = 2 * MS


@dataclass(slots=True, eq=False)
class Waiter:
    """An exchange in the queue; `turn` is done when it was admitted, was refused, or left."""

    flow: str
    front: bool
    turn: asyncio.Future[None]

    @property
    def granted(self) -> bool:
        """Whether it was admitted, so that a unit and a slot are its own."""
        turn = self.turn
        return turn.done() and not turn.cancelled() and turn.exception() is None

    def refuse(self, refusal: Refusal) -> None:
        if not self.turn.done():
            self.turn.set_exception(refusal)


class WaiterQueue(asyncio.Queue[Waiter]):
    """An `asyncio.Queue` that serves its flows fairly instead of first in, first out."""

    def _init(self, maxsize: int) -> None:
        self._queue: FairQueue[Waiter] = FairQueue()

    def _put(self, item: Waiter) -> None:
        push = self._queue.push_front if item.front else self._queue.push
        push(item, item.flow)

    def _get(self) -> Waiter:
        return self._queue.pop()

    @property
    def order(self) -> FairQueue[Waiter]:
        """The order behind, for what an `asyncio.Queue` has no word for."""
        return self._queue


class Gate:
    """Budgets plus the queue before them.

    `admission(exchange)` is the one way through. `start` and `close` frame its life; after
    `close` everybody is refused with `Draining`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._bucket = _request_bucket(settings)
        self._in_flight = 0
        self._waiting = 0
        self._queue = WaiterQueue()
        self._head: Waiter | None = None
        self._alarm: asyncio.Future[None] | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self.closed = False

    def __repr__(self) -> str:
        return f"<Gate {self._in_flight} in flight, {self._waiting} waiting, {self._bucket}>"

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
        while self._queue.qsize():
            self._queue.get_nowait().refuse(Draining())

    def snapshot(self) -> dict[str, int]:
        """The gate's live numbers."""
        return {"waiters": self._waiting, "in_flight": self._in_flight}

    def admission(self, exchange: Exchange) -> "Admission":
        """The passage of one attempt; see `Admission`."""
        return Admission(self, exchange)

    def now(self) -> int:
        """The event loop's clock, in nanoseconds."""
        return int(self._loop.time() * SECOND)

    # What an admission is made of.

    def admit_at_once(self) -> bool:
        """Admit a newcomer if nobody waits and the budgets have room."""
        if self._waiting or self.closed:
            return False
        now = self.now()
        if self._wait(now) != 0:
            return False
        self._take(now)
        return True

    async def wait_for_turn(self, exchange: Exchange) -> None:
        """Wait in the queue until admitted. Raises a refusal at the deadline at the latest."""
        self._refuse_hopeless(exchange)
        front = exchange.attempts > 0
        waiter = Waiter(exchange.client, front, self._loop.create_future())
        timer = self._loop.call_at(exchange.deadline / SECOND, self._expire, waiter)
        self._queue.put_nowait(waiter)
        self._waiting += 1
        try:
            await waiter.turn
        except asyncio.CancelledError:
            self._forget(waiter)
            raise
        finally:
            self._waiting -= 1
            timer.cancel()

    def release(self) -> None:
        """Free the slot of an admitted exchange."""
        self._in_flight -= 1
        self._ring()

    def give_back(self) -> None:
        """Return the unit of an admission after which nothing went upstream."""
        if self._bucket is not None:
            self._bucket.give_back()
            self._ring()

    # The budgets.

    def _wait(self, at: int) -> int | None:
        """Nanoseconds until there is room; None if that takes a release."""
        limit = self._settings.concurrency_limit
        if limit is not None and self._in_flight >= limit:
            return None
        return 0 if self._bucket is None else self._bucket.wait(at)

    def _take(self, at: int) -> None:
        self._in_flight += 1
        if self._bucket is not None:
            self._bucket.take(at)

    # The dispatcher.

    async def _dispatch(self) -> None:
        while True:
            self._head = await self._queue.get()
            await self._serve(self._head)
            self._head = None

    async def _serve(self, waiter: Waiter) -> None:
        """Admit the waiter at the head as soon as there is room, unless it leaves before."""
        at = self.now()
        while not waiter.turn.done():
            wait = self._wait(at)
            if wait == 0:
                self._take(at)
                waiter.turn.set_result(None)
                return
            await self._sleep(wait)
            now = self.now()
            due = now if wait is None else at + wait
            at = min(now, max(due, now - TIMER_SLACK))
        self._queue.order.refund(waiter.flow)

    async def _sleep(self, wait: int | None) -> None:
        """Sleep for `wait` nanoseconds, or until the alarm rings because something changed."""
        self._alarm = self._loop.create_future()
        # A microsecond more than asked for: a timer that fires early costs another round.
        timer = None if wait is None else self._loop.call_later(wait / SECOND + 1e-6, self._ring)
        try:
            await self._alarm
        finally:
            self._alarm = None
            if timer is not None:
                timer.cancel()

    def _ring(self) -> None:
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    # Refusing and leaving.

    def _refuse_hopeless(self, exchange: Exchange) -> None:
        """Refuse on arrival whoever could not be admitted before its deadline."""
        if self.closed:
            raise Draining
        ahead = 0 if exchange.attempts else self._ahead(exchange.client)
        wait = self._predicted_wait(ahead)
        if self._waiting >= self._settings.queue_limit:
            message = f"The queue is full: {self._waiting} requests wait already."
            raise QueueFull(message, wait // MS)
        if self.now() + wait > exchange.deadline:
            raise QueueTimeout(
                f"Not admitted: {ahead} requests go first, which at {self._rate} would take "
                f"{wait / SECOND:.1f} s, longer than this request may wait.",
                wait // MS,
            )

    def _expire(self, waiter: Waiter) -> None:
        if waiter.turn.done():
            return
        wait = self._predicted_wait(self._ahead(waiter.flow))
        message = f"Not admitted by its deadline, behind {self._waiting - 1} other waiters."
        waiter.refuse(QueueTimeout(message, wait // MS))
        self._unlink(waiter)

    def _forget(self, waiter: Waiter) -> None:
        """A waiter's client left. If that met the grant, the grant goes to the next."""
        if waiter.granted:
            self.give_back()
            self.release()
        else:
            self._unlink(waiter)

    def _unlink(self, waiter: Waiter) -> None:
        if not self._queue.order.remove(waiter, waiter.flow):
            self._ring()

    def _ahead(self, flow: str) -> int:
        """How many would be admitted before a newcomer of that flow."""
        return self._queue.order.ahead(flow) + (self._head is not None)

    def _predicted_wait(self, ahead: int) -> int:
        """Nanoseconds until the bucket has units for those ahead and one more."""
        return 0 if self._bucket is None else self._bucket.wait(self.now(), ahead + 1)

    @property
    def _rate(self) -> str:
        return f"{self._settings.rate_limit:g} requests per second"


class Admission:
    """One attempt's passage through the gate: entering waits for it, leaving frees the slot."""

    __slots__ = ("_exchange", "_gate")

    def __init__(self, gate: Gate, exchange: Exchange) -> None:
        self._gate = gate
        self._exchange = exchange

    async def __aenter__(self) -> None:
        gate = self._gate
        if gate.admit_at_once():
            return
        began = gate.now()
        try:
            await gate.wait_for_turn(self._exchange)
        finally:
            self._exchange.queued += gate.now() - began

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._gate.release()


def _request_bucket(settings: Settings) -> TokenBucket | None:
    if settings.rate_limit is None:
        return None
    return TokenBucket.of_rate(settings.rate_limit, settings.rate_limit_burst)
