"""The limits and weights of clients in a group: the newest clients' file of all members counts."""

from typing import Any

from rustygate.core.group_budgets import GroupClientScope
from rustygate.core.group_demand import FlowKey
from rustygate.core.group_state import GroupState, Member

NO_LIMITS = [-1, -1, -1, -1]


def update(group: GroupState, call: dict[str, Any], now: int) -> None:
    """Adopt the clients of a call, unless another member has reported a newer file.

    New limits begin with full budgets; with empty ones if the caller registers while the gate's
    own are not full, because the clients may have used theirs in an earlier life of the group.
    """
    if call.get("clients") is None or call["clients_version"] <= group.clients_version:
        return
    group.clients_version = call["clients_version"]
    weights = {name: weight for name, weight, *_ in call["clients"]}
    limits = {name: values for name, _, *values in call["clients"]}
    new = limits.keys() - group.clients.keys()
    starts_empty = not call["known"] and not _is_full(group, now)
    affected = _take_out_demand(group, new)
    for name in sorted(new):
        group.clients[name] = GroupClientScope()
    for name in sorted(group.clients):
        _set_limits(group, name, limits.get(name, NO_LIMITS))
        if name in new and starts_empty:
            group.clients[name].empty(now)
    group.client_weights = weights
    for member, keys in affected:
        group.place(member, keys)
    for name in sorted(group.clients.keys() - limits.keys()):
        scope = group.clients[name]
        if not scope.flows and not scope.budgets.in_flight:
            del group.clients[name]


def _set_limits(group: GroupState, name: str, limits: list[int]) -> None:
    scope = group.clients[name]
    if scope.limits != limits:
        scope.set_limits(limits, group.clients_version)
        group.touch(scope)


def _take_out_demand(group: GroupState, clients: set[str]) -> list[tuple[Member, list[FlowKey]]]:
    """Take out the waiters of clients that get limits: they belong to other flows from then on."""
    affected = []
    for member in group.in_order():
        keys = sorted(key for key in member.demands if key[2] in clients)
        if keys and member.lent:
            member.lent = False
            group.place(member, keys)
            member.lent = True
            affected.append((member, keys))
    return affected


def _is_full(group: GroupState, now: int) -> bool:
    buckets = group.own.requests, group.own.tokens
    return all(bucket is None or bucket.level(now) == bucket.burst for bucket in buckets)
