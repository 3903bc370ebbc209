"""One attempt's way through the gate: it waits, is admitted, and returns what it did not use."""

import asyncio
from collections.abc import Callable
from typing import Self

from rustygate.admission.activity import ClientActivity
from rustygate.admission.dispatcher import Dispatcher
from rustygate.admission.lanes import Lanes
from rustygate.admission.waiter import ClientQueue, Waiter
from rustygate.core.rate_limit_headers import RateLimitUpdate
from rustygate.errors import RequestTooLarge
from rustygate.exchange import Exchange


class Admission(Waiter):
    """One attempt at the gate: entering the context waits for admission, leaving frees its slots.

    Args:
        before_wait: called before it waits, to free what is not needed meanwhile.

    After admission it takes what becomes known of the attempt: `record_response`, `pause`,
    `settle`, `give_back`.
    """

    __slots__ = (
        "_activity", "_asked_at", "_before_wait", "_dispatcher", "_lane_slot_freed", "_lanes",
        "_slots_freed",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
        dispatcher: Dispatcher,
        lanes: Lanes,
        client: ClientQueue | None,
        before_wait: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(exchange, lanes.get(exchange.lane or exchange.model), client)
        self._dispatcher = dispatcher
        self._lanes = lanes
        self._lane_slot_freed = self._slots_freed = False
        self._activity: ClientActivity | None = None
        self._before_wait = before_wait
        self._asked_at: int

    async def __aenter__(self) -> Self:
        if not self.enter_at_once():
            try:
                await self.start_waiting()
            except BaseException:
                self.withdraw()
                raise
            self.take_turn()
        return self

    # For an admission that no `async with` can enclose.
    enter = __aenter__

    def enter_at_once(self) -> bool:
        """Enter if no other waiter needs the same budgets and all of them suffice. Otherwise
        returns False: call `start_waiting`, or `withdraw`. A refusal leaves nothing to do."""
        self.lane.users += 1
        try:
            self._refuse_oversized()
            self._asked_at = now = self._dispatcher.now()
            if not self._dispatcher.admit_at_once(self, now):
                return False
        except BaseException:
            self.withdraw()
            raise
        self._count()
        return True

    def start_waiting(self) -> "asyncio.Future[None]":
        """Join the queue. When the returned future is done, call `take_turn`, or after a refusal
        `withdraw`. Also call `withdraw` to leave the queue earlier, or if this itself refuses."""
        if self._before_wait is not None:
            self._before_wait()
        return self._dispatcher.start_waiting(self, self._asked_at)

    def take_turn(self) -> None:
        """Enter after a wait, once admitted."""
        self._dispatcher.stop_waiting(self, self._asked_at)
        self._count()

    def charge(self) -> None:
        """Enter without waiting, whatever the budgets: upstream has started a turn on its own."""
        self.lane.users += 1
        self._dispatcher.charge(self)
        self._count()

    def _count(self) -> None:
        """Count the admission."""
        dispatcher = self._dispatcher
        self.lane.admitted += 1
        cost = dispatcher.budgets.cost(self.tokens)
        self._activity = dispatcher.activity.admit(self.exchange, cost)

    def leave(self) -> None:
        """Free what the attempt still holds."""
        self.release()
        self._lanes.release(self.lane)

    def withdraw(self) -> None:
        """After a cancellation, refusal or defect: give back its turn, and what it was granted."""
        if self.decision is not None:
            self._dispatcher.stop_waiting(self, self._asked_at)
            if self.granted:
                self.give_back()
                self.release()
            self._dispatcher.cancel(self)
        self._lanes.release(self.lane)

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def _refuse_oversized(self) -> None:
        least = self.exchange.min_tokens
        capacity = self._dispatcher.token_capacity
        if capacity is not None and least > capacity:
            raise RequestTooLarge(least, capacity)
        for scope in self.scopes:
            bucket = scope.budgets.tokens
            if bucket is None or least <= bucket.burst:
                continue
            if scope.limits_are_current(self._dispatcher.now()):
                raise RequestTooLarge(least, bucket.burst)

    # After admission.

    def record_response(
        self, ok: bool, update: RateLimitUpdate | None = None, *, refused: bool = False
    ) -> None:
        """Note that upstream has responded, successfully or not, and what its headers say about
        the rate limits; `refused`: its status is 429."""
        lane = self.lane.budgets
        if refused:
            lane.count_refusal(self.lane_totals, self.tokens)
        if ok and not (lane.known and lane.slots is None):
            lane.confirm_model()
        if ok and lane.pace is not None:
            self._accept_at_pace()
        if update is not None and lane.learn(self._dispatcher.now(), self.lane_totals, update):
            self._lanes.on_limits_changed(self.lane)
            self._dispatcher.on_lane_changed(self.lane)
        if not self._lane_slot_freed:
            self._free_lane_slot()
        if update is None:
            self._dispatcher.wake_by_slots(self.lane)
        else:
            self._dispatcher.wake(self.lane)

    def _accept_at_pace(self) -> None:
        lane = self.lane.budgets
        if lane.accept(self._dispatcher.now(), self.lane_totals):
            self._dispatcher.wake(*self._lanes.sharing_pace(lane.current_pace))

    def pause(self, wait: int, *, slow: bool = False, guessed: bool = False) -> None:
        """Admit no request of this lane for `wait` ns; if `slow`, fewer of them after that.

        Args:
            guessed: upstream did not say how long to wait.
        """
        lane, now = self.lane.budgets, self._dispatcher.now()
        # The refused request will no longer count for the pace, or another pace will replace it,
        # so other lanes may follow sooner.
        pace = lane.current_pace
        sharing = () if pace is None else self._lanes.sharing_pace(pace)
        if slow:
            lane.pause(now, wait)
            lane.slow_down(now, self.lane_totals)
        else:
            # What upstream last reported may show that it had too few tokens.
            scarcest = lane.scarcest(now, lane.token_charge(self.tokens))
            if lane.paused_until <= now and scarcest == "requests":
                self._dispatcher.on_refusal(now)
            lane.refuse(now, wait, self.lane_totals, guessed=guessed)
        self._dispatcher.wake(self.lane, *sharing)
        self._dispatcher.on_lane_changed(self.lane)

    def settle(self, tokens: int) -> None:
        """Replace the estimated cost by the actual one. The lane's level comes from upstream."""
        own, client = self._dispatcher.budgets, self.client
        if own.tokens is not None:
            own.settle(self._dispatcher.now(), self.tokens, tokens)
        if client is not None and client.budgets.tokens is not None and client.charged(self):
            client.budgets.settle(self._dispatcher.now(), self.tokens, tokens)
        self.tokens = tokens
        if own.tokens is not None or client is not None:
            self._dispatcher.wake(client)

    def give_back(self) -> None:
        """Return what was taken, because nothing was sent upstream."""
        lane = self.lane.budgets
        lane.give_back(self.tokens)
        lane.count_refusal(self.lane_totals, self.tokens)
        self._return_cost()

    def waive(self) -> None:
        """Return what an admission took from the gate's and the client's budgets, because it makes
        no model work. The lane's level comes from upstream."""
        self._return_cost()

    def _return_cost(self) -> None:
        self._dispatcher.budgets.give_back(self.tokens)
        if self.client is not None and self.client.charged(self):
            self.client.budgets.give_back(self.tokens)
        self._dispatcher.wake(self.lane, self.client)

    def release(self) -> None:
        """Free the slots, before the attempt ends if it needs them no longer."""
        if self._slots_freed:
            return
        self._slots_freed = True
        if not self._lane_slot_freed:
            self._free_lane_slot()
        if self._activity is not None:
            self._activity.in_flight -= 1
        if self.client is not None:
            self.client.budgets.release()
        own = self._dispatcher.budgets
        own.release()
        if own.slots is None:
            self._dispatcher.wake_by_slots(self.lane, self.client)
        else:
            self._dispatcher.wake(self.lane, self.client)

    def _free_lane_slot(self) -> None:
        """Free the lane's slot, which counts a request until upstream responds."""
        self._lane_slot_freed = True
        self.lane.budgets.answer(self.lane_totals)
