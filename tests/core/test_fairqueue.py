"""The fair queue's laws. A FIFO queue in its place must fail them."""

from collections import deque
from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rustygate.core.fairqueue import FairQueue

Item = tuple[str, int]
costs = st.integers(1, 20)


class Fifo:
    """What the gate must not be: first come, first served over all flows."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()

    def push(self, item: Item, flow_key: Hashable, cost: int = 1) -> None:
        self._items.append(item)

    def pop(self) -> Item:
        return self._items.popleft()


def served(queue: "FairQueue[Item] | Fifo", turns: int) -> list[str]:
    return [queue.pop()[0] for _ in range(turns)]


def shares_of_two_backlogged_flows(queue: "FairQueue[Item] | Fifo", depth: int) -> list[int]:
    """Serve half of what a flood and a later equal flow have queued; how much each got."""
    for flow in ("flood", "late"):
        for number in range(depth):
            queue.push((flow, number), flow)
    turns = served(queue, depth)
    return [turns.count("flood"), turns.count("late")]


def test_backlogged_flows_get_equal_turns() -> None:
    assert shares_of_two_backlogged_flows(FairQueue(), 100) == [50, 50]


def test_a_queue_without_restraint_fails_that() -> None:
    assert shares_of_two_backlogged_flows(Fifo(), 100) == [100, 0]


def test_with_equal_costs_it_is_round_robin() -> None:
    queue: FairQueue[Item] = FairQueue()
    for flow, depth in (("a", 3), ("b", 2), ("c", 1)):
        for number in range(depth):
            queue.push((flow, number), flow)
    assert "".join(served(queue, 6)) == "abcaba"


def test_light_flow_behind_a_flood_waits_one_turn() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(1000):
        queue.push(("flood", number), "flood")
    served(queue, 10)
    queue.push(("light", 0), "light")
    assert queue.ahead("other") == 2
    assert "light" in served(queue, 2)


def test_idle_flow_earns_no_credit() -> None:
    queue: FairQueue[Item] = FairQueue()
    queue.push(("idle", 0), "idle")
    for number in range(100):
        queue.push(("busy", number), "busy")
    served(queue, 50)
    for number in range(10):
        queue.push(("idle", number + 1), "idle")
    turns = served(queue, 20)
    assert abs(turns.count("idle") - turns.count("busy")) <= 1


def test_share_is_by_cost_and_not_by_count() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(200):
        queue.push(("big", number), "big", cost=9)
        queue.push(("small", number), "small", cost=1)
    turns = served(queue, 100)
    assert turns.count("big") == pytest.approx(10, abs=1)


def test_item_put_back_in_front_keeps_its_place() -> None:
    queue: FairQueue[Item] = FairQueue()
    for item in (("a", 0), ("b", 0), ("a", 1), ("b", 1)):
        queue.push(item, item[0])
    first = queue.pop()
    queue.push_front(first, first[0])
    assert [queue.pop() for _ in range(4)] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_turn_that_was_not_used_is_refunded() -> None:
    queue: FairQueue[Item] = FairQueue()
    for item in (("a", 0), ("b", 0), ("a", 1), ("b", 1)):
        queue.push(item, item[0])
    queue.pop()
    queue.refund("a")
    assert [queue.pop() for _ in range(3)] == [("a", 1), ("b", 0), ("b", 1)]


def test_pop_of_an_empty_queue_raises() -> None:
    queue: FairQueue[Item] = FairQueue()
    with pytest.raises(IndexError):
        queue.pop()


def test_repr_shows_the_live_state() -> None:
    queue: FairQueue[Item] = FairQueue()
    queue.push(("a", 0), "a")
    queue.push(("a", 1), "a")
    queue.pop()
    assert repr(queue) == "<FairQueue 1 items, virtual time 0, flows {'a': 1}>"


def test_comers_and_goers_leave_nothing_behind() -> None:
    """Flows that come and go while others wait must not pile up in the heap."""
    queue: FairQueue[Item] = FairQueue()
    queue.push(("waits", 0), "waits")
    for number in range(1000):
        queue.push(("goes", number), "goes")
        assert queue.remove(("goes", number), "goes")
    assert len(queue._heap) <= 2


@given(st.lists(st.tuples(st.sampled_from("abc"), costs), min_size=1, max_size=80), st.data())
def test_between_any_two_turns_waiting_flows_differ_by_one_item_each(
    items: Sequence[tuple[str, int]], data: st.DataObject
) -> None:
    """Goyal's fairness theorem: backlogged flows' service differs by at most their largest."""
    queue: FairQueue[Item] = FairQueue()
    cost_of: dict[Item, int] = {}
    for number, (flow, cost) in enumerate(items):
        queue.push((flow, number), flow, cost)
        cost_of[flow, number] = cost
    order = [queue.pop() for _ in items]
    largest = {flow: max(c for (f, _), c in cost_of.items() if f == flow) for flow, _ in items}
    begin = data.draw(st.integers(0, len(order)))
    for end in range(begin, len(order)):
        backlogged = {flow for flow, _ in order[end:]}
        got = {
            flow: sum(cost_of[item] for item in order[begin:end] if item[0] == flow)
            for flow in backlogged
        }
        for one in backlogged:
            for other in backlogged:
                assert got[one] - got[other] <= largest[one] + largest[other]


class Machine(RuleBasedStateMachine):
    """Against a model: nothing is lost or made, and each flow is first in, first out."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Item] = FairQueue()
        self.model: dict[str, list[Item]] = {flow: [] for flow in "abc"}
        self.number = 0
        self.popped: tuple[Item, int] | None = None
        self.cost_of: dict[Item, int] = {}

    @rule(flow=st.sampled_from("abc"), cost=costs)
    def push(self, flow: str, cost: int) -> None:
        item = (flow, self.number)
        self.number += 1
        self.cost_of[item] = cost
        self.queue.push(item, flow, cost)
        self.model[flow].append(item)

    @precondition(lambda self: len(self.queue) > 0)
    @rule()
    def pop(self) -> None:
        item = self.queue.pop()
        assert self.model[item[0]].pop(0) == item
        self.popped = (item, self.cost_of[item])

    @precondition(lambda self: self.popped is not None)
    @rule()
    def put_back(self) -> None:
        assert self.popped is not None
        item, cost = self.popped
        self.queue.push_front(item, item[0], cost)
        self.model[item[0]].insert(0, item)
        self.popped = None

    @rule(flow=st.sampled_from("abc"), place=st.integers(0, 5))
    def leave(self, flow: str, place: int) -> None:
        waiting = self.model[flow]
        if place < len(waiting):
            assert self.queue.remove(waiting.pop(place), flow)
        else:
            assert not self.queue.remove((flow, -1), flow)

    @invariant()
    def size_is_right(self) -> None:
        assert len(self.queue) == sum(map(len, self.model.values()))

    @invariant()
    def prediction_is_in_bounds(self) -> None:
        for flow in "abc":
            assert len(self.model[flow]) <= self.queue.ahead(flow) <= len(self.queue)


TestMachine = Machine.TestCase
