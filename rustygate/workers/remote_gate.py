"""The gate as a worker sees it: its budgets and its queue are in the supervisor.

An attempt asks to enter, and waits until the supervisor admits or refuses it. What becomes known
of it later is sent without waiting for an answer.
"""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any, Self

from rustygate.admission.waiter import clock_ns
from rustygate.core.bucket import SECOND
from rustygate.core.rate_limit_headers import RateLimitUpdate
from rustygate.errors import Draining
from rustygate.exchange import Exchange
from rustygate.workers.channel import Handler
from rustygate.workers.packing import pack_exchange, pack_update
from rustygate.workers.refusals import unpack_refusal

Tell = Callable[..., None]

# An admission that arrives later than this was held up with this process, and the supervisor may
# have given it to others, which it does after a somewhat longer time.
VALID = SECOND * 8 // 10


class RemoteGate:
    """The gate of a worker."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self._numbers = count()
        self._turn_queues = count()
        self._waiting: dict[int, RemoteAdmission] = {}
        # When this process last told the supervisor that it runs.
        self._alive_at = self.now()
        self._in_flight: dict[int, RemoteAdmission] = {}

    def __repr__(self) -> str:
        return f"<RemoteGate {len(self._waiting)} waiting, {len(self._in_flight)} in flight>"

    def close(self) -> None:
        """Refuse all waiters and newcomers: this worker drains, or the supervisor has gone."""
        self.closed = True
        for admission in self._waiting.values():
            admission.withdraw(Draining())

    def now(self) -> int:
        """The event loop's clock, in nanoseconds. All processes of a machine share it."""
        return clock_ns(self.loop)

    def snapshot(self) -> dict[str, int]:
        """How many exchanges wait here, and how many are in flight."""
        return {"waiters": len(self._waiting), "in_flight": len(self._in_flight)}

    def admission(
        self, exchange: Exchange, before_wait: Callable[[], None] | None = None
    ) -> "RemoteAdmission":
        """An attempt's way through the gate."""
        return RemoteAdmission(self, exchange, before_wait=before_wait)

    def turn_queue(self) -> int:
        """The order of the turns of a new WebSocket."""
        return next(self._turn_queues)

    def turn_admission(self, exchange: Exchange, turn_queue: int) -> "RemoteAdmission":
        """The way of a WebSocket's turn through the gate, behind the turns before it."""
        return RemoteAdmission(self, exchange, turn_queue)

    def tell_alive(self) -> None:
        """Tell the supervisor that this process runs."""
        self._alive_at = self.now()
        self.tell("alive")

    # Attempts.

    def new_number(self) -> int:
        """A number for an attempt that asks or enters."""
        return next(self._numbers)

    def add_waiting(self, number: int, admission: "RemoteAdmission") -> None:
        self._waiting[number] = admission

    def remove_waiting(self, number: int) -> None:
        self._waiting.pop(number, None)

    def add_in_flight(self, number: int, admission: "RemoteAdmission") -> None:
        self._in_flight[number] = admission

    def remove_in_flight(self, number: int) -> None:
        self._in_flight.pop(number, None)

    # Messages of the supervisor.

    def handlers(self) -> dict[str, Handler]:
        return {
            "queued": self._on_queued,
            "admitted": self._on_admitted,
            "refused": self._on_refused,
            "suspended": self._on_suspended,
        }

    def _on_queued(self, number: int) -> None:
        """An attempt is not admitted at once."""
        admission = self._waiting.get(number)
        if admission is not None and admission.before_wait is not None:
            admission.before_wait()

    def _on_admitted(self, number: int, at: int, queued: int) -> None:
        """An attempt was admitted at an instant, after some time in the queue."""
        admission = self._waiting.get(number)
        if admission is None:
            # It has left; the message that says so is on its way.
            return
        if self.now() - min(at, self._alive_at) > VALID:
            self.tell_alive()
            admission.ask_again()
        else:
            admission.grant(queued)

    def _on_refused(self, number: int, queued: int, name: str, values: dict[str, Any]) -> None:
        """An attempt was refused."""
        admission = self._waiting.get(number)
        if admission is not None:
            admission.fail(unpack_refusal(name, values), queued)

    def _on_suspended(self, number: int) -> None:
        """An attempt lost its place in the queue, or what it was granted, because this process was
        silent. If its request went upstream before, that counts all the same."""
        if (waiting := self._waiting.get(number)) is not None:
            waiting.suspend()
        elif (admitted := self._in_flight.get(number)) is not None:
            admitted.charge_again()


class RemoteAdmission:
    """One attempt; see `Admission`."""

    __slots__ = (
        "_asked_at", "_decision", "_exchange", "_gate", "_number", "_turn_queue", "before_wait",
    )  # fmt: skip

    def __init__(
        self,
        gate: RemoteGate,
        exchange: Exchange,
        turn_queue: int | None = None,
        before_wait: Callable[[], None] | None = None,
    ) -> None:
        self._gate = gate
        self._exchange = exchange
        self._turn_queue = turn_queue
        self.before_wait = before_wait
        self._number = -1
        self._asked_at = 0
        self._decision: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        gate = self._gate
        if gate.closed:
            raise Draining
        self._decision = gate.loop.create_future()
        self._ask()
        try:
            await self._decision
        except asyncio.CancelledError:
            gate.tell("withdraw", self._number)
            # If it was admitted or refused just before, its wait is counted already.
            if self._decision.cancelled():
                self._count_wait()
            raise
        finally:
            gate.remove_waiting(self._number)
        gate.add_in_flight(self._number, self)
        return self

    enter = __aenter__

    def ask_again(self) -> None:
        """Ask to keep its place in the queue, or what it was granted."""
        assert self._decision is not None
        if not self._decision.done():
            self._count_wait()
            self._gate.remove_waiting(self._number)
            self._ask(before=self._number)

    def suspend(self) -> None:
        """It lost its place in the queue, or what it was granted just now."""
        assert self._decision is not None
        if self._is_granted(self._decision):
            self.charge_again()
        else:
            self.ask_again()

    @staticmethod
    def _is_granted(decision: asyncio.Future[None]) -> bool:
        return decision.done() and not decision.cancelled() and decision.exception() is None

    def _count_wait(self) -> None:
        self._exchange.queued += self._gate.now() - self._asked_at

    def _ask(self, *, before: int | None = None) -> None:
        """Ask to enter; `before`: its number until now."""
        gate, exchange = self._gate, self._exchange
        self._number, self._asked_at = gate.new_number(), gate.now()
        gate.add_waiting(self._number, self)
        gate.tell("enter", self._number, self._turn_queue, before, pack_exchange(exchange))

    def grant(self, queued: int) -> None:
        assert self._decision is not None
        if not self._decision.done():
            self._exchange.queued += queued
            self._decision.set_result(None)

    def fail(self, error: Exception, queued: int) -> None:
        assert self._decision is not None
        if not self._decision.done():
            self._exchange.queued += queued
            self._decision.set_exception(error)

    def withdraw(self, error: Exception) -> None:
        """Leave the queue because of an error."""
        assert self._decision is not None
        if not self._decision.done():
            self._gate.tell("withdraw", self._number)
            self._count_wait()
            self._decision.set_exception(error)

    def charge(self) -> None:
        """Enter without waiting: upstream has started a turn on its own."""
        self._number = self._gate.new_number()
        self._gate.add_in_flight(self._number, self)
        self.charge_again()

    def charge_again(self) -> None:
        """Its cost came back while it was in flight."""
        self._gate.tell("charge", self._number, pack_exchange(self._exchange))

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        self._gate.remove_in_flight(self._number)
        self._gate.tell("leave", self._number)

    def release(self) -> None:
        self._gate.remove_in_flight(self._number)
        self._gate.tell("release", self._number)

    def record_response(
        self, ok: bool, update: RateLimitUpdate | None = None, *, refused: bool = False
    ) -> None:
        self._gate.tell("respond", self._number, ok, pack_update(update), refused)

    def pause(self, wait: int, *, slow: bool = False, guessed: bool = False) -> None:
        self._gate.tell("pause", self._number, wait, slow, guessed)

    def settle(self, tokens: int) -> None:
        self._gate.tell("settle", self._number, tokens)

    def give_back(self) -> None:
        self._gate.tell("give_back", self._number)

    def waive(self) -> None:
        self._gate.tell("waive", self._number)
