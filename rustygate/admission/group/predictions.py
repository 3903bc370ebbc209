"""The waits that a gate in a group predicts, from the last reply of its group."""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from rustygate.admission.waiter import LaneQueue, Waiter
from rustygate.core.bucket import SECOND
from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASSES
from rustygate.core.group_demand import FlowKey
from rustygate.core.group_forecast import GroupNewcomer, forecast, longest_client_wait
from rustygate.core.predicted_wait import Newcomer, Prediction
from rustygate.core.upcoming import Upcoming
from rustygate.core.work import NO_WORK, Work, sum_work

# A reply says what waits elsewhere in the reported flows. After this time, those waiters may have
# been served, so no request is refused because of them.
_FRESH = SECOND


class _Elsewhere(NamedTuple):
    """What waits in a flow at other members, as of an instant."""

    items: int
    tokens: int
    at: int


class Predictions:
    """The last reply, and what other members have waiting in the flows of this one."""

    def __init__(self) -> None:
        self._reply: dict[str, Any] | None = None
        self._at = 0
        self._lanes: dict[str, list[Any]] = {}
        self._clients: dict[str, list[Any]] = {}
        self._elsewhere: dict[FlowKey, _Elsewhere] = {}

    def receive(self, reply: dict[str, Any], reported: list[FlowKey], now: int) -> None:
        """Adopt a reply.

        Args:
            reported: the flows of the call, which the reply covers.
        """
        self._reply, self._at = reply, now
        self._lanes = {state[0]: state for state in reply["lanes"]}
        self._clients = {state[0]: state for state in reply["clients"]}
        for key in reported:
            self._elsewhere.pop(key, None)
        for lane, index, client, items, tokens in reply["flows"]:
            self._elsewhere[lane, index, client] = _Elsewhere(items, tokens, now)

    def forget(self) -> None:
        """The group does not answer any more."""
        self._reply = None
        self._elsewhere.clear()

    def predict(
        self, lane: str, newcomer: Newcomer, now: int, place: Work | None = None
    ) -> Prediction:
        """The wait of a newcomer in a lane, 0 without a reply.

        Args:
            place: for a waiter that is not new, the work before it in its flow here.
        """
        if self._reply is None:
            return Prediction(0, 0)
        index = newcomer.class_index
        key = (lane, index, newcomer.name)
        items, tokens = self._waiting_elsewhere(key, now)
        ahead = None if place is None else sum_work([place, Work(0, items, tokens)])
        flow = newcomer.lane.flows.get((index, newcomer.name, newcomer.client))
        if flow is not None:
            items, tokens = items + flow.count, tokens + flow.tokens
        in_group = GroupNewcomer(
            key, newcomer.weight, newcomer.tokens, items, tokens, newcomer.at_front, ahead
        )
        return forecast(self._reply, in_group, now - self._at)

    def forecasts(self, lanes: Sequence[tuple[LaneQueue, int]], now: int) -> list[list[int]]:
        """The waits of newcomers that have nothing waiting, for each lane by class."""
        newcomers = [
            [Newcomer(lane, None, index, None, 1.0, tokens) for index in CLASSES]
            for lane, tokens in lanes
        ]
        return [
            [self.predict(lane.name, newcomer, now).wait for newcomer in classes]
            for (lane, _), classes in zip(lanes, newcomers, strict=True)
        ]

    def expect(self, found: list[Upcoming[Waiter]], now: int) -> list[Upcoming[Waiter]]:
        """These waiters at the instants at which the group is expected to admit them."""
        before: dict[FlowKey, Work] = {}
        expected = [self._expect(each, before, now) for each in found]
        return sorted(expected, key=lambda each: inf if each.at is None else each.at)

    def _expect(
        self, each: Upcoming[Waiter], before: dict[FlowKey, Work], now: int
    ) -> Upcoming[Waiter]:
        """
        Args:
            before: what comes before it in its flow.
        """
        newcomer, lane = each.item.newcomer, each.item.lane.name
        key = (lane, newcomer.class_index, newcomer.name)
        ahead = before.get(key, NO_WORK)
        before[key] = ahead.plus(0, each.tokens)
        if self._reply is None or each.at is None:
            return each
        waiter = GroupNewcomer(
            key, newcomer.weight, each.tokens, round(ahead.items), round(ahead.tokens)
        )
        wait = forecast(self._reply, waiter, now - self._at).wait
        return each._replace(at=max(each.at, now + wait))

    def _waiting_elsewhere(self, key: FlowKey, now: int) -> tuple[int, int]:
        """Items and tokens of a flow at other members, 0 if that is not known or too old."""
        told = self._elsewhere.get(key)
        if told is None or now - told.at > _FRESH:
            self._elsewhere.pop(key, None)
            return 0, 0
        return told.items, told.tokens

    def longest_wait(self, waiter: Waiter, own: Budgets, here: Work, now: int) -> int:
        """An upper bound, which is quick to compute.

        Args:
            here: what waits at this gate, whether the group knows about it or not.
        """
        reply = self._reply
        if reply is None:
            return 0
        items, tokens = here.items + reply["waiting"], here.tokens + reply["waiting_tokens"]
        wait = own.wait_behind(now, waiter.tokens, items, tokens)
        state = self._lanes.get(waiter.lane.name)
        if state is not None:
            items, tokens = here.items + sum(state[6]), here.tokens + sum(state[7])
            wait = max(
                wait,
                waiter.lane.budgets.wait_behind(now, waiter.tokens, items, tokens),
                state[5] * round(items),
            )
        client = self._clients.get(waiter.exchange.client)
        if client is not None:
            wait = max(wait, longest_client_wait(client, waiter.tokens, here, now - self._at))
        return wait
