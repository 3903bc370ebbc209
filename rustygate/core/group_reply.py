"""What a member is told of the lanes of a group."""

from typing import Any

from rustygate.core.group_budgets import GroupLaneScope
from rustygate.core.group_state import GroupState, Member

# Besides its own lanes a member is told of so many others, those where most waits.
OTHER_LANES = 32


def lane_states(group: GroupState, member: Member, now: int) -> list[list[Any]]:
    """The lanes in which a member has something waiting, in flight or as float, by name; then
    those where most waits."""
    own = {key[0] for key in member.demands} | member.lane_slots.keys() | member.floats.keys()
    others = [lane for name, lane in group.lanes.items() if name not in own and any(lane.waiting)]
    others.sort(key=lambda lane: (-sum(lane.waiting), lane.name))
    lanes = [group.lane(name) for name in sorted(own)] + others[:OTHER_LANES]
    return [_lane_state(lane, now) for lane in lanes]


def _lane_state(lane: GroupLaneScope, now: int) -> list[Any]:
    """Name, known, requests (limit, level, ns per unit), tokens (the same), pause in ns, least ns
    between requests, and what waits by class, with its tokens."""
    budgets = lane.budgets
    quotas = [
        [-1, 0, 0] if bucket is None else [bucket.burst, bucket.level(now), bucket.period]
        for bucket in (budgets.requests, budgets.tokens)
    ]
    return [
        lane.name, int(budgets.known), *quotas, max(0, budgets.paused_until - now),
        budgets.spacing(now), lane.waiting[:], lane.waiting_tokens[:],
    ]  # fmt: skip
