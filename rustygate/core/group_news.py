"""What members of a group report about admissions and upstream's responses.

Each event is a list: its kind, and its values as in `EVENTS`. An event that settles or gives back
an admission ends with the version of the clients' limits that it was charged under: that of its
grant, or `clients_version` in the reply to the call that reported it; by default the present
version. Limits that changed since began with full budgets, so nothing is returned to them.
"""

from collections.abc import Callable
from typing import Any

from rustygate.core import group_floats
from rustygate.core.bucket import TokenBucket
from rustygate.core.group_budgets import PACE_LEASE
from rustygate.core.group_state import GroupState, Member

# The values of each event: s is a string, i an integer from 0, p one from 1, z any integer,
# v an optional version, from -1.
EVENTS = {
    "charge": "ssi",
    "float_used": "ssi",
    "settle": "siiv",
    "give_back": "ssiv",
    "waive": "siv",
    "refund": "sisi",
    "answer": "s",
    "release": "s",
    "known": "s",
    "learn": "sipzipi",
    "teach": "sipzp",
    "pause": "si",
    "slow_down": "si",
    "pace": "si",
}


def apply(group: GroupState, member: Member, event: list[Any], now: int) -> None:
    """Apply one event."""
    kind, *values = event
    _HANDLERS[kind](group, member, now, *values)


def _charge(
    group: GroupState, member: Member, now: int, lane: str, client: str, tokens: int
) -> None:
    """An admission that was not granted: upstream began a turn by itself."""
    group.own.take(now, tokens)
    scope = group.lane(lane)
    scope.budgets.take(now, tokens)
    group.touch(scope, group.clients.get(client))
    if client in group.clients:
        group.clients[client].budgets.take(now, tokens)
    group.hold_slots(member, lane, client)
    member.granted += group.own.cost(tokens)


def _float_used(
    group: GroupState, member: Member, now: int, lane: str, client: str, tokens: int
) -> None:
    """An admission of the member's float, which cost this many tokens."""
    if not group_floats.use(group, member, lane, client, tokens, now):
        _charge(group, member, now, lane, client, tokens)


def _settle(
    group: GroupState,
    member: Member,
    now: int,
    client: str,
    estimated: int,
    actual: int,
    version: int = -1,
) -> None:
    """The tokens that an admission has really taken."""
    group.own.settle(now, estimated, actual)
    group.touch()
    scope = group.clients.get(client)
    if scope is not None and scope.charged(version):
        scope.budgets.settle(now, estimated, actual)
        group.touch(scope)


def _give_back(
    group: GroupState,
    member: Member,
    now: int,
    lane: str,
    client: str,
    tokens: int,
    version: int = -1,
) -> None:
    """An admission that was not used: nothing was sent upstream. Its slots are freed apart."""
    group.give_back(lane, client, tokens, version)


def _waive(
    group: GroupState, member: Member, now: int, client: str, tokens: int, version: int = -1
) -> None:
    """An admission that was no work: it counts for its lane only."""
    group.waive(client, tokens, version)


def _refund(
    group: GroupState, member: Member, now: int, lane: str, index: int, client: str, tokens: int
) -> None:
    """No waiter was left to use a grant: its flow gets its turn back."""
    group.refund_turn((lane, index, client), tokens)


def _answer(group: GroupState, member: Member, now: int, lane: str) -> None:
    """Upstream has responded, so the lane's slot is free."""
    group.free_lane_slot(member, lane)


def _release(group: GroupState, member: Member, now: int, client: str) -> None:
    """An exchange has ended, so its slots are free."""
    group.free_slots(member, client)


def _known(group: GroupState, member: Member, now: int, lane: str) -> None:
    """A lane's model exists: requests in flight need no limit."""
    scope = group.lane(lane)
    scope.budgets.known, scope.budgets.slots = True, None
    group.touch(scope)


def _learn(group: GroupState, member: Member, now: int, lane: str, *values: int) -> None:
    """What a response says about a lane's quota; see `GroupLane.learn`."""
    scope = group.lane(lane)
    scope.budgets.learn(now, *values)
    scope.renew_order(now)
    group.touch(scope)


def _teach(
    group: GroupState,
    member: Member,
    now: int,
    lane: str,
    kind: int,
    limit: int,
    level: int,
    period: int,
) -> None:
    """What a registering member knows about a lane's quota. If the group already knows the quota,
    its level only falls."""
    scope = group.lane(lane)
    scope.budgets.teach(now, kind, limit, level, period)
    scope.renew_order(now)
    group.touch(scope)


def _pause(group: GroupState, member: Member, now: int, lane: str, wait: int) -> None:
    """Upstream refused a request: admit none of this lane for a while."""
    scope = group.lane(lane)
    scope.budgets.paused_until = max(scope.budgets.paused_until, now + wait)
    group.touch(scope)


def _slow_down(group: GroupState, member: Member, now: int, lane: str, age: int) -> None:
    """Upstream wants fewer requests; `age`: ns since the one it answered was admitted."""
    scope = group.lane(lane)
    scope.budgets.slow_down(now, now - age)
    group.touch(scope)


def _pace(group: GroupState, member: Member, now: int, lane: str, period: int) -> None:
    """The lane's pace from now on, in ns per request; 0 for none."""
    scope = group.lane(lane)
    budgets = scope.budgets
    budgets.paced_until = now + PACE_LEASE
    if period <= 0:
        budgets.pace = None
    elif budgets.pace is None:
        budgets.pace = TokenBucket(period, 1)
    else:
        budgets.pace.full_at += period - budgets.pace.period
        budgets.pace.period = period
    group.touch(scope)


_HANDLERS: dict[str, Callable[..., None]] = {
    "charge": _charge,
    "float_used": _float_used,
    "settle": _settle,
    "give_back": _give_back,
    "waive": _waive,
    "refund": _refund,
    "answer": _answer,
    "release": _release,
    "known": _known,
    "learn": _learn,
    "teach": _teach,
    "pause": _pause,
    "slow_down": _slow_down,
    "pace": _pace,
}
