"""The laws of the scheduler, with passed-in time: lanes nominate, the gate elects.

The order of equal flows in one lane is tested in `test_fair_order`.
"""

import gc
from collections import Counter
from itertools import pairwise
from math import inf
from sys import getrefcount

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.scheduler import Scheduler
from rustygate.core.scopes import LaneScope
from tests.support.scheduled import Demand, Item, Run, check_empty, emptied, limits

# Who gets how much.


@pytest.mark.parametrize("where", ["gate", "lane"])
def test_clients_share_by_weight(where: str) -> None:
    run = Run(limits(10)) if where == "gate" else Run(lanes={"m": limits(10)})
    got = run.serve([Demand("a"), Demand("b", depth=50), Demand("c", weight=2)], 100)
    assert got["a"] == pytest.approx(250, abs=3)
    assert got["b"] == pytest.approx(250, abs=3)
    assert got["c"] == pytest.approx(500, abs=3)


@pytest.mark.parametrize("where", ["gate", "lane", "client"])
def test_classes_share_16_4_1(where: str) -> None:
    run = {
        "gate": lambda: Run(limits(21)),
        "lane": lambda: Run(lanes={"m": limits(21)}),
        "client": lambda: Run(clients={"a": limits(21)}),
    }[where]()
    classes = ("interactive", "default", "batch")
    demands = [Demand("a", priority=priority) for priority in classes]
    seen: Counter[str] = Counter()
    for demand in demands:
        for _ in range(2000):
            run.push(demand)
    for grants in run.events(100):
        seen.update(classes[grant.flow.share.index] for grant in grants)
    assert seen["interactive"] == pytest.approx(1600, abs=5)
    assert seen["default"] == pytest.approx(400, abs=5)
    assert seen["batch"] == pytest.approx(100, abs=5)


@pytest.mark.parametrize("where", ["gate", "lane", "client"])
def test_small_items_do_not_starve_large_ones(where: str) -> None:
    """Equal flows get equal tokens; at a client, its classes do by 16:1."""
    limit = emptied(limits(tokens=6000))
    run = {
        "gate": lambda: Run(limit),
        "lane": lambda: Run(lanes={"m": limit}),
        "client": lambda: Run(clients={"a": limit}),
    }[where]()
    large, small = ("a", "b") if where != "client" else ("a", "a")
    priority = "batch" if where == "client" else "default"
    first = "interactive" if where == "client" else "default"
    tokens = Counter[int]()
    demands = [Demand(large, priority=priority, tokens=1000), Demand(small, "m", first, 10)]
    for demand in demands:
        for _ in range(3 if demand.tokens == 1000 else 5):
            run.push(demand)
    for grants in run.events(1200):
        for grant in grants:
            tokens[grant.tokens] += grant.tokens
            run.push(demands[grant.tokens == 10])
    expected = 1 / 17 if where == "client" else 1 / 2
    share = tokens[1000] / (tokens[10] + tokens[1000])
    assert share == pytest.approx(expected, abs=0.03)


def test_clients_share_the_gate_over_all_lanes() -> None:
    """A client with demand in two lanes gets no more than another; a lane with a limit of its own
    gets that, and the rest goes to the other."""
    run = Run(limits(20), {"x": limits(1)})
    demands = [Demand(client, lane) for client, lane in ("ax", "ay", "bx", "by", "cy")]
    got = run.serve(demands, 60)
    clients = Counter({name: got[f"{name}x"] + got[f"{name}y"] for name in "abc"})
    assert sum(clients.values()) == pytest.approx(1200, abs=2)
    assert got["ax"] + got["bx"] == pytest.approx(60, abs=2)
    assert got["ax"] == pytest.approx(30, abs=2)
    for name in "abc":
        assert clients[name] == pytest.approx(400, abs=25)


def test_flows_of_a_client_in_two_lanes_take_turns() -> None:
    got = Run(limits(10)).serve([Demand("a", "x"), Demand("a", "y"), Demand("b", "y")], 60)
    assert got["ax"] == pytest.approx(150, abs=2)
    assert got["ay"] == pytest.approx(150, abs=2)
    assert got["by"] == pytest.approx(300, abs=2)


def test_lane_that_is_short_for_a_moment_does_not_decide_the_shares() -> None:
    """The gate's tokens are the bottleneck, of which large items need more. The lane counts
    requests, and is short now and then."""
    run = Run(emptied(limits(tokens=60_000)), {"m": limits(20, burst=3)})
    got = run.serve([Demand("a", tokens=1000), Demand("b", tokens=50, depth=50)], 60)
    tokens = {"a": got["a"] * 1000, "b": got["b"] * 50}
    assert tokens["a"] == pytest.approx(30_000, rel=0.05)
    assert tokens["b"] == pytest.approx(30_000, rel=0.05)


# Blocked items hold up nobody else.


@pytest.mark.parametrize("blocked", ["lane", "client"])
def test_blocked_lane_or_client_holds_up_nobody(blocked: str) -> None:
    short = limits(0.1)
    run = Run(
        limits(10),
        {"x": short} if blocked == "lane" else {},
        {"a": short} if blocked == "client" else {},
    )
    for _ in range(5):
        run.push(Demand("a", "x"))
        run.push(Demand("b", "y"))
    while run.now < 3 * SECOND:
        run.dispatch()
        run.now = int(run.scheduler.next_at)
    assert run.granted == [
        (("a", 1), 0), (("b", 2), 0.1), (("b", 4), 0.2), (("b", 6), 0.3), (("b", 8), 0.4),
        (("b", 10), 0.5),
    ]  # fmt: skip
    assert run.now == 10 * SECOND
    assert [grant.item for grant in run.dispatch()] == [("a", 3)]


def test_client_without_a_slot_does_not_block_its_lane() -> None:
    run = Run(lanes={"m": limits(1)}, clients={"a": limits(slots=1)})
    for client in "aaabb":
        run.push(Demand(client))
    assert [grant.item for grant in run.dispatch(0)] == [("a", 1)]
    assert run.scheduler.next_at == SECOND
    run.dispatch(1)
    run.dispatch(2)
    assert [item for item, _ in run.granted] == [("a", 1), ("b", 4), ("b", 5)]
    assert run.scheduler.next_at == inf


def test_released_slot_is_granted_at_once() -> None:
    run = Run(lanes={"m": limits(slots=1)})
    for client in "ab":
        run.push(Demand(client))
    first = run.dispatch(0)
    assert run.scheduler.next_at == inf
    assert run.dispatch(5) == []
    lane = first[0].flow.lane
    lane.budgets.release()
    assert lane.short
    run.scheduler.touch(lane)
    assert [grant.item for grant in run.dispatch(5)] == [("b", 2)]


def test_charge_without_admission_delays_the_elected_flow() -> None:
    own = limits(1)
    run = Run(own)
    for client in "ab":
        run.push(Demand(client))
    run.dispatch(0)
    assert run.scheduler.next_at == SECOND
    own.take(0)
    run.scheduler.touch()
    assert run.dispatch(1) == []
    assert run.scheduler.next_at == 2 * SECOND
    assert len(run.dispatch(2)) == 1


def test_elected_flow_waits_for_a_slot_after_a_grant() -> None:
    own = limits(1, burst=1)
    own.slots = 1
    run = Run(own)
    for client in "abc":
        run.push(Demand(client))
    assert len(run.dispatch(0)) == 1
    run.push(Demand("d", priority="batch"))
    assert run.dispatch(5) == []
    own.release()
    run.scheduler.touch()
    assert len(run.dispatch(5)) == 1


def test_budgets_are_taken_together_or_not_at_all() -> None:
    """While the client has no slot, its waiter takes nothing from the gate or the lane."""
    own, lane, client = limits(10, burst=2), limits(10, burst=2), limits(slots=1)
    run = Run(own, {"m": lane}, {"a": client})
    run.push(Demand("a"))
    run.push(Demand("a"))
    (first,) = run.dispatch(0)
    for _ in range(5):
        assert run.dispatch(1) == []
    assert [each.in_flight for each in (own, lane, client)] == [1, 1, 1]
    assert own.requests is not None
    assert lane.requests is not None
    assert own.requests.level(run.now) == lane.requests.level(run.now) == 2
    run.release(first)
    assert len(run.dispatch(1)) == 1
    assert [each.in_flight for each in (own, lane, client)] == [1, 1, 1]
    assert own.requests.level(run.now) == lane.requests.level(run.now) == 1


def test_large_item_that_needs_a_lane_and_a_client_is_not_overtaken_forever() -> None:
    """The lane's tokens go to others while it waits for its client's, and the other way round:
    once it has waited for both, neither lets others overtake it."""
    run = Run(lanes={"x": limits(tokens=6000)}, clients={"a": limits(tokens=6000)})
    large = Demand("a", "x", tokens=3000, depth=2)
    demands = [large, Demand("a", "y", tokens=100), Demand("b", "x", tokens=100)]
    got = run.serve(demands, 600)
    # Both give half of 66,000 tokens to the large ones.
    assert got["ax"] == pytest.approx(11, abs=2)
    assert got["ay"] == pytest.approx(330, rel=0.2)
    assert got["bx"] == pytest.approx(330, rel=0.2)
    times = [at for (client, _), at in run.granted if client == "a"]
    assert max(later - one for one, later in pairwise(times)) <= 61


def test_client_that_waits_exactly_as_long_as_the_gate_is_not_short() -> None:
    own, limit = limits(1), limits(1)
    run = Run(own, clients={"a": limit})
    client, flow = run.clients["a"], run.flow(Demand("a"))
    assert limit.requests is not None
    limit.requests.fill_to(0, 0)
    run.push(Demand("a"))
    assert not run.dispatch(0)
    assert (client.short, flow.withheld) == (True, True)
    assert own.requests is not None
    own.requests.fill_to(0, 0)
    run.scheduler.touch(client)
    assert not run.dispatch(0)
    assert (client.short, flow.withheld) == (False, False)
    assert run.scheduler.next_at == SECOND
    assert len(run.dispatch(1)) == 1


# Time.


@given(
    rate=st.sampled_from([1, 3, 7.5, 100]),
    burst=st.integers(1, 5),
    horizon_ms=st.sampled_from([0, 25]),
    steps=st.lists(st.integers(0, 400), min_size=1, max_size=60),
    where=st.sampled_from(["own", "lane", "client"]),
)
def test_any_window_holds_at_most_burst_and_rate_times_its_length(
    rate: float, burst: int, horizon_ms: int, steps: list[int], where: str
) -> None:
    """By the instants of the grants, which reach no further ahead than the horizon."""
    budgets = limits(rate, burst)
    run = Run(
        budgets if where == "own" else None,
        {"m": budgets} if where == "lane" else {},
        {"a": budgets} if where == "client" else {},
    )
    for _ in range(200):
        run.push(Demand("a"))
    horizon = horizon_ms * SECOND // 1000
    times: list[int] = []
    for step in steps:
        run.now += step * SECOND // 1000
        for grant in run.dispatch(horizon=horizon):
            assert run.now <= grant.at <= run.now + horizon
            times.append(grant.at)
    assert times == sorted(times)
    period = TokenBucket.from_rate(rate, burst).period
    for index in range(len(times) - burst):
        assert times[index + burst] - times[index] >= period


@pytest.mark.parametrize("where", ["own", "lane"])
def test_look_ahead_grants_the_same_at_the_same_instants(where: str) -> None:
    def times(horizon: int) -> list[tuple[Item, float]]:
        budgets = limits(100, burst=2)
        run = Run(budgets) if where == "own" else Run(lanes={"m": budgets})
        for number in range(60):
            run.push(Demand("abc"[number % 3]))
        while run.scheduler.waiting:
            run.dispatch(horizon=horizon)
            if run.scheduler.next_at < inf:
                run.now = int(run.scheduler.next_at) - horizon // 2
        return run.granted

    assert times(25 * SECOND // 1000) == times(0)


def test_late_dispatch_within_the_slack_is_charged_to_the_instant_it_was_due() -> None:
    def second_at(slack: int, late: int) -> float:
        scheduler: Scheduler[Item] = Scheduler(limits(1), slack=slack)
        lane: LaneScope[Item] = LaneScope(Budgets())
        for number in range(3):
            scheduler.push(scheduler.flow(lane, "default", "a"), ("a", number), 0)
        scheduler.dispatch(0)
        (grant,) = scheduler.dispatch(SECOND + late)
        return grant.at

    assert second_at(0, 5) == SECOND + 5
    assert second_at(5, 5) == SECOND
    assert second_at(5, 7) == SECOND + 2


@pytest.mark.parametrize("where", ["own", "lane", "client"])
def test_quota_is_used_fully_while_there_is_demand(where: str) -> None:
    budgets = limits(7, burst=3)
    run = Run(
        budgets if where == "own" else None,
        {"m": budgets} if where == "lane" else {},
        {"a": budgets} if where == "client" else {},
    )
    assert sum(run.serve([Demand("a")], 100).values()) == pytest.approx(703, abs=1)


# Newcomers, refunds and removal.


def test_newcomer_is_admitted_at_once_only_if_nobody_waits_for_what_it_needs() -> None:
    run = Run(limits(10, burst=5), {"x": limits(1)}, {"c": limits(1)})
    scheduler = run.scheduler
    x, y, c = run.lane("x"), run.lane("y"), run.clients["c"]
    assert scheduler.admit(("a", 0), x, None, 0, 1)
    assert not scheduler.admit(("a", 0), x, None, 0, 1)
    run.push(Demand("a", "x"))
    assert run.dispatch(0) == []
    assert not scheduler.admit(("b", 0), x, None, 0, 1)
    assert scheduler.admit(("b", 0), y, None, 0, 1)
    assert scheduler.admit(("c", 0), y, c, 0, 1)
    assert not scheduler.admit(("c", 0), y, c, 0, 1)
    run.push(Demand("c", "y"))
    assert run.dispatch(0) == []
    assert not scheduler.admit(("b", 0), y, None, 0, 1), "another waits in the lane"


def test_small_newcomer_overtakes_nothing_but_is_elected_before_its_turn_is_over() -> None:
    """A flow that comes in front of the elected one is looked at at once."""
    run = Run(limits(tokens=60), {})
    run.push(Demand("a", tokens=60))
    run.push(Demand("a", tokens=60))
    run.dispatch(0)
    assert run.scheduler.next_at == 60 * SECOND
    run.push(Demand("b", priority="interactive", tokens=2))
    run.dispatch(1)
    assert run.scheduler.next_at == 2 * SECOND
    run.push(Demand("c", tokens=1))
    run.dispatch(1)
    assert run.scheduler.next_at == 2 * SECOND


def test_newcomer_in_a_short_lane_is_looked_at_at_once() -> None:
    """When it comes, the lane waits for its budgets no longer than the gate. So the lane is not
    short any more, and the gate's order decides in it: the better class is first."""
    run = Run(limits(1), {"x": limits(0.5)})
    run.push(Demand("c", "x", "interactive"))
    assert len(run.dispatch(0)) == 1
    for lane in "xy":
        run.push(Demand("b", lane, "interactive" if lane == "x" else "default"))
    assert len(run.dispatch(1)) == 1
    for lane in "xy":
        run.push(Demand("b", lane, "interactive"))
    assert run.dispatch(1) == []
    run.push(Demand("a", "x"))
    assert run.drain() == "bbba"


def test_refund_gives_the_turn_back() -> None:
    run = Run(limits(1))
    for client in "aabb":
        run.push(Demand(client))
    (grant,) = run.dispatch(0)
    run.scheduler.refund(grant.flow, grant.tokens)
    assert run.drain() == "abb"


def test_refund_looks_again_at_who_is_next() -> None:
    run = Run(limits(tokens=60))
    small = Demand("b", tokens=1)
    for demand in (small, Demand("a", tokens=60), small):
        run.push(demand)
    first, *_ = run.dispatch(0)
    assert first.item[0] == "b"
    assert run.scheduler.next_at == SECOND
    run.scheduler.refund(first.flow, first.tokens)
    run.dispatch(0)
    assert [item[0] for item, _ in run.granted] == ["b", "b"]


@pytest.mark.parametrize("where", ["own", "lane"])
def test_refund_of_a_flow_that_left_puts_it_in_front(where: str) -> None:
    run = Run(limits(1)) if where == "own" else Run(lanes={"m": limits(1)})
    run.push(Demand("a"))
    for client in "bbbcc":
        run.push(Demand(client))
    (grant,) = run.dispatch(0)
    run.dispatch(1)
    run.scheduler.refund(grant.flow, grant.tokens)
    run.push(Demand("a"))
    assert run.drain()[0] == "a"


STATES = {
    "waits for the gate": lambda: Run(limits(1)),
    "waits for its lane": lambda: Run(lanes={"m": limits(1)}),
    "waits for its client": lambda: Run(clients={"a": limits(1)}),
    "is due": lambda: Run(lanes={"m": limits(1)}, clients={"a": limits(0.7)}),
}


@pytest.mark.parametrize("left", ["first", "last", "all"])
@pytest.mark.parametrize("state", STATES)
def test_item_can_leave_in_any_state(state: str, left: str) -> None:
    run = STATES[state]()
    items = [run.push(Demand("a")) for _ in range(4)] + [run.push(Demand("b"))]
    for second in range(1 if state != "is due" else 2):
        run.dispatch(second)
    waiting = [item for item in items if item not in dict(run.granted)]
    mine = [item for item in waiting if item[0] == "a"]
    leaving = {"first": mine[:1], "last": mine[-1:], "all": mine}[left]
    flow = run.flow(Demand("a"))
    for item in leaving:
        assert run.scheduler.remove(flow, item)
        assert not run.scheduler.remove(flow, item)
    run.dispatch()
    run.drain()
    assert sorted(item for item, _ in run.granted) == sorted(set(items) - set(leaving))
    check_empty(run)


def test_clear_returns_everything_that_waits() -> None:
    run = Run(limits(1), {"x": limits(0.1)}, {"c": limits(slots=1)})
    items = [run.push(Demand(client, lane)) for client, lane in ("ax", "ax", "by", "cy", "cy")]
    run.dispatch(0)
    left = {item for item, _ in run.granted}
    assert sorted(run.scheduler.clear()) == sorted(set(items) - left)
    check_empty(run)


@pytest.mark.parametrize("end", ["drain", "clear"])
def test_nothing_is_kept_when_nothing_waits_any_more(end: str) -> None:
    run = Run(limits(2), {"x": limits(1), "y": limits(5)}, {"c": limits(0.5)})
    scopes = [run.lane(name) for name in "xyz"] + [run.clients["c"]]

    def references() -> list[int]:
        gc.collect()
        return [getrefcount(scope) for scope in scopes]

    before = references()
    for lane in "xyzxyz":
        for client in "abc":
            run.push(Demand(client, lane))
    if end == "drain":
        assert len(run.drain()) == 18
    else:
        run.dispatch()
        run.scheduler.clear()
    check_empty(run)
    assert references() == before


def test_client_has_one_share_even_if_its_lanes_remember_it_longer_than_the_gate() -> None:
    run = Run(limits(1), {"x": Budgets()})
    other = Demand("o", "x")
    for _ in range(3):
        run.push(other)
    for _ in range(6):
        run.push(Demand("b", "y"))
    run.push(Demand("a", "x"))
    while any(item[0] == "a" for item in run.flow(Demand("a", "x"))):
        run.dispatch()
        run.now = int(run.scheduler.next_at)
    for _ in range(2):
        run.dispatch()
        run.now = int(run.scheduler.next_at)
    one = run.push(Demand("a", "x"))
    assert run.scheduler.remove(run.flow(Demand("a", "x")), one)
    run.push(Demand("a", "x"))
    run.push(Demand("a", "y"))
    assert run.flow(Demand("a", "x")).share is run.flow(Demand("a", "y")).share
    assert run.drain().count("a") == 2
    check_empty(run)


def test_idle_flow_is_found_again_after_its_lanes_costs_changed() -> None:
    run = Run(lanes={"m": limits(1)})
    for client in "abbbb":
        run.push(Demand(client))
    run.dispatch(0)
    run.dispatch(1)
    lane = run.lane("m")
    lane.forget_order()
    run.scheduler.touch(lane)
    run.push(Demand("a"))
    assert run.drain()[:3].count("a") == 1


def test_defect_costs_one_item_its_turn() -> None:
    class Broken(Budgets):
        def wait(self, now: int, tokens: int = 0) -> int | None:
            raise ZeroDivisionError

    run = Run(lanes={"x": Budgets(), "y": Broken()})
    run.push(Demand("a", "x"))
    run.push(Demand("b", "y"))
    run.push(Demand("a", "x"))
    grants = run.dispatch(0)
    assert [grant.item for grant in grants] == [("a", 1), ("b", 2), ("a", 3)]
    assert [type(grant.error) for grant in grants] == [type(None), ZeroDivisionError, type(None)]
    check_empty(run)


def test_defect_in_a_nomination_loses_no_grant() -> None:
    """What was granted before it is returned, and the defect is raised by the next dispatch."""

    class Broken(Budgets):
        def wait(self, now: int, tokens: int = 0) -> int | None:
            if now == SECOND:
                raise ZeroDivisionError
            return SECOND - now

    run = Run(limits(1), {"y": Broken()})
    run.push(Demand("b", "y"))
    assert run.dispatch(0) == []
    run.push(Demand("a", "x"))
    assert [grant.item for grant in run.dispatch(0.5)] == [("a", 2)]
    with pytest.raises(ZeroDivisionError):
        run.dispatch(1)
    assert run.scheduler.remove(run.flow(Demand("b", "y")), ("b", 1))
    run.push(Demand("a", "x"))
    assert [grant.item for grant in run.dispatch(1.5)] == [("a", 3)]
