"""A scheduler with lanes and clients by name, and what it granted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.scheduler import Grant, Scheduler
from rustygate.core.scopes import ClientScope, Flow, LaneScope

Item = tuple[str, int]
Grants = list[Grant[Item]]


def limits(
    rate: float | None = None, burst: int = 1, tokens: int | None = None, slots: int | None = None
) -> Budgets:
    """Budgets of `rate` requests a second and `tokens` a minute."""
    return Budgets(
        None if rate is None else TokenBucket.from_rate(rate, burst),
        None if tokens is None else TokenBucket.per_minute(tokens),
        slots,
    )


def emptied(budgets: Budgets) -> Budgets:
    """Budgets that have just been spent."""
    if budgets.tokens is not None:
        budgets.tokens.fill_to(0, 0)
    return budgets


@dataclass
class Demand:
    """What a client asks for: it always has `depth` items waiting."""

    client: str
    lane: str = "m"
    priority: str = "default"
    tokens: int = 1
    depth: int = 5
    weight: float = 1.0


class Run:
    """A scheduler with lanes and clients by name, and what it granted, by item and second.

    An item is its client's name and a number.
    """

    def __init__(
        self,
        own: Budgets | None = None,
        lanes: dict[str, Budgets] | None = None,
        clients: dict[str, Budgets] | None = None,
    ) -> None:
        self.scheduler: Scheduler[Item] = Scheduler(own or Budgets())
        self.lanes = {name: LaneScope[Item](each) for name, each in (lanes or {}).items()}
        self.clients = {name: ClientScope[Item](each) for name, each in (clients or {}).items()}
        self.granted: list[tuple[Item, float]] = []
        self.now = 0
        self.number = 0

    def lane(self, name: str) -> LaneScope[Item]:
        return self.lanes.setdefault(name, LaneScope(Budgets()))

    def flow(self, demand: Demand) -> Flow[Item]:
        scope = self.clients.get(demand.client)
        lane = self.lane(demand.lane)
        return self.scheduler.flow(lane, demand.priority, demand.client, demand.weight, scope)

    def push(self, demand: Demand) -> Item:
        self.number += 1
        item = demand.client, self.number
        self.scheduler.push(self.flow(demand), item, demand.tokens)
        return item

    def dispatch(self, seconds: float | None = None, horizon: int = 0) -> Grants:
        """Grant what can be granted at an instant."""
        if seconds is not None:
            self.now = round(seconds * SECOND)
        grants = self.scheduler.dispatch(self.now, horizon)
        self.granted += [(grant.item, grant.at / SECOND) for grant in grants]
        return grants

    def release(self, grant: Grant[Item]) -> None:
        """Free the slots of a grant."""
        scopes = grant.flow.lane, grant.flow.client
        self.scheduler.budgets.release()
        for scope in scopes:
            if scope is not None:
                scope.budgets.release()
        self.scheduler.touch(*scopes)

    def events(self, until_s: float) -> Iterator[Grants]:
        """Go from instant to instant as the scheduler says, and free each slot at once."""
        while True:
            grants = self.dispatch()
            for grant in grants:
                self.release(grant)
            yield grants
            at = self.now if grants else self.scheduler.next_at
            if at > until_s * SECOND:
                return
            self.now = max(self.now, int(at))

    def serve(self, demands: Sequence[Demand], seconds: float) -> Counter[str]:
        """Keep demands waiting for a time, and count the grants by client."""
        names = {id(self.flow(demand)): demand for demand in demands}
        for demand in demands:
            for _ in range(demand.depth):
                self.push(demand)
        got: Counter[str] = Counter()
        for grants in self.events(seconds):
            for grant in grants:
                demand = names[id(grant.flow)]
                got[f"{demand.client}{'' if demand.lane == 'm' else demand.lane}"] += 1
                names[id(self.flow(demand))] = demand
                self.push(demand)
        return got

    def drain(self) -> str:
        """Serve everything that waits, and return the clients in the order of their grants."""
        before = len(self.granted)
        for _ in self.events(inf):
            if not self.scheduler.waiting:
                break
        return "".join(client for (client, _), _ in self.granted[before:])


def check_empty(run: Run) -> None:
    scheduler = run.scheduler
    assert (scheduler.waiting, scheduler.waiting_tokens) == (0, 0)
    assert scheduler.waiting_by_class == [0, 0, 0]
    assert scheduler.next_at == inf
    assert not scheduler.awake
    assert all(not shares for shares in (*scheduler.shares, *scheduler.busy))
    for scope in (*run.lanes.values(), *run.clients.values()):
        assert (scope.short, scope.nominee, scope.due) == (False, None, [])
        assert scope.waiting == scope.waiting_tokens == [0, 0, 0]
    assert not any(flows for lane in run.lanes.values() for flows in lane.busy)
    assert not any(client.flows for client in run.clients.values())
