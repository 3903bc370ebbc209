"""The waits that a gate in a group predicts, from the last reply of its group."""

from typing import Any

from rustygate.admission.waiter import Waiter
from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASS_INDEX
from rustygate.core.group_demand import FlowKey
from rustygate.core.group_forecast import GroupNewcomer, forecast
from rustygate.core.predicted_wait import Prediction
from rustygate.core.work import Work


class Predictions:
    """The last reply, and what other members have waiting in the flows of this one."""

    def __init__(self) -> None:
        self._reply: dict[str, Any] | None = None
        self._at = 0
        self._lanes: dict[str, list[Any]] = {}
        self._elsewhere: dict[FlowKey, tuple[int, int]] = {}

    def receive(self, reply: dict[str, Any], reported: list[FlowKey], now: int) -> None:
        """Adopt a reply.

        Args:
            reported: the flows of the call, which the reply covers.
        """
        self._reply, self._at = reply, now
        self._lanes = {state[0]: state for state in reply["lanes"]}
        for key in reported:
            self._elsewhere.pop(key, None)
        for lane, index, client, items, tokens in reply["flows"]:
            self._elsewhere[lane, index, client] = items, tokens

    def forget(self) -> None:
        """The group does not answer any more."""
        self._reply = None
        self._elsewhere.clear()

    def predict(self, waiter: Waiter, now: int) -> Prediction:
        """The wait of a newcomer, 0 without a reply."""
        if self._reply is None:
            return Prediction(0, 0)
        exchange = waiter.exchange
        index = CLASS_INDEX[exchange.priority]
        key = (waiter.lane.name, index, exchange.client)
        items, tokens = self._elsewhere.get(key, (0, 0))
        flow = waiter.lane.flows.get((index, exchange.client, waiter.client))
        if flow is not None:
            items, tokens = items + flow.count, tokens + flow.tokens
        newcomer = GroupNewcomer(
            key, exchange.weight, waiter.tokens, items, tokens, waiter.is_retry
        )
        return forecast(self._reply, newcomer, now - self._at)

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
        return wait
