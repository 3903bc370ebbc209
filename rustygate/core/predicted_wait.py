"""The wait that a newcomer is predicted to have, and how much is served before it.

The wait for each set of budgets is predicted separately, and the longest one counts. What is ahead
of a newcomer follows from the fair order (`core.fair_order`). Until its turn, each earlier flow of
its class is served as much as the newcomer's own flow, in proportion to their weights and as far
as its items go; the other classes are served by their weights. If there are many flows, a sample
stands for all.

In a short lane, or at a short client, only the nominee is ahead.
"""

from collections.abc import Iterator, Sequence
from math import floor, inf
from typing import Any, NamedTuple

from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASSES, WEIGHTS, FairOrder, Place
from rustygate.core.scheduler import Scheduler
from rustygate.core.scopes import ClientScope, Flow, LaneScope, Share
from rustygate.core.work import NO_WORK, Work, sum_work

# A prediction looks at no more than this many flows, and assumes that the others are like them.
SAMPLE_SIZE = 64


class Prediction(NamedTuple):
    """How long a newcomer would wait, in nanoseconds, and about how many requests go before it."""

    wait: int
    ahead: int


class Newcomer(NamedTuple):
    """What a prediction needs to know of an item.

    Attributes:
        at_front: it goes before the other items of its flow.
    """

    lane: LaneScope[Any]
    client: ClientScope[Any] | None
    class_index: int
    name: Any
    weight: float
    tokens: int
    at_front: bool = False


class Backlog(NamedTuple):
    """A flow as a prediction sees it: its place and weight, the number of its items, their
    tokens, and those of the first."""

    tag: float
    turn: float
    weight: float
    items: float
    tokens: float
    first: float


def predict(scheduler: Scheduler[Any], newcomer: Newcomer, now: int) -> Prediction:
    """The wait as far as it depends on time alone: a slot that must become free is not
    included."""
    client = newcomer.client
    predictions = [
        _behind(scheduler.budgets, now, newcomer, work_ahead(scheduler, newcomer)),
        _behind(newcomer.lane.budgets, now, newcomer, _ahead_in_lane(newcomer)),
    ]
    if client is not None:
        ahead = NO_WORK
        if not newcomer.at_front:
            waiting = list(zip(client.waiting, client.waiting_tokens, strict=True))
            ahead = ahead_at_client(client.order, client.budgets, newcomer.class_index, waiting)
        predictions.append(_behind(client.budgets, now, newcomer, ahead))
    return max(predictions)


def predict_by_class(
    scheduler: Scheduler[Any], lanes: Sequence[tuple[LaneScope[Any], int]], now: int
) -> list[list[int]]:
    """The waits of newcomers that have nothing waiting and no limits of their own: for each lane,
    and the tokens of a request there, one for each class."""
    classes = [_AheadOfAll(scheduler, index) for index in CLASSES]
    return [[each.wait(lane, tokens, now) for each in classes] for lane, tokens in lanes]


class _AheadOfAll:
    """What the gate's order serves before a newcomer of a class, whatever its lane."""

    def __init__(self, scheduler: Scheduler[Any], index: int) -> None:
        self._budgets = scheduler.budgets
        self._index = index
        self._awake = scheduler.awake
        self._work = work_ahead(scheduler, self._newcomer(LaneScope(Budgets()), 0))

    def wait(self, lane: LaneScope[Any], tokens: int, now: int) -> int:
        newcomer, work = self._newcomer(lane, tokens), self._work
        if lane.nominee is not None and lane in self._awake:
            cost, items, sum_of_tokens = work
            work = Work(cost, items - 1, sum_of_tokens - lane.nominee.size)
        in_lane = _behind(lane.budgets, now, newcomer, _ahead_in_lane(newcomer))
        return max(_behind(self._budgets, now, newcomer, work), in_lane).wait

    def _newcomer(self, lane: LaneScope[Any], tokens: int) -> Newcomer:
        return Newcomer(lane, None, self._index, None, 1.0, tokens)


def longest_wait(
    scheduler: Scheduler[Any],
    lane: LaneScope[Any],
    client: ClientScope[Any] | None,
    tokens: int,
    now: int,
) -> int:
    """The wait behind everything that waits: an upper bound, which is quick to compute."""
    wait = scheduler.budgets.wait_behind(now, tokens, scheduler.waiting, scheduler.waiting_tokens)
    for scope in (lane, client):
        if scope is not None:
            items, tokens_ahead = sum(scope.waiting), sum(scope.waiting_tokens)
            wait = max(wait, scope.budgets.wait_behind(now, tokens, items, tokens_ahead))
    return wait


def _behind(budgets: Budgets, now: int, newcomer: Newcomer, ahead: Work) -> Prediction:
    wait = budgets.wait_behind(now, newcomer.tokens, ahead.items, ahead.tokens)
    return Prediction(wait, round(ahead.items))


# The work ahead in the orders of the gate, of a lane and of a client.


def work_ahead(scheduler: Scheduler[Any], newcomer: Newcomer) -> Work:
    """What the gate's order serves before a newcomer."""
    lanes = [lane for lane in scheduler.awake if not lane.short]
    classes = [
        (
            sum(lane.waiting[index] for lane in lanes),
            sum(lane.waiting_tokens[index] for lane in lanes),
        )
        for index in CLASSES
    ]
    nominees = [lane.nominee for lane in scheduler.awake if lane.nominee is not None]
    shares = scheduler.busy[newcomer.class_index]
    own = scheduler.shares[newcomer.class_index].get(newcomer.name)
    ahead = _ahead(
        scheduler.order,
        scheduler.budgets,
        newcomer,
        own,
        NO_BACKLOG if own is None else _of_share(own),
        len(shares),
        (_of_share(share) for share in _sample(shares) if share is not own),
        classes,
    )
    for nominee in nominees:
        if newcomer.lane is not nominee.lane:
            ahead = ahead.plus(0, nominee.size)
    return ahead


def _ahead_in_lane(newcomer: Newcomer) -> Work:
    lane = newcomer.lane
    own = lane.flows.get((newcomer.class_index, newcomer.name, newcomer.client))
    flows = lane.busy[newcomer.class_index]
    return _ahead(
        lane.order,
        lane.budgets,
        newcomer,
        own,
        NO_BACKLOG if own is None else _of_flow(own, own.tag, own.turn),
        len(flows),
        (_of_flow(flow, flow.tag, flow.turn) for flow in _sample(flows) if flow is not own),
        list(zip(lane.waiting, lane.waiting_tokens, strict=True)),
    )


def ahead_at_client(
    order: FairOrder, budgets: Budgets, index: int, classes: Sequence[tuple[float, float]]
) -> Work:
    """All of a client's waiters in a class, and those of its other classes that are served in the
    meantime.

    Args:
        classes: how many items of each class wait, and their tokens.
    """
    items, tokens = classes[index]
    in_class = Work(cost_of(budgets, items, tokens), items, tokens)
    return with_other_classes(order, budgets, index, in_class, classes)


NO_BACKLOG = Backlog(0, 0, 1, 0, 0, 0)


def _of_flow(flow: Flow[Any], tag: float, turn: float) -> Backlog:
    if not flow.count:
        return Backlog(tag, turn, flow.share.weight, 0, 0, 0)
    if flow.withheld:
        return Backlog(tag, turn, flow.share.weight, 1, flow.size, flow.size)
    return Backlog(tag, turn, flow.share.weight, flow.count, flow.tokens, flow.size)


def _of_share(share: Share[Any]) -> Backlog:
    """A share's flows in lanes that are not short, as one."""
    count = tokens = first = 0.0
    for flow in share.flows:
        if not flow.lane.short:
            backlog = _of_flow(flow, 0, 0)
            count += backlog.items
            tokens += backlog.tokens
            first = first or backlog.first
    return Backlog(share.tag, share.turn, share.weight, count, tokens, first)


def _sample(flows: list[Any]) -> list[Any]:
    return flows[:: len(flows) // SAMPLE_SIZE + 1]


# The rules of the order.


def _ahead(
    order: FairOrder,
    budgets: Budgets,
    newcomer: Newcomer,
    place: Place | None,
    own: Backlog,
    flows: int,
    others: Iterator[Backlog],
    classes: Sequence[tuple[float, float]],
) -> Work:
    """What is served before a newcomer.

    Args:
        place: the place of the newcomer's flow in the order, if it has one.
        own: what waits in that flow.
        flows: how many flows of the class wait; `others` is a sample of them.
        classes: how many items of each class wait, and their tokens.
    """
    index = newcomer.class_index
    turn: float = inf
    tag = order.times[index]
    if place is not None and (own.items or (place.turn and place.tag >= tag)):
        tag, turn = place.tag, place.turn
    if newcomer.at_front:
        own = NO_BACKLOG
    until = tag + cost_of(budgets, own.items, own.tokens) / newcomer.weight
    sample = list(others)
    factor = max(1, (flows - bool(own.items)) / max(1, len(sample)))
    served = [served_until(budgets, other, until, (tag, turn)) for other in sample if other.items]
    in_class = sum_work(
        [
            sum_work(served, factor),
            Work(cost_of(budgets, own.items, own.tokens), own.items, own.tokens),
        ]
    )
    if factor > 1:
        seen = sum_work([Work(0, other.items, other.tokens) for other in sample], factor)
        items = max(0, classes[index][0] - own.items - seen.items)
        tokens = max(0, classes[index][1] - own.tokens - seen.tokens)
        unseen = _share_of(budgets, items, tokens, until - tag)
        in_class = sum_work([in_class, unseen])
    return with_other_classes(order, budgets, index, in_class, classes)


def _share_of(budgets: Budgets, items: float, tokens: float, cost: float) -> Work:
    """The part of some work that is served while one flow is served this cost. Work that a sample
    does not account for is in few deep flows, so it counts as one."""
    total = cost_of(budgets, items, tokens)
    share = min(1, cost / total) if total else 0
    return Work(share * total, share * items, share * tokens)


def served_until(
    budgets: Budgets, flow: Backlog, until: float, place: tuple[float, float]
) -> Work:
    """The work of a flow that is served until a virtual time.

    An item that may begin exactly then counts if its flow gets that turn before the newcomer's: at
    an equal tag the earlier turn decides. At a lower tag the flow is served more often until then,
    and so gets its last turn later.
    """
    each = cost_of(budgets, flow.items, flow.tokens) / flow.items
    lead = (until - flow.tag) * flow.weight
    if lead < 0:
        return NO_WORK
    turns = floor(lead / each) + 1
    tag, turn = place
    if lead % each == 0 and (tag, flow.turn) > (flow.tag, turn):
        turns -= 1
    if turns < 1:
        return NO_WORK
    if turns == 1:
        return Work(cost_of(budgets, 1, flow.first), 1, flow.first)
    share = min(1, turns / flow.items)
    return Work(share * flow.items * each, share * flow.items, share * flow.tokens)


def with_other_classes(
    order: FairOrder,
    budgets: Budgets,
    index: int,
    in_class: Work,
    classes: Sequence[tuple[float, float]],
) -> Work:
    """Add what the other classes are served while a class is served this much."""
    own = order.classes[index]
    tag = max(own.tag, order.time) if classes[index][0] == 0 else own.tag
    depth = in_class.cost / WEIGHTS[index]
    parts = [in_class]
    for other in CLASSES:
        count, tokens = classes[other]
        if other == index or not count:
            continue
        cost, place = cost_of(budgets, count, tokens), order.classes[other]
        lead = tag - max(place.tag, 0)
        first = cost / count / WEIGHTS[other] if (place.tag, place.turn) <= (tag, inf) else 0
        share = min(1, (max(first, lead) + depth) * WEIGHTS[other] / cost)
        parts.append(Work(share * cost, share * count, share * tokens))
    return sum_work(parts)


def cost_of(budgets: Budgets, count: float, tokens: float) -> float:
    """The cost of this many items with this many tokens in all, in the fair order."""
    request, token = budgets.refill_periods
    return max(count * (request or 1), tokens * token)
