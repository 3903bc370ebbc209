"""A member's waiters as it reports them to its group: by flow, and mostly flows that changed.

A reply says what waits at other members in the flows of the call. Waits are predicted from that,
and it changes over time, so each call also repeats a few flows that were not reported for a while.
"""

from collections import Counter
from itertools import islice
from typing import Any

from rustygate.admission.waiter import Waiter
from rustygate.core.group_call import MAX_TOKENS, SIZES_REPORTED
from rustygate.core.group_demand import FlowKey
from rustygate.core.group_scheduler import DEMAND_LEASE
from rustygate.core.group_state import MAX_FLOWS_REPORTED
from rustygate.core.scheduler import Scheduler
from rustygate.core.scopes import Flow

# A flow is reported again after this time, and how many flows at most in one call.
REFRESH_INTERVAL = DEMAND_LEASE // 2
REFRESHED = 4


def key_of(flow: Flow[Waiter]) -> FlowKey:
    """The key of a waiter's flow in the group."""
    waiter = next(iter(flow))
    return waiter.lane.name, flow.share.index, waiter.exchange.client


class Demand:
    """The flows of a member's waiters, and which of them must be reported to the group.

    Attributes:
        new: the flows of the last report that were not in the one before, or empty there.
    """

    def __init__(self) -> None:
        self.new: list[FlowKey] = []
        # A key has two flows for a while after its client got limits of its own.
        self._flows: dict[FlowKey, list[Flow[Waiter]]] = {}
        self._changed: dict[FlowKey, None] = {}
        # When each flow was last reported, oldest first.
        self._reported_at: dict[FlowKey, int] = {}

    def __repr__(self) -> str:
        return f"<Demand of {len(self._flows)} flows, {len(self._changed)} changed>"

    def restart(self, scheduler: Scheduler[Waiter]) -> None:
        """Report everything that waits, because the group knows nothing of it."""
        self._flows.clear()
        self._changed.clear()
        self._reported_at.clear()
        for shares in scheduler.busy:
            for share in shares:
                for flow in share.flows:
                    self.add(flow)

    def add(self, flow: Flow[Waiter]) -> None:
        """A waiter came into a flow."""
        key = key_of(flow)
        flows = self._flows.setdefault(key, [])
        if flow not in flows:
            flows[:] = [*(each for each in flows if each.count), flow]
        self._changed[key] = None

    def change(self, key: FlowKey) -> None:
        """Report a flow again."""
        self._changed[key] = None

    def change_all(self) -> None:
        """Report all flows again."""
        self._changed.update(dict.fromkeys(self._flows))

    def on_left(self, key: FlowKey, flow: Flow[Waiter]) -> None:
        """A waiter has left a flow: forget that if it was the last one."""
        if not flow.count and key not in self._changed:
            flows = self._flows.get(key, [])
            if not any(each.count for each in flows):
                self._forget(key)
        flow.lane.drop_old_entries(flow.share.index)

    def first(self, key: FlowKey) -> tuple[Flow[Waiter], Waiter] | None:
        """The first waiter of a flow."""
        for flow in self._flows.get(key, ()):
            if flow.count:
                return flow, next(iter(flow))
        return None

    def waiters(self, key: FlowKey) -> list[Waiter]:
        """The waiters of a flow, in order."""
        return [waiter for flow in self._flows.get(key, ()) for waiter in flow]

    def report(self, granted: Counter[FlowKey], now: int) -> list[list[Any]]:
        """The flows that have changed since the last report, or some of them if they are many; and
        a few others.

        Args:
            granted: how many waiters of each flow have a grant that is not due yet.
        """
        self._change_oldest(now)
        changed = list(islice(self._changed, MAX_FLOWS_REPORTED))
        for key in changed:
            del self._changed[key]
        self.new = []
        return [self._report(key, granted[key], now) for key in changed]

    def _change_oldest(self, now: int) -> None:
        """Report again a few flows that were not reported for a while."""
        for key, at in islice(self._reported_at.items(), REFRESHED):
            if now - at >= REFRESH_INTERVAL:
                self._changed[key] = None

    def _report(self, key: FlowKey, granted: int, now: int) -> list[Any]:
        flows = self._flows.get(key, [])
        was_reported = self._reported_at.pop(key, None) is not None
        if not any(flow.count for flow in flows):
            self._forget(key)
            return [*key, 1.0, [], 0, 0, 0]
        if not was_reported:
            self.new.append(key)
        self._reported_at[key] = now
        waiters = [
            entry for flow in flows for entry in islice(flow.sizes(), granted + SIZES_REPORTED)
        ]
        first = waiters[granted : granted + SIZES_REPORTED]
        if not first:
            return [*key, flows[-1].share.weight, [], 0, 0, 0]
        sizes = [_cap(tokens) for _, tokens in first]
        before = sum(tokens for _, tokens in waiters[:granted])
        rest = sum(flow.count for flow in flows) - granted - len(sizes)
        rest_tokens = 0
        if rest:
            rest_tokens = sum(flow.tokens for flow in flows) - before
            rest_tokens -= sum(tokens for _, tokens in first)
        age = max(0, now - first[0][0].since)
        weight = flows[-1].share.weight
        return [*key, weight, sizes, rest, min(rest_tokens, rest * MAX_TOKENS), age]

    def _forget(self, key: FlowKey) -> None:
        """Forget a flow without waiters."""
        self._flows.pop(key, None)
        self._reported_at.pop(key, None)


def _cap(tokens: int) -> int:
    return min(tokens, MAX_TOKENS)
