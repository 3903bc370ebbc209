"""Totals of the waiters by class and client, computed in time proportional to the flows."""

from collections.abc import Container
from typing import NamedTuple

from rustygate.admission.activity import CLIENT_LIMIT, OTHER_CLIENTS
from rustygate.admission.dispatcher import Dispatcher
from rustygate.admission.waiter import Waiter
from rustygate.core.fair_order import CLASS_INDEX, CLASS_NAMES, CLASSES
from rustygate.core.scopes import Flow, Share

# Items, their tokens, and the weight of the client.
Sums = tuple[int, int, float]


class Waiting(NamedTuple):
    """What waits at a gate.

    Attributes:
        by_class: for each class, what each client has waiting. Clients beyond a limit are one.
        longest: the longest time that anything has waited until now, in nanoseconds.
    """

    by_class: list[dict[str, Sums]]
    longest: int


def sum_waiting(dispatcher: Dispatcher, now: int) -> Waiting:
    """Look at all flows. The first waiter of a flow is the one that has waited longest."""
    active = dispatcher.activity.clients
    by_class = [
        _sum_class(dispatcher.scheduler.busy[index], active[CLASS_NAMES[index]])
        for index in CLASSES
    ]
    firsts = [
        min(map(_waits_since, share.flows))
        for shares in dispatcher.scheduler.busy
        for share in shares
    ]
    for turn in dispatcher.held:
        sums = by_class[CLASS_INDEX[turn.exchange.priority]]
        _add(sums, turn.exchange.client, 1, turn.tokens, turn.exchange.weight)
        firsts.append(turn.since - turn.exchange.queued)
    return Waiting(by_class, now - min(firsts, default=now))


def _sum_class(shares: list[Share[Waiter]], active: Container[object]) -> dict[str, Sums]:
    sums: dict[str, Sums] = {}
    for share in shares:
        is_shown = len(sums) < CLIENT_LIMIT or share.client in active
        # A client may have that name.
        name = str(share.client) if is_shown else OTHER_CLIENTS
        sums[name] = _plus(_sum_share(share), sums[name]) if name in sums else _sum_share(share)
    return sums


def _plus(one: Sums, other: Sums) -> Sums:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _sum_share(share: Share[Waiter]) -> Sums:
    items = sum(flow.count for flow in share.flows)
    return items, sum(flow.tokens for flow in share.flows), share.weight


def _add(sums: dict[str, Sums], client: str, items: int, tokens: int, weight: float) -> None:
    before = sums.get(client, (0, 0, weight))
    sums[client] = before[0] + items, before[1] + tokens, weight


def _waits_since(flow: Flow[Waiter]) -> int:
    """When the first waiter of a flow began to wait, minus its waits in earlier attempts."""
    first = flow.ranked[0][1] if flow.ranked else next(iter(flow.items))
    return first.since - first.exchange.queued
