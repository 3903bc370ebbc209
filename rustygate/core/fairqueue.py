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

An item that leaves is unlinked from its flow in O(1); push and pop look up O(log n) in the number
of flows, in a sorted list of members, not of items.

How much goes before a newcomer is told without looking at all flows (`ahead`). Those that have a
turn before it are looked at if they are few, or a sample of them for the first item of a flow.
An item further back in its flow is told from sums: the flow is passed by the first items of those
whose turn comes before, of which a sample is looked at, and by as much of each as of its own, by
weight, as far as they have that much. Flows of about the same depth are summed up together
(`_Pool`).
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from math import inf
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)
M = TypeVar("M", bound="_Member")

# What the classes get of a contended budget while they all wait.
CLASSES = {"interactive": 16, "default": 4, "batch": 1}

_SCALE = 1 << 16

# So many members that are idle are remembered, and as many again as are busy. A flow that is
# forgotten early gains one item at most.
_IDLE = 1000

# A prediction looks at so many of the flows whose turn comes first, and takes others to be alike.
_LOOKED_AT = 64

# A list is rid of what was taken from its front when that is so much, and half of it.
_TRIMMED = 64


class Flow(NamedTuple):
    """Whose an item is: a client in a priority class, and the client's weight."""

    client: Hashable
    priority: str = "default"
    weight: float = 1.0


class Size(NamedTuple):
    """What an item counts for: its cost (1 or more) in turns, and the model's tokens it takes."""

    cost: int = 1
    tokens: int = 0


_ONE = Size()


class Ahead(NamedTuple):
    """About how much is served before an item: in cost, in items, and in the model's tokens."""

    cost: float = 0
    items: float = 0
    tokens: float = 0

    def after(self, size: Size) -> "Ahead":
        """The same behind one item more."""
        return Ahead(self.cost + size.cost, self.items + 1, self.tokens + size.tokens)


_NOTHING = Ahead()


@dataclass(slots=True, eq=False)
class _Member:
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
        return round(cost * _SCALE / self.weight)

    @property
    def whole(self) -> Ahead:
        """All of its backlog."""
        return Ahead(self.backlog, self.count, self.tokens)

    def part(self, cost: float) -> Ahead:
        """So much of its backlog, taken to be mixed evenly."""
        share = min(1, cost / self.backlog) if self.backlog else 0
        return Ahead(share * self.backlog, share * self.count, share * self.tokens)


class _Server(Generic[M]):
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
        stride = before // _LOOKED_AT + 1
        return [each for _, _, each in self._order[self._first : self._first + before : stride]]

    def lead(self, one: M, other: M) -> float:
        """How much a busy member has served at least, in cost at weight one, before it is the
        turn of another, if that asks now."""
        start, entry = self.place_of(other)
        if (one.start, one.entry) > (start, entry):
            return 0
        return max(one.backlog / one.count / one.weight, (start - one.start) / _SCALE)

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


@dataclass(slots=True, eq=False)
class _Pool:
    """Sums over flows of about the same depth."""

    flows: int = 0
    weight: float = 0
    backlog: int = 0
    count: int = 0
    tokens: int = 0

    def add(self, line: "_Line[Any]", sign: int = 1) -> None:
        """Add a busy flow, or take it out again unchanged."""
        self.flows += sign
        self.weight += sign * line.weight
        self.backlog += sign * line.backlog
        self.count += sign * line.count
        self.tokens += sign * line.tokens

    def until(self, depth: float, due: Ahead = _NOTHING, begun: Ahead = _NOTHING) -> Ahead:
        """What its flows have served until one of such a depth has: the first items of those
        whose turn comes before its first one, and at least those before its last."""
        passed = depth * self.weight
        if begun.cost > due.cost + passed:
            due, passed = begun, 0
        if due.cost + passed >= self.backlog:
            return Ahead(self.backlog, self.count, self.tokens)
        rest = passed / self.backlog
        return Ahead(
            due.cost + passed, due.items + rest * self.count, due.tokens + rest * self.tokens
        )


@dataclass(slots=True, eq=False)
class _Line(_Member, Generic[T]):
    """A flow's items, each with its size."""

    pool: int = 0
    items: OrderedDict[T, Size] = field(default_factory=OrderedDict)
    # Those that go before all others, by their rank; there are few.
    first: list[tuple[int, T, Size]] = field(default_factory=list)

    def __iter__(self) -> Iterator[T]:
        return chain((item for _, item, _ in self.first), self.items)

    @property
    def head(self) -> Ahead:
        """Its first item."""
        return _NOTHING.after(self.first[0][2] if self.first else next(iter(self.items.values())))

    def push(self, item: T, size: Size, rank: int | None) -> None:
        if rank is None:
            self.items[item] = size
        else:
            insort(self.first, (rank, item, size), key=itemgetter(0))

    def pop(self) -> tuple[T, Size]:
        if self.first:
            _, item, size = self.first.pop(0)
            return item, size
        return self.items.popitem(last=False)

    def until(self, end: int, place: tuple[int, float]) -> Ahead:
        """What it serves by its server's time `end`, and then too if it comes before `place`:
        its first item, and then as many as there are of an average cost."""
        passed = (end - self.start) * self.weight * self.count / _SCALE
        turns = passed // self.backlog + 1
        if passed and not passed % self.backlog and (self.start, self.entry) > place:
            turns -= 1
        if turns > 1:
            return self.part(turns * self.backlog / self.count)
        return self.head

    def remove(self, item: T) -> Size | None:
        """Unlink an item; its size, None if it is not here."""
        size = self.items.pop(item, None)
        if size is None:
            for place, (_, other, its_size) in enumerate(self.first):
                if other is item or other == item:
                    del self.first[place]
                    return its_size
        return size


class _Class(_Member, Generic[T]):
    """A priority class: the flows in it, the server that serves them, and their pools."""

    __slots__ = ("flows", "pools", "server")

    def __init__(self, name: str) -> None:
        super().__init__(name, CLASSES[name])
        self.flows: dict[Hashable, _Line[T]] = {}
        self.server: _Server[_Line[T]] = _Server(self.flows)
        self.pools: dict[int, _Pool] = {}

    def line(self, flow: Flow) -> _Line[T]:
        line = self.flows.get(flow.client)
        if line is None:
            line = self.flows[flow.client] = _Line(flow.client, flow.weight)
        elif line.weight != flow.weight:
            self._leave_pool(line)
            line.weight = flow.weight
            self._join_pool(line)
        return line

    def add(self, line: _Line[T], size: Size, sign: int) -> None:
        """Count an item that came to a flow, or left it."""
        self._leave_pool(line)
        for member in (line, self):
            member.backlog += sign * size.cost
            member.count += sign
            member.tokens += sign * size.tokens
        self._join_pool(line)

    def ahead(self, flow: Flow) -> Ahead:
        """About how much of this class goes before an item that `flow` pushed now."""
        line = self.flows.get(flow.client)
        if line is None:
            line = _Line(flow.client, flow.weight)
        server = self.server
        place = server.place_of(line)
        end = server.end_of(line, place)
        begun = server.before(end)
        if begun > _LOOKED_AT and line.backlog:
            # Of those whose turn comes after its last item, none gets anything.
            depth = begun / len(server) * line.backlog / line.weight
            heads = self._heads(begun, place)
            return _total(
                pool.until(depth, *heads.get(number, (_NOTHING, _NOTHING)))
                for number, pool in self.pools.items()
            )
        some = server.sample(begun)
        parts = [
            other.until(end[0], place) for other in some if other.backlog and other is not line
        ]
        others = _total(parts, begun / (len(some) or 1))
        return _total([others, line.whole])

    def first(self, cost: float) -> Ahead:
        """So much of what it has waiting, as its flows share it."""
        pools = [pool for _, pool in sorted(self.pools.items())]
        weight, depth = sum(pool.weight for pool in pools), 0.0
        for pool in pools:
            depth = cost / weight
            if pool.backlog > depth * pool.weight:
                break
            cost -= pool.backlog
            weight -= pool.weight
        return _total(pool.until(depth) for pool in pools)

    def _heads(self, begun: int, place: tuple[int, float]) -> dict[int, tuple[Ahead, Ahead]]:
        """The first items of those of so many flows whose turn comes before a place, and of all
        of them, by pool, as a sample tells."""
        due: dict[int, list[Ahead]] = {}
        all_of: dict[int, list[Ahead]] = {}
        some = self.server.sample(begun)
        for other in some:
            if other.backlog:
                all_of.setdefault(other.pool, []).append(other.head)
                if (other.start, other.entry) < place:
                    due.setdefault(other.pool, []).append(other.head)
        times = begun / len(some)
        return {
            number: (_total(due.get(number, ()), times), _total(heads, times))
            for number, heads in all_of.items()
        }

    def _leave_pool(self, line: _Line[T]) -> None:
        if line.backlog:
            pool = self.pools[line.pool]
            pool.add(line, -1)
            if not pool.flows:
                del self.pools[line.pool]

    def _join_pool(self, line: _Line[T]) -> None:
        if line.backlog:
            # Two pools for each power of two: what is averaged differs by less than a half.
            line.pool = (int(line.backlog / line.weight) ** 2).bit_length()
            pool = self.pools.get(line.pool)
            if pool is None:
                pool = self.pools[line.pool] = _Pool()
            pool.add(line)


def _total(parts: Iterable[Ahead], times: float = 1) -> Ahead:
    cost = items = tokens = 0.0
    for part in parts:
        cost += part.cost
        items += part.items
        tokens += part.tokens
    return Ahead(cost * times, items * times, tokens * times)


class FairQueue(Generic[T]):
    """Items of a size, each in a flow, leaving in fair order.

    An item is in the queue at most once. Nothing here knows time or admission.
    """

    def __init__(self) -> None:
        self._size = 0
        self._begin()

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<FairQueue {self._size} items {self.depths()}>"

    def forget(self) -> None:
        """The busy period is over: nothing waits, and what was popped last is done with."""
        assert not self._size
        if self._classes or self._server.virtual:
            self._begin()

    def _begin(self) -> None:
        self._classes: dict[str, _Class[T]] = {}
        self._server = _Server(self._classes)

    def push(self, item: T, flow: Flow, size: Size = _ONE, *, rank: int | None = None) -> None:
        """Add an item at the end of its flow; with a rank in front of it, but behind those that
        are there with a lesser one."""
        its_class = self._class(flow.priority)
        line = its_class.line(flow)
        if not its_class.backlog:
            self._server.wake(its_class)
        if not line.backlog:
            its_class.server.wake(line)
        line.push(item, size, rank)
        self._count(its_class, line, size, 1)

    def reckon(self, size_of: Callable[[T], Size]) -> None:
        """Give all items new sizes, because what costs are counted in has changed.

        O(n). All flows and classes stand equal again, since their starts were in the old unit.
        """
        waiting = [
            (Flow(line.key, each.key, line.weight), list(line.first), list(line.items))
            for each in self._classes.values()
            for line in each.flows.values()
        ]
        self._size = 0
        self.forget()
        for flow, first, items in waiting:
            for rank, item, _ in first:
                self.push(item, flow, size_of(item), rank=rank)
            for item in items:
                self.push(item, flow, size_of(item))

    def peek(self) -> T:
        """The item whose turn it is; it stays. Raises IndexError when the queue is empty."""
        return next(iter(self._next()[1]))

    def pop(self) -> T:
        """Take the item whose turn it is. Raises IndexError when the queue is empty."""
        its_class, line = self._next()
        item, size = line.pop()
        self._server.charge(its_class, size.cost)
        its_class.server.charge(line, size.cost)
        self._left(its_class, line, size)
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
        size = None if line is None else line.remove(item)
        if line is None or size is None:
            return False
        self._left(its_class, line, size)
        return True

    def waiting(self) -> Ahead:
        """All there is: more cannot be ahead of anybody."""
        return _total(each.whole for each in self._classes.values())

    def ahead(self, flow: Flow) -> Ahead:
        """About how much would be served before an item that `flow` pushed now."""
        if not self._size:
            return Ahead()
        its_class = self._class(flow.priority)
        mine = its_class.ahead(flow)
        depth = mine.cost / its_class.weight
        parts = [mine]
        for other in self._classes.values():
            if other is not its_class and other.backlog:
                lead = self._server.lead(other, its_class)
                parts.append(other.first((lead + depth) * other.weight))
        return Ahead(*map(min, _total(parts), self.waiting()))

    def depths(self) -> dict[str, dict[Hashable, int]]:
        """How many items wait, by class and client."""
        return {
            name: {key: line.count for key, line in each.flows.items() if line.count}
            for name, each in self._classes.items()
            if each.count
        }

    def _class(self, priority: str) -> _Class[T]:
        its_class = self._classes.get(priority)
        if its_class is None:
            its_class = self._classes[priority] = _Class(priority)
        return its_class

    def _next(self) -> tuple[_Class[T], _Line[T]]:
        its_class = self._server.next()
        return its_class, its_class.server.next()

    def _left(self, its_class: _Class[T], line: _Line[T], size: Size) -> None:
        """Count an item that was popped or removed."""
        self._count(its_class, line, size, -1)
        if not line.backlog:
            its_class.server.rest()
        if not its_class.backlog:
            self._server.rest()

    def _count(self, its_class: _Class[T], line: _Line[T], size: Size, sign: int) -> None:
        self._size += sign
        its_class.add(line, size, sign)
