"""A waiter, and the budgets that it needs besides the gate's own."""

import asyncio

from rustygate.core.bucket import SECOND
from rustygate.core.budgets import Budgets
from rustygate.core.clients import Limits
from rustygate.core.fair_order import CLASS_INDEX
from rustygate.core.history import CountHistory
from rustygate.core.lane import AdmissionTotals, Lane
from rustygate.core.predicted_wait import Newcomer
from rustygate.core.saved_levels import SavedClient, restore_bucket, saved_bucket
from rustygate.core.scopes import ClientScope, Flow, LaneScope
from rustygate.errors import Refusal
from rustygate.exchange import Exchange

# An error message repeats at most this many characters of a model's or client's name.
MAX_NAME_SHOWN = 100


class Waiter:
    """An attempt that needs admission.

    `decision` is set while it waits, and resolves when it is admitted or refused; `since` is when
    it began to wait. `limits` and `lane_totals` record what its client's and its
    lane's budgets were when it was charged, and `version` what the client's were in the group.
    """

    __slots__ = (
        "client", "deadline_number", "decision", "exchange", "flow", "is_retry", "lane",
        "lane_totals", "limits", "since", "tokens", "turn_queue", "version",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, lane: "LaneQueue", client: "ClientQueue | None"
    ) -> None:
        self.exchange = exchange
        self.tokens = exchange.tokens
        self.is_retry = exchange.attempts > 0
        self.lane = lane
        self.client = client
        self.flow: Flow[Waiter] | None = None
        self.turn_queue: TurnQueue | None = None
        self.decision: asyncio.Future[None] | None = None
        self.deadline_number: int
        self.since: int
        self.version: int
        self.limits: Limits
        self.lane_totals: AdmissionTotals

    @property
    def scopes(self) -> "tuple[LaneQueue | ClientQueue, ...]":
        """The sets of budgets that it needs besides the gate's own."""
        return (self.lane,) if self.client is None else (self.client, self.lane)

    @property
    def newcomer(self) -> Newcomer:
        """The waiter as a prediction sees it."""
        exchange = self.exchange
        index = CLASS_INDEX[exchange.priority]
        return Newcomer(
            self.lane, self.client, index, exchange.client, exchange.weight, self.tokens,
            self.is_retry,
        )  # fmt: skip

    @property
    def rank(self) -> int | None:
        """The arrival time of a retry, which goes to the front of its flow in order of arrival;
        None for all others."""
        return self.exchange.arrived if self.is_retry else None

    def waited(self, now: int) -> int:
        """How long its exchange has waited until now, over all attempts, in nanoseconds."""
        return self.exchange.queued + now - self.since

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

    def grant(self) -> bool:
        """Admit it. Returns False if it was cancelled before."""
        assert self.decision is not None
        if self.decision.done():
            return False
        self.decision.set_result(None)
        return True

    def refuse(self, refusal: Refusal) -> None:
        self.fail(refusal)

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        assert self.decision is not None
        if not self.decision.done():
            self.decision.set_exception(error)


class TurnQueue:
    """The order of the turns in one WebSocket.

    A turn is admitted only after all turns before it. Turns for different models wait in different
    lanes, so a later one could be admitted first. It would then hold what it was granted until the
    earlier one goes upstream, perhaps the very slot that the earlier one waits for. So a turn
    waits in the gate only behind turns of the same flow; the others are held until those before
    them have gone.

    `line` has all turns that wait, the first one first.
    """

    __slots__ = ("__weakref__", "line")

    def __init__(self) -> None:
        self.line: dict[Waiter, None] = {}

    def __repr__(self) -> str:
        return f"<TurnQueue {len(self.line)} waiting>"

    def may_wait_in_gate(self, turn: Waiter) -> bool:
        """Whether all turns before this one are in the same flow, which is first in, first out."""
        for other in self.line:
            if other is turn:
                return True
            if (other.lane, other.exchange.priority) != (turn.lane, turn.exchange.priority):
                return False
        return True

    def followers(self) -> list[Waiter]:
        """The turns that may wait in the gate now."""
        return [turn for turn in self.line if self.may_wait_in_gate(turn)]


class LaneQueue(LaneScope[Waiter]):
    """What waits for a lane's budgets, whose limits can change with each response.

    `users` counts the attempts that wait for them or were admitted, and `admitted` those that
    were admitted in all; `history` is that of the latter, once it has been sampled.
    """

    __slots__ = ("admitted", "history", "name", "refill_periods", "users")

    budgets: Lane

    def __init__(self, name: str, lane: Lane) -> None:
        super().__init__(lane)
        self.name = name
        self.refill_periods = lane.refill_periods
        self.users = self.admitted = 0
        self.history: CountHistory | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.waiting} waiting, {self.budgets}>"

    @property
    def owner(self) -> str:
        """The owner of the limits, for an error message: ` for gpt-4o`, or nothing."""
        return f" for {self.name[:MAX_NAME_SHOWN]}" if self.name else ""

    def limits_are_current(self, now: int) -> bool:
        """Whether a cost above these limits is certain to be above them later, too."""
        return self.budgets.recently_updated(now)

    def take(self, item: Waiter, now: int, tokens: int) -> None:
        self.budgets.take(now, tokens)
        item.lane_totals = self.budgets.totals


class ClientQueue(ClientScope[Waiter]):
    """What waits for a client's own budgets, whose limits the operator can change at any time."""

    __slots__ = ("limits", "name")

    def __init__(self, name: str) -> None:
        super().__init__(Budgets())
        self.name = name
        self.limits = Limits()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.waiting} waiting, {self.budgets}>"

    @property
    def owner(self) -> str:
        return f" for client {self.name[:MAX_NAME_SHOWN]}"

    def limits_are_current(self, now: int) -> bool:
        return True

    def take(self, item: Waiter, now: int, tokens: int) -> None:
        self.budgets.take(now, tokens)
        item.limits = self.limits

    def charged(self, admitted: Waiter) -> bool:
        """Whether the present budgets are the ones that were charged for an admission. New limits
        begin with full budgets."""
        return admitted.limits is self.limits

    def set_limits(self, limits: Limits) -> bool:
        """Returns whether they are other limits than before."""
        if limits == self.limits:
            return False
        self.limits = limits
        self.budgets.replace_limits(limits.budgets())
        return True

    def save(self, now: int) -> SavedClient:
        """The levels to keep over a restart."""
        budgets = self.budgets
        return SavedClient(
            self.name, saved_bucket(budgets.requests, now), saved_bucket(budgets.tokens, now)
        )

    def restore(self, now: int, saved: SavedClient, elapsed: int) -> None:
        """Restore levels that were saved `elapsed` nanoseconds ago."""
        restore_bucket(self.budgets.requests, saved.requests, now, elapsed)
        restore_bucket(self.budgets.tokens, saved.tokens, now, elapsed)


AnyQueue = LaneQueue | ClientQueue


def clock_ns(loop: asyncio.AbstractEventLoop) -> int:
    """An event loop's clock in nanoseconds."""
    return int(loop.time() * SECOND)
