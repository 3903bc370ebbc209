"""Floats: admissions that members of a group hold in advance while nobody waits.

They admit requests without a round trip. Clients with limits of their own cannot use them.
"""

from typing import Any

from rustygate.core.bucket import TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.group_budgets import GroupBudgets
from rustygate.core.group_state import Float, GroupState, Member

# The most admissions that a member holds in advance.
MAX_FLOAT = 256


def lend(group: GroupState, member: Member, wanted: list[list[Any]], now: int) -> None:
    """Charge the float that a member wants, as far as there is room.

    All members together hold at most half of each capacity. A member holds at most its part of
    that, but may hold at least one.
    """
    part = 2 * len(group.members)
    for name, count, tokens in wanted:
        lane = group.lane(name).budgets
        held = member.floats.get(name) or Float(0, tokens)
        elsewhere = sum(each.count for each in member.floats.values()) - held.count
        most = min(count, _room(group.own, part, held) - elsewhere, _room(lane, part, held))
        if lane.spacing(now):
            continue
        while held.count < most and _has_room(group.own, lane, held.tokens, now):
            member.floats[name] = held
            held.count += 1
            lane.lend(now, held.tokens)
            group.own.lend(now, held.tokens)


def _room(budgets: Budgets, part: int, held: Float) -> int:
    """How many admissions a member may hold of a set of budgets."""
    rooms = [MAX_FLOAT]
    if budgets.requests is not None:
        rooms.append(max(1, budgets.requests.burst // part))
    if budgets.tokens is not None:
        rooms.append(max(1, budgets.tokens.burst // (part * max(1, held.tokens))))
    if budgets.slots is not None:
        rooms.append(held.count + (budgets.slots - budgets.in_flight) // part)
    return min(rooms)


def _has_room(own: GroupBudgets, lane: GroupBudgets, tokens: int, now: int) -> bool:
    """Whether one more may be lent."""
    if own.wait(now, tokens) != 0 or lane.wait(now, tokens) != 0:
        return False
    return all(
        _is_within_half(budgets.requests, budgets.held + 1)
        and _is_within_half(budgets.tokens, budgets.held_tokens + tokens)
        for budgets in (own, lane)
    )


def _is_within_half(bucket: TokenBucket | None, held: int) -> bool:
    return bucket is None or 2 * held <= bucket.burst


def return_all(group: GroupState, member: Member, now: int, keep: set[str]) -> None:
    """Take back the float of a member, except in some lanes."""
    for name in sorted(member.floats.keys() - keep):
        held, lane = member.floats.pop(name), group.lane(name)
        for budgets in (group.own, lane.budgets):
            budgets.return_held(now, held.count, held.tokens)
        group.touch(lane)


def use(group: GroupState, member: Member, lane: str, client: str, tokens: int, now: int) -> bool:
    """Count an admission of a member's float, which cost this many tokens. Returns False if it
    holds none."""
    held = member.floats.get(lane)
    if held is None:
        return False
    held.count -= 1
    if not held.count:
        del member.floats[lane]
    scope = group.lane(lane)
    for budgets in (group.own, scope.budgets):
        budgets.use_held(now, held.tokens, tokens)
    scope.budgets.count(now, tokens)
    group.touch(scope)
    if client in group.clients:
        group.clients[client].budgets.take(now, tokens)
        group.touch(group.clients[client])
    group.hold_slots(member, lane, client)
    member.granted += group.own.cost(tokens)
    return True
