"""The next admissions are those that the scheduler then makes, and looking changes nothing."""

from collections.abc import Iterator
from itertools import pairwise
from math import inf
from random import Random
from typing import Any

import pytest

from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.excerpt import Excerpt
from rustygate.core.lane import Lane, Throttle
from rustygate.core.pace import Pace
from rustygate.core.upcoming import Upcoming, upcoming
from tests.support.scheduled import Demand, Item, Run, limits

LIMIT = 20
CLASSES = ("interactive", "default", "batch")


def random_budgets(random: Random, *, slots: bool = False) -> Budgets:
    return limits(
        random.choice([None, 0.5, 2, 20]),
        random.choice([1, 3]),
        random.choice([None, None, 600, 6000]),
        random.choice([None, None, 1, 2]) if slots else None,
    )


def random_lane(random: Random) -> Lane:
    own = random_budgets(random)
    return Lane(own.requests, own.tokens)


def random_run(random: Random) -> Run:
    """A scheduler after random events."""
    run = Run(
        random_budgets(random),
        {name: random_lane(random) for name in "xyz"[: random.randint(1, 3)]},
        {name: random_budgets(random) for name in "abcdef" if random.random() < 0.4},
    )
    clients = "abcdefghijklmnopqrstuvwxyz"[: random.choice([2, 6, 26])]
    for _ in range(random.randint(3, 60)):
        random_event(random, run, clients)
    return run


def random_event(random: Random, run: Run, clients: str) -> None:
    event = random.random()
    lane = run.lanes[random.choice(list(run.lanes))]
    if event < 0.7:
        demand = Demand(
            random.choice(clients),
            random.choice(list(run.lanes)),
            random.choice(CLASSES),
            random.choice([1, 5, 50, 300]),
            weight=random.choice([1, 1, 1, 2.5, 10]),
        )
        for _ in range(random.randint(1, 4)):
            run.push(demand)
    elif event < 0.8:
        run.now += round(random.choice([0.001, 0.3, 2]) * SECOND)
    elif event < 0.9:
        assert isinstance(lane.budgets, Lane)
        lane.budgets.pause(run.now, random.randint(0, 5 * SECOND))
        run.scheduler.touch(lane)
    elif event < 0.95:
        assert isinstance(lane.budgets, Lane)
        lane.budgets.slow_down(run.now, lane.budgets.totals)
        run.scheduler.touch(lane)
    else:
        assert isinstance(lane.budgets, Lane)
        lane.budgets.refuse(run.now, SECOND // 4, lane.budgets.totals)
        run.scheduler.touch(lane)
    if random.random() < 0.8:
        run.dispatch()


def look(run: Run, limit: int = LIMIT) -> list[Upcoming[Item]]:
    return upcoming(run.scheduler, run.lanes.values(), run.clients.values(), run.now, limit)


def admissions(run: Run) -> Iterator[tuple[Item, int]]:
    """What the scheduler grants from now on, and when."""
    while run.scheduler.waiting:
        for grant in run.dispatch():
            yield grant.item, run.now
        assert run.scheduler.next_at < inf or not run.scheduler.waiting
        if run.scheduler.waiting:
            run.now = max(run.now, int(run.scheduler.next_at))


@pytest.mark.parametrize("seed", range(60))
def test_order_and_instants_are_those_of_the_admissions(seed: int) -> None:
    run = random_run(Random(seed))
    expected = look(run)
    assert len(expected) == min(LIMIT, run.scheduler.waiting)
    came = [one for one, _ in zip(admissions(run), range(LIMIT), strict=False)]
    assert [(each.item, each.at) for each in expected] == came


@pytest.mark.parametrize("seed", range(20))
def test_looking_changes_nothing(seed: int) -> None:
    undisturbed, watched = random_run(Random(seed)), random_run(Random(seed))
    came = []
    for one in admissions(watched):
        look(watched, 3)
        came.append(one)
    assert came == list(admissions(undisturbed))


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_there_are_no_more_than_asked_for(limit: int) -> None:
    run = Run(limits(1))
    for _ in range(10):
        run.push(Demand("a"))
    assert len(look(run, limit)) == min(limit, 10)


def test_many_flows_are_not_all_looked_at() -> None:
    run = Run(limits(1), {"m": limits(1000)})
    for number in range(5000):
        run.push(Demand(f"c{number}"))
    run.dispatch()
    copied = Excerpt(run.scheduler, run.lanes.values(), run.clients.values(), LIMIT)
    assert LIMIT <= copied.waiting <= 2 * LIMIT
    assert [each.item for each in look(run)] == [(f"c{n}", n + 1) for n in range(1, LIMIT + 1)]


# What depends on a slot.


def test_order_is_known_but_not_the_instant_while_no_slot_is_free() -> None:
    run = Run(limits(slots=1))
    for client in "aab":
        run.push(Demand(client))
    [running] = run.dispatch()
    upcoming = look(run)
    assert [each.at for each in upcoming] == [None, None]
    assert {each.blocked_by for each in upcoming} == {"slots"}
    run.release(running)
    assert [each.item for each in upcoming] == [item for item, _ in served(run)]


def served(run: Run) -> Iterator[tuple[Item, int]]:
    """What is granted if each grant frees its slot at once."""
    while run.scheduler.waiting:
        for grant in run.dispatch():
            run.release(grant)
            yield grant.item, run.now


@pytest.mark.parametrize("seed", range(20))
def test_with_slots_the_first_instants_are_right(seed: int) -> None:
    random = Random(seed)
    run = random_run(random)
    run.scheduler.budgets.slots = run.scheduler.budgets.in_flight + random.randint(0, 5)
    run.scheduler.touch(*run.lanes.values())
    run.dispatch()
    expected = [(each.item, each.at) for each in look(run) if each.at is not None]
    came: list[tuple[Item, int]] = []
    while len(came) < len(expected):
        came += [(grant.item, run.now) for grant in run.dispatch()]
        run.now = max(run.now, int(min(run.scheduler.next_at, 10**18)))
    assert came == expected


# What each one waits for.


def lane_with(**fields: Any) -> Lane:
    lane = Lane(slots=fields.pop("slots", None))
    for budget in ("requests", "tokens"):
        if budget in fields:
            setattr(lane, budget, TokenBucket.per_minute(fields[budget]))
    return lane


def spend(run: Run, tokens: int = 1) -> None:
    """One item is admitted, so that the budgets are short for the next ones."""
    run.push(Demand("c", tokens=tokens))
    assert len(run.dispatch()) == 1


@pytest.mark.parametrize(
    ("own", "lane", "client", "reason"),
    [
        (limits(1), Lane(), None, "requests"),
        (limits(tokens=60), Lane(), None, "tokens"),
        (limits(slots=1), Lane(), None, "slots"),
        (limits(), lane_with(requests=1), None, "lane requests"),
        (limits(), lane_with(tokens=60), None, "lane tokens"),
        (limits(), lane_with(slots=1), None, "lane slots"),
        (limits(), Lane(), limits(1), "client requests"),
        (limits(), Lane(), limits(tokens=60), "client tokens"),
        (limits(), Lane(), limits(slots=1), "client slots"),
        (limits(1), lane_with(requests=1), limits(2), "lane requests"),
        (limits(1), lane_with(requests=1), limits(0.001), "client requests"),
        (limits(0.001), lane_with(requests=1), limits(1), "requests"),
    ],
)
def test_waiter_is_blocked_by_the_scarcest_budget(
    own: Budgets, lane: Lane, client: Budgets | None, reason: str
) -> None:
    run = Run(own, {"m": lane}, {} if client is None else {"c": client})
    spend(run, tokens=60)
    run.push(Demand("c", tokens=60))
    run.dispatch()
    [waiter] = look(run)
    assert waiter.blocked_by == reason


def test_waiter_is_blocked_by_a_pause_or_a_pace() -> None:
    lane = Lane()
    run = Run(limits(1), {"m": lane})
    spend(run)
    lane.pause(run.now, 5 * SECOND)
    run.push(Demand("c"))
    run.dispatch()
    assert [each.blocked_by for each in look(run)] == ["paused"]
    lane.paused_until = 0
    lane.throttle = Throttle(10 * SECOND, run.now)
    assert [each.blocked_by for each in look(run)] == ["pace"]


def test_waiter_that_budgets_do_not_block_waits_for_its_turn() -> None:
    run = Run(limits(tokens=60))
    spend(run, tokens=50)
    for tokens in (40, 1):
        run.push(Demand("c", tokens=tokens))
    run.dispatch()
    assert [each.blocked_by for each in look(run)] == ["tokens", "turn"]


def test_looking_leaves_paces_and_throttles_as_they_are() -> None:
    lane = Lane()
    lane.pace, lane.throttle = Pace(0, 2 * SECOND, 1), Throttle(SECOND, 0)
    run = Run(limits(), {"x": lane})
    for _ in range(4):
        run.push(Demand("c", "x"))
    run.dispatch()
    assert len(run.dispatch(3)) == 1

    def waits() -> tuple[int, int]:
        assert lane.pace is not None
        assert lane.throttle is not None
        return lane.pace.bucket.wait(run.now), lane.throttle.wait(run.now)

    before = waits()
    assert all(before)
    ats = [each.at for each in look(run) if each.at is not None]
    assert waits() == before
    assert len(ats) == 3
    assert {later - earlier for earlier, later in pairwise(ats)} == {lane.pace.bucket.period}


def test_waiter_that_is_due_was_blocked_by_a_budget() -> None:
    run = Run(limits(1))
    spend(run)
    for _ in range(2):
        run.push(Demand("c"))
    run.dispatch()
    for late in (0, 1, SECOND // 2):
        run.now = SECOND + late
        assert [each.blocked_by for each in look(run)] == ["requests"] * 2
