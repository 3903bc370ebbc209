"""Start-time fair queueing over members.

Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996). A server of members keeps a
virtual time. A member has a start: the virtual time at which its next item may begin. The member
with the least start goes next, ties going to the one that has waited longest since its last turn;
the virtual time moves to that start, and the member's start moves on by the item's cost divided
by the member's weight. A member that was idle starts at the later of its own start and the
virtual time.

From this follow the laws the gate relies on: members that stay busy are served in proportion to
their weights in cost, to within one item each; one that was idle earns no credit, for it starts
no earlier than the virtual time; nobody starves, for starts only grow.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any, Generic, TypeVar

from rustygate.core.backlog import Work

M = TypeVar("M", bound="Member")

SCALE = 1 << 16

# So many members that are idle are remembered, and as many again as are busy. A flow that is
# forgotten early gains one item at most.
_IDLE = 1000

# A prediction looks at so many of the flows whose turn comes first, and takes others to be alike.
SAMPLE_SIZE = 64

# A list is rid of what was taken from its front when that is so much, and half of it.
_TRIMMED = 64


@dataclass(slots=True, eq=False)
class Member:
    """Something served in turns. `backlog` is what it has waiting, in cost, in `count` items that
    take `tokens`."""

    key: Any
    weight: float
    start: int = 0
    entry: int = 0
    backlog: int = 0
    count: int = 0
    tokens: int = 0

    def virtual(self, cost: int) -> int:
        """What a cost is in this member's virtual time."""
        return round(cost * SCALE / self.weight)

    @property
    def whole(self) -> Work:
        """All of its backlog."""
        return Work(self.backlog, self.count, self.tokens)

    def part(self, cost: float) -> Work:
        """So much of its backlog, taken to be mixed evenly."""
        share = min(1, cost / self.backlog) if self.backlog else 0
        return Work(share * self.backlog, share * self.count, share * self.tokens)


class FairServer(Generic[M]):
    """Start-time fair queueing over members. A member is idle when its backlog is 0.

    `_order` holds (start, entry, member) from `_first` on, sorted.
    """

    __slots__ = ("_entries", "_first", "_members", "_order", "busy", "virtual")

    def __init__(self, members: dict[Any, M]) -> None:
        """Those that are forgotten are taken out of `members`, by their keys."""
        self._members = members
        self._order: list[tuple[Any, ...]] = []
        self._first = 0
        self._entries = count(1)
        self.virtual = self.busy = 0

    def __len__(self) -> int:
        """How many members it remembers, busy and idle ones."""
        return len(self._order) - self._first

    def wake(self, member: M) -> None:
        """A member becomes busy; it starts no earlier than now."""
        self.busy += 1
        start, entry = self.place_of(member)
        if entry == inf:
            self._place(member, start, next(self._entries))

    def rest(self) -> None:
        """A member became idle. If too many are, all of those are forgotten."""
        self.busy -= 1
        if len(self) > 2 * self.busy + _IDLE:
            known, self._order, self._first = self._order[self._first :], [], 0
            for entry in known:
                if entry[2].backlog:
                    self._order.append(entry)
                else:
                    self._forget(entry[2])

    def next(self) -> M:
        """The busy member with the least start; idle ones that come before it are forgotten.
        Raises IndexError when nobody is busy."""
        while True:
            member: M = self._order[self._first][2]
            if member.backlog:
                return member
            self._drop(member)

    def charge(self, member: M, cost: int) -> None:
        """The member has had its turn."""
        self.virtual = member.start
        self._place(member, member.start + member.virtual(cost), next(self._entries))

    def refund(self, member: M, cost: int) -> None:
        """The member could not use its turn: it stands again where it stood, before its peers."""
        self._place(member, member.start - member.virtual(cost), -next(self._entries))

    def place_of(self, member: M) -> tuple[int, float]:
        """The place that a member has or gets: behind all that start with it, if it gets one."""
        if member.backlog or (member.entry and member.start >= self.virtual):
            return member.start, member.entry
        return max(member.start, self.virtual), inf

    def end_of(self, member: M, place: tuple[int, float]) -> tuple[int, float]:
        """The place of a member at `place` once it has served what it has waiting."""
        return (place[0] + member.virtual(member.backlog), inf) if member.backlog else place

    def before(self, place: tuple[int, float]) -> int:
        """How many members have a turn before a place."""
        return bisect_left(self._order, place, lo=self._first) - self._first

    def sample(self, before: int) -> list[M]:
        """Some of the first so many members, at even distances."""
        stride = before // SAMPLE_SIZE + 1
        return [each for _, _, each in self._order[self._first : self._first + before : stride]]

    def lead(self, one: M, other: M) -> float:
        """How much a busy member has served at least, in cost at weight one, before it is the
        turn of another, if that asks now."""
        start, entry = self.place_of(other)
        if (one.start, one.entry) > (start, entry):
            return 0
        return max(one.backlog / one.count / one.weight, (start - one.start) / SCALE)

    def _place(self, member: M, start: int, entry: int) -> None:
        """Give a member its start and a place in the order, instead of the one it had."""
        if member.entry:
            self._take_out(member)
        member.start, member.entry = start, entry
        insort(self._order, (start, entry, member), lo=self._first)

    def _take_out(self, member: M) -> None:
        place = bisect_left(self._order, (member.start, member.entry), lo=self._first)
        if place > self._first:
            del self._order[place]
            return
        self._first += 1
        if self._first >= _TRIMMED and 2 * self._first >= len(self._order):
            del self._order[: self._first]
            self._first = 0

    def _drop(self, member: M) -> None:
        self._take_out(member)
        self._forget(member)

    def _forget(self, member: M) -> None:
        member.entry = 0
        del self._members[member.key]
