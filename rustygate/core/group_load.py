"""How far apart the members of a group call while requests wait, and how far grants reach ahead.

All calls run one after the other, so their number must not grow with the members. Up to
`LEAST_LOAD` of them call at full pace; if more have waiters, each calls less often, and all of
them together as often as those would. A reply tells its member the load to go by. Grants reach
ahead by a little more than the longest time between the calls of a member, so that each is
received before its instant.

The load is bounded: a member must call more often than its demand's lease ends.
"""

from collections.abc import Iterable

from rustygate.core.bucket import SECOND
from rustygate.core.group_state import LEAST_LOAD, Member

# 21 and 25 ms at the least load, 131 and 156 ms at the most.
MOST_LOAD = 100
_SPACING = 21 * SECOND // 1000 // LEAST_LOAD
_HORIZON = 25 * SECOND // 1000 // LEAST_LOAD


def load(members: Iterable[Member]) -> int:
    """The members that have waiters, within bounds."""
    waiting = sum(1 for member in members if member.has_demand)
    return min(MOST_LOAD, max(LEAST_LOAD, waiting))


def spacing(load: int) -> int:
    """Nanoseconds between the calls of a member that has waiters, on average."""
    return load * _SPACING


def horizon_of(spacing: int) -> int:
    """How far grants reach ahead while calls are this far apart."""
    return spacing // _SPACING * _HORIZON


def horizon(members: Iterable[Member]) -> int:
    """How far grants reach ahead: to the next call of each member that has waiters."""
    loads = (member.load for member in members if member.has_demand)
    return max(loads, default=LEAST_LOAD) * _HORIZON
