"""The laws of the scheduler under any sequence of events."""

from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rustygate.core.bucket import SECOND
from rustygate.core.budgets import Budgets
from rustygate.core.scheduler import Grant
from rustygate.core.scopes import ClientScope, Flow, LaneScope
from tests.support.scheduled import Demand, Item, Run, check_empty, limits

budgets = st.builds(
    limits,
    st.sampled_from([None, 0.5, 2, 20]),
    st.sampled_from([1, 3]),
    st.sampled_from([None, None, 600, 6000]),
    st.sampled_from([None, None, None, 1, 2]),
)


@settings(max_examples=80, stateful_step_count=50)
class Machine(RuleBasedStateMachine):
    """No item is lost or granted twice, each flow is first in, first out, none waits without a
    reason, and the scheduler always knows when to look again."""

    @initialize(
        own=budgets,
        lanes=st.lists(budgets, min_size=1, max_size=3),
        clients=st.dictionaries(st.sampled_from("abc"), budgets),
    )
    def begin(self, own: Budgets, lanes: list[Budgets], clients: dict[str, Budgets]) -> None:
        self.run = Run(own, dict(zip("xyz", lanes, strict=False)), clients)
        self.waiting: dict[Item, Demand] = {}
        self.in_flight: list[Grant[Item]] = []
        self.last: dict[tuple[str, str, str], int] = {}

    @rule(
        client=st.sampled_from("abcd"),
        lane=st.sampled_from("xyz"),
        priority=st.sampled_from(["interactive", "default", "batch"]),
        tokens=st.sampled_from([1, 5, 50, 300]),
        count=st.integers(1, 4),
    )
    def push(self, client: str, lane: str, priority: str, tokens: int, count: int) -> None:
        for _ in range(count):
            demand = Demand(client, lane, priority, tokens)
            self.waiting[self.run.push(demand)] = demand
        self.dispatch()

    @precondition(lambda self: self.waiting)
    @rule(index=st.integers(0, 99))
    def leave(self, index: int) -> None:
        item = list(self.waiting)[index % len(self.waiting)]
        assert self.run.scheduler.remove(self.run.flow(self.waiting.pop(item)), item)
        self.dispatch()

    @precondition(lambda self: self.in_flight)
    @rule(index=st.integers(0, 99), unused=st.booleans())
    def finish(self, index: int, unused: bool) -> None:
        grant = self.in_flight.pop(index % len(self.in_flight))
        self.run.release(grant)
        if unused:
            self.run.scheduler.refund(grant.flow, grant.tokens)
        self.dispatch()

    @rule(seconds=st.sampled_from([0.001, 0.3, 2, 30]))
    def advance(self, seconds: float) -> None:
        at = min(self.run.now + round(seconds * SECOND), self.run.scheduler.next_at)
        self.run.now = max(self.run.now, int(at))
        self.dispatch()

    def dispatch(self) -> None:
        for grant in self.run.dispatch():
            demand = self.waiting.pop(grant.item)
            assert grant.error is None
            assert grant.tokens == demand.tokens
            key = demand.client, demand.lane, demand.priority
            assert self.last.get(key, 0) < grant.item[1], "first in, first out"
            self.last[key] = grant.item[1]
            self.in_flight.append(grant)

    @invariant()
    def counts_match(self) -> None:
        scheduler = self.run.scheduler
        assert scheduler.waiting == len(self.waiting)
        assert scheduler.waiting_tokens == sum(each.tokens for each in self.waiting.values())
        for name, lane in self.run.lanes.items():
            waiting = [each for each in self.waiting.values() if each.lane == name]
            assert sum(lane.waiting) == len(waiting)
            assert sum(lane.waiting_tokens) == sum(each.tokens for each in waiting)

    @invariant()
    def none_waits_without_a_reason(self) -> None:
        """An item exceeds a budget, or shares a lane or client with one that does."""
        run = self.run
        heads = {run.flow(demand) for demand in self.waiting.values()}
        if any(run.scheduler.budgets.wait(run.now, flow.size) != 0 for flow in heads):
            return
        blocked = {
            flow
            for flow in heads
            if any(each.wait(run.now, flow.size) != 0 for each in scopes_of(flow))
        }
        while True:
            shared = {scope for flow in blocked for scope in scopes_of(flow)}
            more = {flow for flow in heads - blocked if shared.intersection(scopes_of(flow))}
            if not more:
                break
            blocked |= more
        assert blocked == heads

    @invariant()
    def next_instant_is_known(self) -> None:
        if self.waiting and not self.in_flight:
            assert self.run.now < self.run.scheduler.next_at < inf

    def teardown(self) -> None:
        if hasattr(self, "waiting"):
            for grant in self.in_flight:
                self.run.release(grant)
            self.run.drain()
            check_empty(self.run)


def scopes_of(flow: Flow[Item]) -> "list[LaneScope[Item] | ClientScope[Item]]":
    return [flow.lane] if flow.client is None else [flow.lane, flow.client]


TestMachine = Machine.TestCase
