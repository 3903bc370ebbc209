"""What the supervisor does for one worker: admits, budgets and counts its exchanges.

If the worker ends, what it holds is freed at once. If it is only silent, as a stopped process is,
its waiters leave the queue after a second, and what was granted to it since its last message is
taken back: it will ask again. If it uses that before it learns of this, it is charged again.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic_ns
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

from loguru import logger

from rustygate.admission.admission import Admission
from rustygate.admission.waiter import TurnQueue
from rustygate.control_plane import ControlPlane
from rustygate.core.bucket import SECOND
from rustygate.errors import InternalError, Refusal
from rustygate.exchange import Exchange
from rustygate.telemetry.ledger import log_exchanges
from rustygate.workers.channel import Answerer, Channel, Handler
from rustygate.workers.packing import unpack_exchange, unpack_update
from rustygate.workers.refusals import pack_refusal

# The messages that are methods of an admission, with the same arguments.
_PASSED_ON = ("settle", "give_back", "waive", "release")


class _Attempt:
    """An attempt of the worker at the gate: it waits, or was admitted `at` an instant."""

    __slots__ = ("admission", "at", "queued", "waits")

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.queued = admission.exchange.queued
        self.waits = False
        self.at = 0

    def stop_waiting(self) -> None:
        """Leave the queue."""
        assert self.admission.decision is not None
        self.admission.decision.cancel()
        self.admission.withdraw()


class WorkerService:
    """Serves one worker over its channel."""

    def __init__(
        self,
        control: ControlPlane,
        handlers: dict[str, Handler],
        on_lost: Callable[[], None],
        answerers: Mapping[str, Answerer] = MappingProxyType({}),
    ) -> None:
        """`handlers` and `answerers`: of messages and questions about the workers themselves."""
        self._control = control
        self.channel = Channel(
            {**self._handlers(), **handlers}, {**self._answerers(), **answerers}, on_lost
        )
        self._attempts: dict[int, _Attempt] = {}
        # The turn queue of a WebSocket lasts as long as attempts that refer to it.
        self._turn_queues: WeakValueDictionary[int, TurnQueue] = WeakValueDictionary()
        # The exchanges that have reserved something of their client's budgets, by id.
        self._reserved: dict[str, Exchange] = {}
        # Those that were taken back, until the worker has said what became of them.
        self._suspended: dict[int, _Attempt] = {}

    def __repr__(self) -> str:
        return f"<WorkerService {len(self._attempts)} attempts>"

    def _handlers(self) -> dict[str, Handler]:
        return {
            "enter": self._enter,
            "charge": self._charge,
            "withdraw": self._withdraw,
            "respond": self._respond,
            "pause": self._pause,
            **{name: partial(self._pass_on, name) for name in _PASSED_ON},
            "leave": self._leave,
            "settled": self._settled,
            "count_retry": self._control.tally.count_retry,
            "count_upstream_429": self._control.tally.count_upstream_429,
            "count_refusal": self._control.tally.count_refusal,
        }

    def _answerers(self) -> dict[str, Answerer]:
        control = self._control
        return {
            "readiness": control.readiness,
            "metrics": control.metrics_text,
            "state": control.state_text,
            "usage": control.usage_text,
            "budgets": control.budgets_text,
            "budget_left": self._budget_left,
            "reserve": self._reserve,
        }

    @property
    def in_flight(self) -> list[Exchange]:
        """The exchanges that were admitted and have not ended."""
        return [each.admission.exchange for each in self._attempts.values() if not each.waits]

    # Admission.

    def _enter(
        self, number: int, turns: int | None, before: int | None, packed: tuple[Any, ...]
    ) -> None:
        """An attempt asks to enter; `before`: its number, if it did so before."""
        exchange = unpack_exchange(packed)
        if before is not None and (held := self._attempts.pop(before, None)) is not None:
            # It still has what it was granted.
            held.queued = held.admission.exchange.queued
            self._attempts[number] = held
            self._admit(number, held)
            return
        attempt = self._attempts[number] = self._attempt(turns, exchange)
        if before is not None:
            # It keeps its place in the queue, as a retry does.
            self._suspended.pop(before, None)
            attempt.admission.is_retry = True
        self._admit_or_wait(number, attempt)

    def _admit_or_wait(self, number: int, attempt: _Attempt) -> None:
        try:
            at_once = attempt.admission.enter_at_once()
        except Exception as error:
            self._refuse(number, attempt, error)
            return
        if at_once:
            self._admit(number, attempt)
        else:
            self._wait(number, attempt)

    def _wait(self, number: int, attempt: _Attempt) -> None:
        """Join the queue, in the order of the worker's messages."""
        attempt.waits = True
        try:
            decision = attempt.admission.start_waiting()
        except Exception as error:
            attempt.admission.withdraw()
            self._refuse(number, attempt, error)
            return
        if decision.done():
            # Those in the queue wait for other budgets than this one needs.
            self._on_decision(number, decision)
        else:
            self.channel.tell("queued", number)
            decision.add_done_callback(partial(self._on_decision, number))

    def _attempt(self, turns: int | None, exchange: Exchange) -> _Attempt:
        if turns is None:
            return _Attempt(self._control.gate.admission(exchange))
        queue = self._turn_queues.setdefault(turns, TurnQueue())
        return _Attempt(self._control.gate.turn_admission(exchange, queue))

    def _on_decision(self, number: int, decision: asyncio.Future[None]) -> None:
        attempt = self._attempts.get(number)
        if attempt is None:
            # It has left the queue.
            return
        error = decision.exception()
        if error is None:
            attempt.admission.take_turn()
            self._admit(number, attempt)
        else:
            attempt.admission.withdraw()
            self._refuse(number, attempt, error)

    def _admit(self, number: int, attempt: _Attempt) -> None:
        attempt.waits = False
        attempt.at = self._control.gate.now()
        self.channel.tell("admitted", number, attempt.at, self._queued(attempt))

    def _refuse(self, number: int, attempt: _Attempt, error: BaseException) -> None:
        del self._attempts[number]
        if not isinstance(error, Refusal):
            exchange_id = attempt.admission.exchange.id
            logger.opt(exception=error).error("exchange {} failed", exchange_id)
            error = InternalError(exchange_id)
        self.channel.tell("refused", number, self._queued(attempt), *pack_refusal(error))

    @staticmethod
    def _queued(attempt: _Attempt) -> int:
        return attempt.admission.exchange.queued - attempt.queued

    def _charge(self, number: int, packed: tuple[Any, ...]) -> None:
        """An attempt enters without waiting, or used what was taken back."""
        if number not in self._attempts:
            self._suspended.pop(number, None)
            self._charge_for(number, unpack_exchange(packed))

    def _charge_for(self, number: int, exchange: Exchange) -> _Attempt:
        attempt = self._attempts[number] = self._attempt(None, exchange)
        attempt.admission.charge()
        attempt.at = self._control.gate.now()
        return attempt

    def _admitted(self, number: int) -> _Attempt | None:
        """The attempt that the worker says something about; None if it has left."""
        suspended = self._suspended.pop(number, None)
        if suspended is not None:
            # The worker has not read yet that it was taken back, and used it.
            return self._charge_for(number, suspended.admission.exchange)
        return self._attempts.get(number)

    def _withdraw(self, number: int) -> None:
        self._suspended.pop(number, None)
        attempt = self._attempts.pop(number, None)
        if attempt is not None:
            self._take_back(attempt)

    @staticmethod
    def _take_back(attempt: _Attempt) -> None:
        if attempt.waits:
            attempt.stop_waiting()
        else:
            attempt.admission.give_back()
            attempt.admission.leave()

    def suspend(self) -> None:
        """The worker is silent: let no others wait for it."""
        heard_at = int(self.channel.heard_at * SECOND)
        with self._control.gate.dispatcher.deferred():
            for number, attempt in list(self._attempts.items()):
                if attempt.waits or attempt.at >= heard_at:
                    self._suspend(number, self._attempts.pop(number))

    def _suspend(self, number: int, attempt: _Attempt) -> None:
        # Its request may have gone upstream.
        attempt.admission.exchange.connected = not attempt.waits
        self._suspended[number] = attempt
        self._take_back(attempt)
        self.channel.tell("suspended", number)

    # After admission.

    def _respond(self, number: int, ok: bool, update: Any, refused: bool) -> None:
        if (attempt := self._admitted(number)) is not None:
            attempt.admission.record_response(ok, unpack_update(update), refused=refused)

    def _pause(self, number: int, wait: int, slow: bool, guessed: bool) -> None:
        if (attempt := self._admitted(number)) is not None:
            attempt.admission.pause(wait, slow=slow, guessed=guessed)

    def _pass_on(self, name: str, number: int, *arguments: Any) -> None:
        if (attempt := self._admitted(number)) is not None:
            getattr(attempt.admission, name)(*arguments)

    def _leave(self, number: int) -> None:
        if (attempt := self._admitted(number)) is not None:
            del self._attempts[number]
            attempt.admission.leave()

    # Budgets of clients, and counting.

    async def _budget_left(self, client: str) -> str | None:
        exchange = Exchange(client, "", "")
        await self._control.spending.show_left(exchange)
        return exchange.budget_left

    async def _reserve(self, packed: tuple[Any, ...]) -> tuple[str | None, Any]:
        exchange = unpack_exchange(packed)
        try:
            await self._control.spending.reserve(exchange)
        except Refusal as refusal:
            return exchange.budget_left, pack_refusal(refusal)
        self._reserved[exchange.id] = exchange
        return exchange.budget_left, None

    def _settled(self, packed: tuple[Any, ...]) -> None:
        self._settle(unpack_exchange(packed))

    def _settle(self, exchange: Exchange) -> None:
        """Count it, with what it has reserved."""
        reserved = self._reserved.pop(exchange.id, None)
        exchange.reserved = None if reserved is None else reserved.reserved
        self._control.tally.settle(exchange)

    # The end.

    def end(self) -> int:
        """The worker has ended: free what it holds, and settle what it has not settled. Returns
        how many exchanges were cut off."""
        suspended, self._suspended = self._suspended, {}
        exchanges = (attempt.admission.exchange for attempt in suspended.values())
        cut_off = self._reserved | {exchange.id: exchange for exchange in exchanges}
        attempts, self._attempts = self._attempts, {}
        for attempt in attempts.values():
            exchange = attempt.admission.exchange
            cut_off[exchange.id] = exchange
            # Upstream may have done the work of one that was admitted.
            exchange.connected = not attempt.waits
            if attempt.waits:
                attempt.stop_waiting()
            else:
                attempt.admission.leave()
        for exchange in cut_off.values():
            exchange.settled = monotonic_ns()
            exchange.outcome, exchange.reason = "aborted", InternalError.reason
            self._settle(exchange)
        if cut_off:
            log_exchanges(list(cut_off.values()))
        return len(cut_off)
