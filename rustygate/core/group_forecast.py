"""The wait that a newcomer is predicted to have in a group, from the last reply to its member.

It is computed as at a single gate (`core.predicted_wait`), with less knowledge: the reply sums up
what waits in groups of flows of about the same depth (`core.group_reply`). Each group counts as
that many average flows at the virtual time, and each other lane that is short as one item.
"""

from math import inf, log2
from typing import Any, NamedTuple

from rustygate.core.bucket import TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASSES, FairOrder
from rustygate.core.group_demand import FlowKey
from rustygate.core.predicted_wait import (
    Backlog,
    Prediction,
    ahead_at_client,
    cost_of,
    served_until,
    with_other_classes,
)
from rustygate.core.work import NO_WORK, Work, sum_work

Reply = dict[str, Any]

# What waits in a class: for each group of flows their number, items, tokens, and sum of weights.
Groups = list[list[float]]


class GroupNewcomer(NamedTuple):
    """What a prediction needs to know of an item.

    Attributes:
        items, item_tokens: what waits in its flow, at all members.
        at_front: it goes before these.
        ahead: those of them that go before it, if not all do.
    """

    key: FlowKey
    weight: float
    tokens: int
    items: int = 0
    item_tokens: int = 0
    at_front: bool = False
    ahead: Work | None = None

    @property
    def before(self) -> Work:
        if self.at_front:
            return NO_WORK
        if self.ahead is not None:
            return self.ahead
        return Work(0, self.items, self.item_tokens)


def forecast(reply: Reply, newcomer: GroupNewcomer, age: int = 0) -> Prediction:
    """The wait as far as it depends on time alone: a slot that must become free is not included.

    Args:
        age: nanoseconds since the reply.
    """
    lane, _, client = newcomer.key
    state = next((each for each in reply["lanes"] if each[0] == lane), None)
    own = _ahead(_budgets(reply["quotas"]), reply["leads"], newcomer, _open_groups(reply, lane))
    shorts = [each for each in reply["lanes"] if each[8] and each[0] != lane and any(each[6])]
    own = Work(own.cost, own.items + len(shorts), own.tokens + sum(map(_average, shorts)))
    predictions = [_behind(_budgets(reply["quotas"]), newcomer, own, age)]
    if state is not None:
        predictions.append(_behind_lane(state, newcomer, age))
    for name, requests, tokens, waiting, waiting_tokens, leads in reply["clients"]:
        if name == client:
            budgets, work = _budgets([requests, tokens]), NO_WORK
            if not newcomer.at_front:
                classes = _without_behind(newcomer, waiting, waiting_tokens)
                work = ahead_at_client(_order(leads), budgets, newcomer.key[1], classes)
            predictions.append(_behind(budgets, newcomer, work, age))
    return max(predictions)


def longest_client_wait(state: list[Any], tokens: int, here: Work, age: int) -> int:
    """An upper bound of the wait for a client's own limits, which is quick to compute.

    Args:
        state: of the client in a reply.
        here: what waits at this member, whether the group knows about it or not.
    """
    _, requests, token_quota, waiting, waiting_tokens, _ = state
    work = Work(0, here.items + sum(waiting), here.tokens + sum(waiting_tokens))
    return _budgets([requests, token_quota]).wait_behind(age, tokens, work.items, work.tokens)


def _without_behind(
    newcomer: GroupNewcomer, waiting: list[int], waiting_tokens: list[int]
) -> list[tuple[float, float]]:
    """What waits at a client by class, without what is behind the newcomer in its flow."""
    classes: list[tuple[float, float]] = list(zip(waiting, waiting_tokens, strict=True))
    index, before = newcomer.key[1], newcomer.before
    items, tokens = classes[index]
    items -= newcomer.items - before.items
    tokens -= newcomer.item_tokens - before.tokens
    classes[index] = max(0, items), max(0, tokens)
    return classes


def _behind(budgets: Budgets, newcomer: GroupNewcomer, ahead: Work, age: int) -> Prediction:
    wait = budgets.wait_behind(age, newcomer.tokens, ahead.items, ahead.tokens)
    return Prediction(wait, round(ahead.items))


def _behind_lane(state: list[Any], newcomer: GroupNewcomer, age: int) -> Prediction:
    _, _, requests, tokens, pause, spacing, *_, leads, groups = state
    budgets = _budgets([requests, tokens])
    ahead = _ahead(budgets, leads, newcomer, groups)
    wait = _behind(budgets, newcomer, ahead, age).wait
    return Prediction(max(wait, pause - age, spacing * round(ahead.items)), round(ahead.items))


def _budgets(quotas: list[list[int]]) -> Budgets:
    """Buckets as of the instant 0, that of the reply."""
    requests, tokens = (
        None if limit < 0 else TokenBucket(period, limit, full_in)
        for limit, _, period, full_in in quotas
    )
    return Budgets(requests, tokens)


def _open_groups(reply: Reply, lane: str) -> list[Groups]:
    """What waits by class in lanes that are not short, and in the newcomer's."""
    lanes = [each for each in reply["lanes"] if not each[8] or each[0] == lane]
    return [[group for each in lanes for group in each[10][index]] for index in CLASSES]


def _average(state: list[Any]) -> float:
    return float(sum(state[7]) / max(1, sum(state[6])))


def _ahead(
    budgets: Budgets, leads: list[float], newcomer: GroupNewcomer, groups: list[Groups]
) -> Work:
    """What an order serves before a newcomer, by the rules of `predicted_wait`."""
    index, own = newcomer.key[1], newcomer.before
    until = cost_of(budgets, own.items, own.tokens) / newcomer.weight
    parts = [Work(cost_of(budgets, own.items, own.tokens), own.items, own.tokens)]
    for flows, items, tokens, weight in _others(groups[index], newcomer):
        backlog = Backlog(
            0, 0, weight / flows, items / flows, tokens / flows, tokens / max(1, items)
        )
        served = served_until(budgets, backlog, until, (0, 1))
        parts.append(sum_work([served], flows))
    classes = [(sum(one[1] for one in each), sum(one[2] for one in each)) for each in groups]
    return with_other_classes(_order(leads), budgets, index, sum_work(parts), classes)


def _others(groups: Groups, newcomer: GroupNewcomer) -> Groups:
    """The groups without the newcomer's own flow."""
    others = []
    own = min(groups, key=lambda group: _distance(group, newcomer), default=None)
    for group in groups:
        flows, items, tokens, weight = group
        if group is own and _distance(group, newcomer) <= 1:
            flows -= 1
            items, tokens = items - newcomer.items, tokens - newcomer.item_tokens
            weight -= newcomer.weight
        if flows > 0 and items > 0 and weight > 0:
            others.append([flows, items, max(0, tokens), weight])
    return others


def _distance(group: list[float], newcomer: GroupNewcomer) -> float:
    """How far the newcomer's flow is from the average of a group of flows, in powers of 2."""
    flows, items, tokens, _ = group
    if not newcomer.items or not items:
        return inf
    return max(
        abs(log2(items / flows / newcomer.items)),
        abs(log2((tokens / flows + 1) / (newcomer.item_tokens + 1))),
    )


def _order(leads: list[float]) -> FairOrder:
    order = FairOrder()
    for place, lead in zip(order.classes, leads, strict=True):
        place.tag = lead
    return order
