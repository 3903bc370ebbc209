"""What a reply says about the budgets of a group, and about what waits for them.

`core.group_forecast` predicts waits from it. A quota is a list: limit, level, ns per unit, and ns
until it is full; the limit is -1 for no limit. What waits in a class is summed up in groups of
flows of about the same depth: how many flows, their items, tokens, and the sum of their weights.
"""

from typing import Any

from rustygate.core.bucket import TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import FairOrder
from rustygate.core.group_budgets import GroupLaneScope, HeldBucket
from rustygate.core.group_demand import FlowKey
from rustygate.core.group_state import GroupState, Member

# The number of other lanes, and of other clients, in a reply: those where most waits.
OTHERS = 32


def lane_states(
    group: GroupState, member: Member, reported: list[FlowKey], now: int
) -> list[list[Any]]:
    """The lanes that a member has reported in its call or has admissions in, by name; then the
    others where most waits."""
    own = {lane for lane, *_ in reported} | member.lane_slots.keys() | member.floats.keys()
    others = [lane for name, lane in group.lanes.items() if name not in own and any(lane.waiting)]
    others.sort(key=lambda lane: (-sum(lane.waiting), lane.name))
    lanes = [group.lane(name) for name in sorted(own)] + others[:OTHERS]
    return [_lane_state(lane, now) for lane in lanes]


def _lane_state(lane: GroupLaneScope, now: int) -> list[Any]:
    """Name, known, quotas of requests and tokens, pause in ns, least ns between requests, what
    waits by class, its tokens, whether the lane is short, how far each class is ahead in its
    order, and what waits of each class in groups."""
    budgets = lane.budgets
    return [
        lane.name, int(budgets.known), *quotas(budgets, now),
        max(0, budgets.paused_until - now), budgets.spacing(now), lane.waiting[:],
        lane.waiting_tokens[:], int(lane.short), leads(lane.order),
        [[sums[:] for _, sums in sorted(depths.items())] for depths in lane.depths],
    ]  # fmt: skip


def client_states(group: GroupState, reported: list[FlowKey], now: int) -> list[list[Any]]:
    """The clients with limits that have something waiting, those of the call first: name, quotas
    of requests and tokens, what waits by class, its tokens, and how far each class is ahead in
    the client's order."""
    own = {client for *_, client in reported}
    waiting = [name for name, scope in group.clients.items() if any(scope.waiting)]
    waiting.sort(key=lambda name: (name not in own, -sum(group.clients[name].waiting), name))
    states = []
    for name in waiting[: len(own) + OTHERS]:
        scope = group.clients[name]
        told = scope.waiting[:], scope.waiting_tokens[:], leads(scope.order)
        states.append([name, *quotas(scope.budgets, now), *told])
    return states


def shared_flows(group: GroupState, member: Member, reported: list[FlowKey]) -> list[list[Any]]:
    """What other members have waiting in the flows of the call: lane, class, client, items,
    tokens. Flows in which they have nothing are left out."""
    flows = []
    for key in sorted(set(reported)):
        flow = group.find_flow(key)
        others = (
            []
            if flow is None
            else [demand for name, demand in flow.demands.items() if name != member.name]
        )
        if others:
            items, tokens = sum(one.count for one in others), sum(one.tokens for one in others)
            flows.append([*key, items, tokens])
    return flows


def quotas(budgets: Budgets, now: int) -> list[list[int]]:
    return [_quota(bucket, now) for bucket in (budgets.requests, budgets.tokens)]


def _quota(bucket: TokenBucket | None, now: int) -> list[int]:
    if bucket is None:
        return [-1, 0, 0, 0]
    if isinstance(bucket, HeldBucket):
        bucket.cap(now)
    return [bucket.burst, bucket.level(now), bucket.period, max(0, bucket.full_at - now)]


def leads(order: FairOrder) -> list[float]:
    """How far each class's next turn is ahead of the virtual time."""
    return [place.tag - order.time for place in order.classes]
