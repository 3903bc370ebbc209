"""The order of waiters: two levels of start-time fair queueing.

Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996). A server of members keeps a
virtual time. A member has a start: the virtual time at which its next item may begin. The member
with the least start goes next, ties going to the one that has waited longest since its last turn;
the virtual time moves to that start, and the member's start moves on by the item's cost divided
by the member's weight. A member that was idle starts at the later of its own start and the
virtual time.

From this follow the laws the gate relies on: members that stay busy are served in proportion to
their weights in cost, to within one item each; one that was idle earns no credit, for it starts
no earlier than the virtual time; nobody starves, for starts only grow.

The paper's section 3 nests such servers, and so does this queue: the first serves priority
classes (`CLASSES`), each class serves its flows, and within a flow items are first in, first out.
With equal costs and weights it is round robin.

Departures from the paper: virtual times are integers (`_SCALE` of them a unit of cost at weight
one, so that a division loses nothing that matters). At the end of a busy period, when nothing
waits and what was served last is done with (`forget`), all is forgotten, where the paper moves
the virtual time to the greatest finish: both make all equal again. A turn that could not be used
may be refunded; the member then stands where it stood before.

An item that leaves is unlinked from its flow in O(1); push and pop take O(log n) in the number of
flows. The heaps hold members, not items; an entry that its member has replaced is dropped when it
surfaces.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import chain, count
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)
M = TypeVar("M", bound="_Member")

# What the classes get of a contended budget while they all wait.
CLASSES = {"interactive": 16, "default": 4, "batch": 1}

_SCALE = 1 << 16

# A prediction looks at so many flows of a class and takes the others to be like them: with ten
# thousand flows an exact one would cost an arrival more than everything else.
_LOOKED_AT = 64


class Flow(NamedTuple):
    """Whose an item is: a client in a priority class, and the client's weight."""

    client: Hashable
    priority: str = "default"
    weight: float = 1.0


@dataclass(slots=True, eq=False)
class _Member:
    """Something served in turns; `backlog` is what it has waiting, in cost."""

    weight: float
    start: int = 0
    entry: int = 0
    backlog: int = 0

    def virtual(self, cost: int) -> int:
        """What a cost is in this member's virtual time."""
        return round(cost * _SCALE / self.weight)

    def served_by(self, instant: int, item: float = 0) -> float:
        """How much of its backlog is served by the virtual time `instant`, were it divisible
        into items of such a cost."""
        if instant < self.start:
            return 0
        return min(self.backlog, (instant - self.start) * self.weight / _SCALE + item)


class _Server(Generic[M]):
    """Start-time fair queueing over members. A member is idle when its backlog is 0."""

    __slots__ = ("_entries", "_forget", "_heap", "virtual")

    def __init__(self, forget: Callable[[M], object]) -> None:
        self._forget = forget
        self._heap: list[tuple[int, int, M]] = []
        self._entries = count(1)
        self.virtual = 0

    def wake(self, member: M) -> None:
        """Let an idle member start no earlier than now; its heap entry may still be right."""
        start = max(member.start, self.virtual)
        if not member.entry or start != member.start:
            self._place(member, start, next(self._entries))

    def next(self) -> M:
        """The busy member with the least start; idle ones that come before it are forgotten.
        Raises IndexError when nobody is busy."""
        while True:
            _, entry, member = self._heap[0]
            if entry == member.entry:
                if member.backlog:
                    return member
                member.entry = 0
                self._forget(member)
            heappop(self._heap)

    def charge(self, member: M, cost: int) -> None:
        """The member has had its turn."""
        self.virtual = member.start
        self._place(member, member.start + member.virtual(cost), next(self._entries))

    def refund(self, member: M, cost: int) -> None:
        """The member could not use its turn: it stands again where it stood, before its peers."""
        self._place(member, member.start - member.virtual(cost), -next(self._entries))

    def sample(self) -> tuple[list[M], float]:
        """Some members, early and late ones, and how many each of them stands for."""
        stride = len(self._heap) // _LOOKED_AT | 1
        some = self._heap[::stride]
        members = [member for _, entry, member in some if entry == member.entry]
        return members, len(self._heap) / (len(some) or 1)

    def _place(self, member: M, start: int, entry: int) -> None:
        """Give a member its start and a heap entry in place of the one it had."""
        member.start, member.entry = start, entry
        heappush(self._heap, (start, entry, member))


@dataclass(slots=True, eq=False)
class _Line(_Member, Generic[T]):
    """A flow's items, each with its cost."""

    key: Hashable = None
    items: OrderedDict[T, int] = field(default_factory=OrderedDict)
    # Those that go before all others, by their rank; there are few.
    first: list[tuple[int, T, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.first) + len(self.items)

    def __iter__(self) -> Iterator[T]:
        return chain((item for _, item, _ in self.first), self.items)

    def push(self, item: T, cost: int, rank: int | None) -> None:
        if rank is None:
            self.items[item] = cost
        else:
            insort(self.first, (rank, item, cost), key=itemgetter(0))

    def pop(self) -> tuple[T, int]:
        if self.first:
            _, item, cost = self.first.pop(0)
            return item, cost
        return self.items.popitem(last=False)

    def remove(self, item: T) -> int | None:
        """Unlink an item; its cost, None if it is not here."""
        for place, (_, other, cost) in enumerate(self.first):
            if other is item or other == item:
                del self.first[place]
                return cost
        return self.items.pop(item, None)

    def served_before(self, instant: int) -> float:
        """The same as `served_by`, in items as large as they are on average."""
        return self.served_by(instant, self.backlog / len(self)) if self.backlog else 0


class _Class(_Member, Generic[T]):
    """A priority class: the flows in it, and the server that serves them."""

    __slots__ = ("flows", "name", "server")

    def __init__(self, name: str) -> None:
        super().__init__(CLASSES[name])
        self.name = name
        self.flows: dict[Hashable, _Line[T]] = {}
        self.server: _Server[_Line[T]] = _Server(lambda line: self.flows.pop(line.key))

    def line(self, flow: Flow) -> _Line[T]:
        line = self.flows.get(flow.client)
        if line is None:
            line = self.flows[flow.client] = _Line(flow.weight, key=flow.client)
        line.weight = flow.weight
        return line

    def ahead(self, flow: Flow) -> float:
        """About how much of this class goes before an item that `flow` pushed now."""
        line = self.flows.get(flow.client)
        if line is None:
            line = _Line[T](flow.weight)
        begin = max(line.start, self.server.virtual) + line.virtual(line.backlog)
        some, stands_for = self.server.sample()
        served = sum(other.served_before(begin) for other in some if other is not line)
        return min(self.backlog, line.backlog + served * stands_for)


class FairQueue(Generic[T]):
    """Items with a cost (1 or more), each in a flow, leaving in fair order.

    An item is in the queue at most once. Nothing here knows time or admission.
    """

    def __init__(self) -> None:
        self._size = 0
        self.forget()

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<FairQueue {self._size} items {self.depths()}>"

    def forget(self) -> None:
        """The busy period is over: nothing waits, and what was popped last is done with."""
        assert not self._size
        self._classes: dict[str, _Class[T]] = {}
        self._server: _Server[_Class[T]] = _Server(lambda idle: self._classes.pop(idle.name))

    def push(self, item: T, flow: Flow, cost: int = 1, *, rank: int | None = None) -> None:
        """Add an item at the end of its flow; with a rank in front of it, but behind those that
        are there with a lesser one."""
        its_class = self._class(flow.priority)
        line = its_class.line(flow)
        if not its_class.backlog:
            self._server.wake(its_class)
        if not line.backlog:
            its_class.server.wake(line)
        line.push(item, cost, rank)
        self._count(its_class, line, cost, 1)

    def reckon(self, cost_of: Callable[[T], int]) -> None:
        """Give all items new costs, because what costs are counted in has changed.

        O(n). All flows and classes stand equal again, since their starts were in the old unit.
        """
        waiting = [
            (Flow(line.key, each.name, line.weight), list(line.first), list(line.items))
            for each in self._classes.values()
            for line in each.flows.values()
        ]
        self._size = 0
        self.forget()
        for flow, first, items in waiting:
            for rank, item, _ in first:
                self.push(item, flow, cost_of(item), rank=rank)
            for item in items:
                self.push(item, flow, cost_of(item))

    def peek(self) -> T:
        """The item whose turn it is; it stays. Raises IndexError when the queue is empty."""
        return next(iter(self._next()[1]))

    def pop(self) -> T:
        """Take the item whose turn it is. Raises IndexError when the queue is empty."""
        its_class, line = self._next()
        item, cost = line.pop()
        self._server.charge(its_class, cost)
        its_class.server.charge(line, cost)
        self._count(its_class, line, -cost, -1)
        return item

    def refund(self, flow: Flow, cost: int = 1) -> None:
        """Undo what a popped item cost its flow and class, because its turn was not used."""
        its_class = self._class(flow.priority)
        line = its_class.flows.get(flow.client)
        if line is not None:
            its_class.server.refund(line, cost)
        if its_class.entry:
            self._server.refund(its_class, cost)

    def remove(self, item: T, flow: Flow) -> bool:
        """Unlink an item that left; False if it is not here (any more)."""
        its_class = self._class(flow.priority)
        line = its_class.flows.get(flow.client)
        cost = None if line is None else line.remove(item)
        if line is None or cost is None:
            return False
        self._count(its_class, line, -cost, -1)
        return True

    def ahead(self, flow: Flow) -> int:
        """About how much, in cost, would be served before an item that `flow` pushed now.

        Reckoned as if items could be divided, over a sample of the flows.
        """
        its_class = self._class(flow.priority)
        mine = its_class.ahead(flow)
        begin = max(its_class.start, self._server.virtual) + its_class.virtual(round(mine))
        others = (other for other in self._classes.values() if other is not its_class)
        return round(mine + sum(other.served_by(begin) for other in others))

    def depths(self) -> dict[str, dict[Hashable, int]]:
        """How many items wait, by class and client."""
        return {
            name: {key: len(line) for key, line in each.flows.items() if line.backlog}
            for name, each in self._classes.items()
            if each.backlog
        }

    def _class(self, priority: str) -> _Class[T]:
        its_class = self._classes.get(priority)
        if its_class is None:
            its_class = self._classes[priority] = _Class(priority)
        return its_class

    def _next(self) -> tuple[_Class[T], _Line[T]]:
        its_class = self._server.next()
        return its_class, its_class.server.next()

    def _count(self, its_class: _Class[T], line: _Line[T], cost: int, items: int) -> None:
        line.backlog += cost
        its_class.backlog += cost
        self._size += items
