"""The scheduler against a slow one, which looks at everything each time: the same grants.

It knows the gate's order only: the gate's budgets are the bottleneck, and lanes have no limits.
"""

from dataclasses import dataclass, field
from random import Random

import pytest

from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASS_NAMES, CLASS_WEIGHTS
from rustygate.core.scheduler import Scheduler
from rustygate.core.scopes import LaneScope

MS = SECOND // 1000


@dataclass
class Line:
    """The items of a client in a lane, or nothing; `served`: when it had its last turn."""

    items: list[tuple[int, int]] = field(default_factory=list)
    served: int = 0


@dataclass
class Place:
    tag: float = 0.0
    turn: int = 0


class Reference:
    """Start-time fair queueing on two levels, by scanning."""

    def __init__(self, budgets: Budgets) -> None:
        self.budgets = budgets
        self.lines: dict[tuple[str, str, str], Line] = {}
        self.number = 0
        self.reset()

    def reset(self) -> None:
        self.time = 0.0
        self.times = dict.fromkeys(CLASS_NAMES, 0.0)
        self.classes = {name: Place() for name in CLASS_NAMES}
        self.shares: dict[tuple[str, str], Place] = {}

    def waiting(self, priority: str, client: str | None = None) -> bool:
        return any(
            line.items and key[1] == priority and client in (None, key[2])
            for key, line in self.lines.items()
        )

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def enter(self, place: Place, time: float) -> None:
        if not place.turn or place.tag < time:
            place.tag, place.turn = max(place.tag, time), self.next_number()

    def push(self, key: tuple[str, str, str], item: int, tokens: int) -> None:
        _, priority, client = key
        if not self.waiting(priority):
            self.enter(self.classes[priority], self.time)
        if not self.waiting(priority, client):
            share = self.shares.setdefault((priority, client), Place())
            self.enter(share, self.times[priority])
        line = self.lines.setdefault(key, Line())
        if not line.items:
            line.served = self.next_number()
        line.items.append((item, tokens))

    def leave(self, key: tuple[str, str, str], item: int) -> None:
        line = self.lines[key]
        line.items = [entry for entry in line.items if entry[0] != item]
        self.forget(key)

    def forget(self, key: tuple[str, str, str]) -> None:
        """A client that waits for nothing earns no credit and has no debt beyond the time. When
        nothing waits all are forgotten, unless none of them was served."""
        _, priority, client = key
        if not self.waiting(priority, client):
            share = self.shares[priority, client]
            if share.tag <= self.times[priority]:
                del self.shares[priority, client]
        if self.shares and not any(line.items for line in self.lines.values()):
            self.reset()

    def elect(self) -> tuple[str, str, str]:
        def order(key: tuple[str, str, str]) -> tuple[float, ...]:
            of_class, share = self.classes[key[1]], self.shares[key[1:]]
            served = self.lines[key].served
            return of_class.tag, of_class.turn, share.tag, share.turn, served

        return min((key for key, line in self.lines.items() if line.items), key=order)

    def dispatch(self, now: int, horizon: int, weights: dict[str, float]) -> list[tuple[int, int]]:
        grants, at = [], now
        while any(line.items for line in self.lines.values()):
            key = self.elect()
            item, tokens = self.lines[key].items[0]
            wait = self.budgets.wait(at, tokens)
            assert wait is not None
            at += wait
            if at > now + horizon:
                break
            self.grant(key, at, weights[key[2]])
            grants.append((item, at))
        return grants

    def grant(self, key: tuple[str, str, str], at: int, weight: float) -> None:
        _, priority, client = key
        line = self.lines[key]
        _, tokens = line.items.pop(0)
        line.served = self.next_number()
        cost = self.budgets.cost(tokens)
        of_class, share = self.classes[priority], self.shares[priority, client]
        self.time = max(of_class.tag, self.time)
        of_class.tag = self.time + cost / CLASS_WEIGHTS[priority]
        self.times[priority] = max(share.tag, self.times[priority])
        share.tag = self.times[priority] + cost / weight
        of_class.turn, share.turn = self.next_number(), self.next_number()
        self.budgets.take(at, tokens)
        self.forget(key)


def budgets(kind: str) -> Budgets:
    requests, tokens = TokenBucket(50 * MS, 3), TokenBucket(MS, 400)
    return Budgets(requests if kind != "tokens" else None, tokens if kind != "requests" else None)


@pytest.mark.parametrize("kind", ["requests", "tokens", "both"])
@pytest.mark.parametrize("seed", range(10))
def test_grants_are_those_of_the_slow_scheduler(kind: str, seed: int) -> None:
    random = Random(seed)
    reference, scheduler = Reference(budgets(kind)), Scheduler[int](budgets(kind))
    lanes = {name: LaneScope[int](Budgets()) for name in "lmn"}
    weights = {"a": 1.0, "b": 1.0, "c": 2.5, "d": 0.5}
    waiting: dict[int, tuple[str, str, str]] = {}
    now, granted = 0, 0
    for item in range(800):
        now += random.choice([0, 0, 0, MS, 7 * MS, 30 * MS, 200 * MS])
        if random.random() < 0.8 or not waiting:
            key = random.choice("lmn"), random.choice(CLASS_NAMES), random.choice("abcd")
            tokens = random.choice([1, 10, 50, 200, 900])
            reference.push(key, item, tokens)
            flow = scheduler.flow(lanes[key[0]], key[1], key[2], weights[key[2]])
            scheduler.push(flow, item, tokens)
            waiting[item] = key
        else:
            left = random.choice(list(waiting))
            key = waiting.pop(left)
            reference.leave(key, left)
            flow = scheduler.flow(lanes[key[0]], key[1], key[2], weights[key[2]])
            assert scheduler.remove(flow, left)
        horizon = random.choice([0, 25 * MS])
        grants = [(grant.item, grant.at) for grant in scheduler.dispatch(now, horizon)]
        assert grants == reference.dispatch(now, horizon, weights)
        for one, _ in grants:
            del waiting[one]
        granted += len(grants)
    assert granted > 50
