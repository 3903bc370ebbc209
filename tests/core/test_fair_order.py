"""The laws of the gate's fair order. A FIFO queue must fail the fairness test."""

import time
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rustygate.core.bucket import TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import (
    CLASS_INDEX,
    CLASS_WEIGHTS,
    CLASSES,
    WEIGHTS,
    FairOrder,
    Place,
)
from rustygate.core.predicted_wait import Newcomer, with_other_classes, work_ahead
from rustygate.core.scheduler import Scheduler
from rustygate.core.scopes import LaneScope
from rustygate.core.work import NO_WORK, Work

T = TypeVar("T", bound=Hashable)
Item = tuple[str, int]
costs = st.integers(1, 20)


class Flow(NamedTuple):
    client: Hashable
    priority: str = "default"
    weight: float = 1.0


A, B, C = Flow("a"), Flow("b"), Flow("c")


class FairQueue(Generic[T]):
    """A scheduler with one slot, so that it grants one item at a time; costs are in tokens.

    The gate has that slot, so its order decides; with `in_lane`, the lane has it.
    """

    def __init__(self, *, in_lane: bool = False) -> None:
        self.limited = Budgets(tokens=TokenBucket(1, 10**15), slots=1)
        self.scheduler: Scheduler[T] = Scheduler(Budgets() if in_lane else self.limited)
        self.lane: LaneScope[T] = LaneScope(self.limited if in_lane else Budgets())

    def __len__(self) -> int:
        return self.scheduler.waiting

    def flow(self, flow: Flow) -> Any:
        return self.scheduler.flow(self.lane, flow.priority, flow.client, flow.weight)

    def push(self, item: T, flow: Flow, cost: int = 1, *, rank: int | None = None) -> None:
        self.scheduler.push(self.flow(flow), item, cost, rank)

    def pop(self) -> T:
        """Raises IndexError on an empty queue."""
        self.limited.in_flight = 0
        self.scheduler.touch(self.lane)
        return self.scheduler.dispatch(0)[0].item

    def remove(self, item: T, flow: Flow) -> bool:
        return self.scheduler.remove(self.flow(flow), item)

    def refund(self, flow: Flow, cost: int = 1) -> None:
        self.scheduler.refund(self.flow(flow), cost)

    def work_ahead(self, flow: Flow) -> Work:
        newcomer = Newcomer(
            self.lane, None, CLASS_INDEX[flow.priority], flow.client, flow.weight, 1
        )
        return work_ahead(self.scheduler, newcomer)

    def in_order(self) -> list[T]:
        return self.lane.in_order()


class Fifo:
    """An unfair queue: first in, first out over all flows."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()

    def push(self, item: Item, flow: Flow) -> None:
        self._items.append(item)

    def pop(self) -> Item:
        return self._items.popleft()


def filled(
    flows: Iterable[tuple[Flow, int]], cost: int = 1, *, in_lane: bool = False
) -> FairQueue[Item]:
    """A queue with `depth` items of each flow, pushed flow by flow."""
    queue: FairQueue[Item] = FairQueue(in_lane=in_lane)
    for flow, depth in flows:
        for number in range(depth):
            queue.push((str(flow.client), number), flow, cost)
    return queue


def served(queue: "FairQueue[Item] | Fifo", turns: int) -> list[str]:
    return [queue.pop()[0] for _ in range(turns)]


def shares_of_two_backlogged_flows(queue: "FairQueue[Item] | Fifo", depth: int) -> list[int]:
    """Serve half of the items of a flood and of an equal flow that came later: turns of each."""
    for flow in ("flood", "late"):
        for number in range(depth):
            queue.push((flow, number), Flow(flow))
    turns = served(queue, depth)
    return [turns.count("flood"), turns.count("late")]


def test_backlogged_flows_get_equal_turns() -> None:
    assert shares_of_two_backlogged_flows(FairQueue(), 100) == [50, 50]


def test_fifo_queue_gives_unequal_turns() -> None:
    assert shares_of_two_backlogged_flows(Fifo(), 100) == [100, 0]


def test_equal_costs_give_round_robin() -> None:
    assert "".join(served(filled([(A, 3), (B, 2), (C, 1)]), 6)) == "abcaba"


@pytest.mark.parametrize("weights", [(2, 1), (3, 2), (1, 0.5), (10, 1), (1, 1)], ids=str)
def test_shares_follow_the_weights(weights: tuple[float, float]) -> None:
    one, other = weights
    queue = filled([(Flow("a", weight=one), 3000), (Flow("b", weight=other), 3000)])
    got = Counter(served(queue, 1100))
    assert got["a"] / got["b"] == pytest.approx(one / other, rel=0.05)


def test_classes_share_by_weight_while_all_wait() -> None:
    queue = filled((Flow(name, name), 2000) for name in CLASS_WEIGHTS)
    got = Counter(served(queue, 2100))
    for name, weight in CLASS_WEIGHTS.items():
        assert got[name] == pytest.approx(2100 * weight / 21, rel=0.05)


def test_single_class_gets_everything() -> None:
    assert served(filled([(Flow("a", "batch"), 5)]), 5) == ["a"] * 5


def test_more_flows_do_not_increase_the_share_of_a_class() -> None:
    """Twenty interactive clients together get what one would get."""
    many = [(Flow(f"i{number}", "interactive"), 100) for number in range(20)]
    got = Counter(name[0] for name in served(filled([*many, (Flow("d"), 1000)]), 1000))
    assert got["i"] / got["d"] == pytest.approx(4, rel=0.05)


def test_same_client_in_two_classes_is_two_flows() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(42):
        queue.push(("batch", number), Flow("a", "batch"))
        queue.push(("interactive", number), Flow("a", "interactive"))
    assert Counter(served(queue, 34)) == {"interactive": 32, "batch": 2}


def test_light_flow_behind_a_flood_waits_one_turn() -> None:
    queue = filled([(Flow("flood"), 1000)])
    served(queue, 10)
    queue.push(("light", 0), Flow("light"))
    assert queue.work_ahead(Flow("other")).items <= 2
    assert "light" in served(queue, 2)


@pytest.mark.parametrize("priority", CLASS_WEIGHTS)
def test_idle_flow_and_class_earn_no_credit(priority: str) -> None:
    idle, busy = Flow("idle", priority), Flow("busy")
    queue = filled([(idle, 1), (busy, 1000)])
    served(queue, 500)
    for number in range(200):
        queue.push(("idle", number + 1), idle)
    got = Counter(served(queue, 100))
    share = CLASS_WEIGHTS[priority] / (CLASS_WEIGHTS[priority] + CLASS_WEIGHTS["default"])
    expected = 50 if priority == "default" else 100 * share
    assert got["idle"] == pytest.approx(expected, abs=2)


def test_flows_share_by_cost_and_not_by_count() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(200):
        queue.push(("big", number), Flow("big"), 9)
        queue.push(("small", number), Flow("small"), 1)
    turns = served(queue, 100)
    assert turns.count("big") == pytest.approx(10, abs=1)


def check_order(queue: FairQueue[Item]) -> None:
    """The order is known in advance, but for equal start tags."""
    expected = queue.in_order()
    actual = [queue.pop() for _ in range(len(queue))]
    assert sorted(actual) == sorted(expected)
    for place, item in enumerate(actual):
        assert abs(expected.index(item) - place) <= 4


def test_order_of_a_lane_is_known_in_advance() -> None:
    flows = [Flow("a"), Flow("b", weight=3), Flow("c", "batch"), Flow("d", "interactive")]
    queue = filled([(flow, 20) for flow in flows], cost=7, in_lane=True)
    for number in range(9):
        queue.push(("a", 100 + number), flows[0], 3 + number, rank=number)
    assert [queue.pop() for _ in range(10)]
    check_order(queue)


def test_refunded_item_pushed_with_a_rank_keeps_its_place() -> None:
    queue: FairQueue[Item] = FairQueue()
    for item in (("a", 0), ("b", 0), ("a", 1), ("b", 1)):
        queue.push(item, Flow(item[0]))
    first = queue.pop()
    queue.refund(A)
    queue.push(first, A, rank=0)
    assert [queue.pop() for _ in range(4)] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_ranked_items_go_first_by_rank() -> None:
    queue = filled([(A, 1)])
    for rank in (3, 1, 2):
        queue.push(("ranked", rank), A, rank=rank)
    assert queue.remove(("ranked", 2), A)
    assert [queue.pop() for _ in range(3)] == [("ranked", 1), ("ranked", 3), ("a", 0)]


def test_unused_turn_is_refunded() -> None:
    queue: FairQueue[Item] = FairQueue()
    for item in (("a", 0), ("b", 0), ("a", 1), ("b", 1)):
        queue.push(item, Flow(item[0]))
    queue.pop()
    queue.refund(A)
    assert [queue.pop() for _ in range(3)] == [("a", 1), ("b", 0), ("b", 1)]


def test_empty_queue_grants_nothing() -> None:
    queue: FairQueue[Item] = FairQueue()
    assert queue.scheduler.dispatch(0) == []


def test_flows_that_leave_are_forgotten() -> None:
    """Flows that come and go while others wait must not accumulate."""
    queue = filled([(Flow("waits"), 10_000)])
    for number in range(5000):
        flow = Flow(number)
        queue.push(("goes", number), flow)
        assert queue.remove(("goes", number), flow)
        queue.pop()
    assert len(queue.lane.flows) <= 3
    assert len(queue.scheduler.shares[CLASS_INDEX["default"]]) <= 3


def test_cost_per_turn_grows_slowly_with_the_number_of_waiters() -> None:
    """With thirty thousand waiters a turn takes little longer than with a thousand."""

    def seconds_each(waiters: int) -> float:
        queue = filled((Flow(number), 1) for number in range(waiters))
        began = time.process_time()
        for turn in range(2000):
            queue.pop()
            queue.push(("new", turn), Flow(("new", turn)))
        return (time.process_time() - began) / 2000

    assert min(seconds_each(30_000) for _ in range(2)) < 8 * seconds_each(1000)


def test_removing_an_item_does_not_scan_the_ranked_items() -> None:
    """Thousands may wait for a retry, and as many behind them may leave at once."""

    class Waiter:
        compared = 0
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            Waiter.compared += 1
            return self is other

    queue: FairQueue[Waiter] = FairQueue()
    for rank in range(1000):
        queue.push(Waiter(), A, rank=rank)
    behind = [Waiter() for _ in range(1000)]
    for waiter in behind:
        queue.push(waiter, A)
    assert all(queue.remove(waiter, A) for waiter in behind)
    assert Waiter.compared < 2000


def test_equal_flows_keep_the_order_within_each() -> None:
    queue = filled([(A, 30), (B, 30), (Flow("i", "interactive"), 20)], cost=1)
    served(queue, 20)
    queue.lane.forget_order()
    later: list[Item] = [queue.pop() for _ in range(len(queue))]
    assert sorted(later) == [(flow, n) for flow in "abi" for n in range(30) if (flow, n) in later]
    for flow in "abi":
        own = [number for name, number in later if name == flow]
        assert own == sorted(own)


def test_prediction_counts_only_what_is_served_first() -> None:
    queue = filled([(Flow("flood"), 1000), (Flow("i", "interactive"), 10)])
    served(queue, 1)
    assert queue.work_ahead(Flow("flood")).items >= 1000
    assert queue.work_ahead(Flow("light")).items <= 12
    assert queue.work_ahead(Flow("light", "interactive")).items <= 2


@pytest.mark.parametrize("flows", [1, 10, 1000])
def test_prediction_is_close_to_the_actual_turn(flows: int) -> None:
    queue = filled((Flow(number), 7) for number in range(flows))
    served(queue, flows // 2)
    predicted = queue.work_ahead(Flow("newcomer")).items
    queue.push(("newcomer", 0), Flow("newcomer"))
    actual = next(turn for turn in range(8 * flows) if queue.pop()[0] == "newcomer")
    assert predicted == pytest.approx(actual, rel=0.3, abs=2)


def test_prediction_counts_items_and_tokens() -> None:
    """Flows of small and of large items share by cost, so not by the number of items."""
    queue: FairQueue[Item] = FairQueue()
    for number in range(100):
        queue.push(("small", number), Flow("small"), 10)
        queue.push(("large", number), Flow("large"), 50)
        queue.push(("mine", number), Flow("mine"), 10)
    ahead = queue.work_ahead(Flow("mine"))
    assert ahead.items == pytest.approx(100 + 100 + 20, rel=0.05)
    assert ahead.tokens == pytest.approx(1000 + 1000 + 1000, rel=0.1)


def test_prediction_counts_other_classes_at_the_gate() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(60):
        queue.push(("a", number), Flow("a", "interactive"))
    for number in range(3):
        queue.push(("d", number), Flow("d", "batch"))
    for _ in range(10):
        queue.pop()
    newcomer = Newcomer(queue.lane, None, CLASS_INDEX["batch"], "b", 1.0, 1)
    predicted = work_ahead(queue.scheduler, newcomer).items
    queue.push(("b", 0), Flow("b", "batch"))
    order = [queue.pop() for _ in range(len(queue))]
    assert order.index(("b", 0)) > 5
    assert predicted == pytest.approx(order.index(("b", 0)), abs=1)


def test_prediction_for_a_class_that_did_not_wait_begins_at_the_virtual_time() -> None:
    order = FairOrder()
    order.time, order.classes[0].tag = 100, 90
    budgets = Budgets(TokenBucket(1, 1))
    ahead = with_other_classes(order, budgets, 1, NO_WORK, [(1000, 0), (0, 0), (0, 0)])
    assert ahead.items == 160


def test_prediction_for_a_deep_flow_among_many() -> None:
    """Even if deep flows are rare among the flows that a prediction looks at."""
    queue = filled([*((Flow(number), 1) for number in range(1000)), (A, 500), (B, 1000)])
    assert queue.work_ahead(A).items == pytest.approx(1000 + 500 + 500, rel=0.05)


def test_prediction_uses_the_items_that_are_next_in_turn() -> None:
    """A flow that was served a large item is far behind, so the next items are small."""
    queue = filled([])
    for number in range(200):
        size = 100 if number < 100 else 1
        for item in range(3):
            queue.push(("large" if number < 100 else "small", item), Flow(number), size)
    served(queue, 200)
    predicted, actual = queue.work_ahead(Flow(150)).cost, 0
    queue.push(("mine", 0), Flow(150))
    while (name := queue.pop()[0]) != "mine":
        actual += 100 if name == "large" else 1
    assert predicted == pytest.approx(actual, rel=0.3)


def test_idle_flows_are_forgotten_while_virtual_time_stands_still() -> None:
    """While new flows keep coming, the virtual time may never advance."""
    queue = filled([(Flow("first"), 1)])
    for number in range(5000):
        queue.push(("next", number), Flow(number))
        queue.pop()
    assert len(queue.lane.flows) <= 1010
    assert len(queue.scheduler.shares[CLASS_INDEX["default"]]) <= 1010


@given(st.lists(st.tuples(st.sampled_from("abc"), costs), min_size=1, max_size=80), st.data())
def test_service_of_waiting_flows_differs_by_at_most_one_item_each(
    items: Sequence[tuple[str, int]], data: st.DataObject
) -> None:
    """Goyal's fairness theorem: backlogged flows' service differs by at most their largest,
    each divided by its weight."""
    weight = {flow: data.draw(st.sampled_from([0.5, 1, 3]), label=flow) for flow in "abc"}
    queue: FairQueue[Item] = FairQueue()
    cost_of: dict[Item, int] = {}
    for number, (flow, cost) in enumerate(items):
        queue.push((flow, number), Flow(flow, weight=weight[flow]), cost)
        cost_of[flow, number] = cost
    order = [queue.pop() for _ in items]
    largest = {f: max(c for (g, _), c in cost_of.items() if g == f) / weight[f] for f, _ in items}
    begin = data.draw(st.integers(0, len(order)))
    for end in range(begin, len(order)):
        backlogged = {flow for flow, _ in order[end:]}
        got = {
            flow: sum(cost_of[i] for i in order[begin:end] if i[0] == flow) / weight[flow]
            for flow in backlogged
        }
        for one in backlogged:
            for other in backlogged:
                assert got[one] - got[other] <= largest[one] + largest[other] + 0.01


FLOWS = [A, B, Flow("a", "batch"), Flow("c", "interactive", 2)]


class Machine(RuleBasedStateMachine):
    """Compared with a model: no item is lost or added, and each flow is FIFO."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Item] = FairQueue()
        self.model: dict[Flow, list[Item]] = {flow: [] for flow in FLOWS}
        self.number = 0
        self.popped: tuple[Item, Flow, int] | None = None
        self.pushed: dict[Item, tuple[Flow, int]] = {}

    @rule(flow=st.sampled_from(FLOWS), cost=costs)
    def push(self, flow: Flow, cost: int) -> None:
        item = (str(flow.client), self.number)
        self.number += 1
        self.pushed[item] = (flow, cost)
        self.queue.push(item, flow, cost)
        self.model[flow].append(item)

    @precondition(lambda self: len(self.queue) > 0)
    @rule()
    def pop(self) -> None:
        item = self.queue.pop()
        flow, cost = self.pushed[item]
        assert self.model[flow].pop(0) == item
        self.popped = (item, flow, cost)

    @precondition(lambda self: self.popped is not None)
    @rule(refunded=st.booleans())
    def put_back(self, refunded: bool) -> None:
        assert self.popped is not None
        item, flow, cost = self.popped
        if refunded:
            self.queue.refund(flow, cost)
        self.queue.push(item, flow, cost, rank=item[1])
        self.model[flow].insert(0, item)
        self.popped = None

    @rule(flow=st.sampled_from(FLOWS), index=st.integers(0, 5))
    def leave(self, flow: Flow, index: int) -> None:
        waiting = self.model[flow]
        if index < len(waiting):
            assert self.queue.remove(waiting.pop(index), flow)
        else:
            assert not self.queue.remove(("absent", -1), flow)

    @invariant()
    def length_matches_the_model(self) -> None:
        assert len(self.queue) == sum(map(len, self.model.values()))

    @invariant()
    def prediction_is_between_own_and_total_cost(self) -> None:
        total = sum(self.pushed[item][1] for items in self.model.values() for item in items)
        for flow, items in self.model.items():
            own = sum(self.pushed[item][1] for item in items)
            assert own <= self.queue.work_ahead(flow).cost <= total + 1e-6


TestMachine = Machine.TestCase


# The tags.


@pytest.mark.parametrize("index", CLASSES)
@pytest.mark.parametrize("weight", [1, 3])
def test_refund_undoes_a_charge(index: int, weight: float) -> None:
    order, place = FairOrder(), Place()
    order.enter_class(index)
    order.enter(index, place)
    order.charge(index, place, weight, 96)
    assert (order.classes[index].tag, place.tag) == (96 / WEIGHTS[index], 96 / weight)
    order.charge(index, place, weight, 48)
    order.refund(index, place, weight, 48)
    assert (order.classes[index].tag, place.tag) == (96 / WEIGHTS[index], 96 / weight)
    assert place.turn < 0, "it comes before those with equal tags"
    assert order.classes[index].turn < 0


def test_turn_given_by_another_order_moves_the_virtual_times_up_to_the_first_tags() -> None:
    """They never fall, so those that come later get no credit."""
    order = FairOrder()
    for first in (20.0, 50.0, 30.0):
        order.charge_ahead(1, Place(), 1, 10, time=first / 2, first=first)
    newcomer = Place()
    order.enter(1, newcomer)
    order.enter_class(2)
    assert (newcomer.tag, order.classes[2].tag) == (50, 25)
