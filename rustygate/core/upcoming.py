"""Which waiters are admitted next, when, and what each of them waits for."""

from collections.abc import Hashable, Iterable
from math import inf
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

from rustygate.core.excerpt import Excerpt
from rustygate.core.scheduler import Scheduler
from rustygate.core.scopes import ClientScope, Flow, LaneScope

T = TypeVar("T", bound=Hashable)

# The waiter waits only for those before it.
TURN = "turn"

# A scope may wake several times before it grants. This bound only matters if there is a defect.
_MAX_ROUNDS = 1000


class Upcoming(NamedTuple, Generic[T]):
    """A waiter that will be admitted.

    Attributes:
        at: when; None if that depends on a slot that must become free.
        blocked_by: what keeps it waiting.
    """

    item: T
    tokens: int
    at: int | None
    blocked_by: str


def upcoming(
    scheduler: Scheduler[T],
    lanes: Iterable[LaneScope[T]],
    clients: Iterable[ClientScope[T]],
    now: int,
    limit: int,
) -> list[Upcoming[T]]:
    """The next admissions in their order, if no other waiter comes, none leaves and no budget
    changes other than by time and by these admissions."""
    excerpt = Excerpt(scheduler, lanes, clients, limit)
    found: list[Upcoming[T]] = []
    at, in_time = now, True
    # If the first admission is due, the budget that it has waited for is no longer short.
    before = now if scheduler.next_at == inf else min(now, int(scheduler.next_at) - 1)
    for _ in range(_MAX_ROUNDS):
        for item, flow, tokens, _, _ in excerpt.dispatch(at):
            blocked_by = _blocked_by(scheduler, excerpt.original(flow), tokens, before)
            found.append(Upcoming(item, tokens, at if in_time else None, blocked_by))
        if len(found) == limit or not excerpt.waiting:
            break
        if excerpt.next_at < inf:
            at = int(excerpt.next_at)
        elif in_time:
            excerpt.free_all_slots()
            in_time = False
        else:
            break
    return found


def _blocked_by(scheduler: Scheduler[T], flow: Flow[T], tokens: int, now: int) -> str:
    """The budget that keeps an item waiting for longest."""
    shortages = [scheduler.budgets.shortage(now, tokens), flow.lane.budgets.shortage(now, tokens)]
    if flow.client is not None:
        wait, budget = flow.client.budgets.shortage(now, tokens)
        shortages.append((wait, f"client {budget}"))
    wait, budget = max(shortages, key=itemgetter(0))
    return budget if wait > 0 else TURN
