"""Start-time fair queueing over entities (Goyal, Vin and Cheng, SIGCOMM 1996).

A server keeps a virtual time. Each entity (a flow, or a whole priority class) has a start tag: the
virtual time at which its next item may begin. The entity with the smallest start tag is served
next; among equal tags, the one whose last turn is longest ago. Serving it moves the virtual time
to its start tag, and moves the start tag on by the item's cost divided by the entity's weight. An
idle entity that becomes busy starts at its own start tag or at the virtual time, whichever is
later.

The gate relies on what follows from this:
- Busy entities are served in proportion to their weights, measured in cost, to within one item
  each.
- An idle entity earns no credit, because it starts no earlier than the virtual time.
- No entity starves, because start tags only grow.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any, Generic, TypeVar

from rustygate.core.backlog import Work

E = TypeVar("E", bound="Entity")

# A place in the order: a start tag, and the number that decides between equal tags.
Place = tuple[int, float]

# Virtual time units per unit of cost at weight one: a division then loses nothing that matters.
SCALE = 1 << 16

# A prediction looks at no more than this many of the flows that are served first, and assumes
# that the others are like them.
SAMPLE_SIZE = 64

# Idle entities are kept up to this number plus the number of busy ones. A flow that is forgotten
# early gains at most one item.
_MAX_IDLE = 1000

# The free space at the front of the order is released once it has this many entries and makes up
# half of the list.
_MIN_TRIM = 64


@dataclass(slots=True, eq=False)
class Entity:
    """A flow or a class, as its server sees it.

    Args:
        start_tag: the virtual time at which its next item may begin.
        sequence: decides between equal start tags; 0 while it has no place in the order.
        backlog: the cost of what it has waiting: `count` items with `tokens` model tokens.
    """

    key: Any
    weight: float
    start_tag: int = 0
    sequence: int = 0
    backlog: int = 0
    count: int = 0
    tokens: int = 0

    def virtual_cost(self, cost: int) -> int:
        """A cost in virtual time, at this entity's weight."""
        return round(cost * SCALE / self.weight)

    @property
    def total_work(self) -> Work:
        """All of its backlog."""
        return Work(self.backlog, self.count, self.tokens)

    def share_of_work(self, cost: float) -> Work:
        """As much of its backlog as has this cost, assuming that all items are alike."""
        share = min(1, cost / self.backlog) if self.backlog else 0
        return Work(share * self.backlog, share * self.count, share * self.tokens)


class FairServer(Generic[E]):
    """Serves entities in fair order. An entity is idle when its backlog is 0.

    `_order` holds (start tag, sequence, entity), sorted, from index `_first` on.
    """

    __slots__ = ("_entities", "_first", "_order", "_sequence", "busy", "virtual_time")

    def __init__(self, entities: dict[Any, E]) -> None:
        """`entities` maps keys to entities; the server deletes those that it forgets."""
        self._entities = entities
        self._order: list[tuple[Any, ...]] = []
        self._first = 0
        self._sequence = count(1)
        self.virtual_time = self.busy = 0

    def __len__(self) -> int:
        """The number of entities in the order, busy or idle."""
        return len(self._order) - self._first

    def mark_busy(self, entity: E) -> None:
        """An idle entity gets work. It starts no earlier than the virtual time."""
        self.busy += 1
        start_tag, sequence = self.place_of(entity)
        if sequence == inf:
            self._insert(entity, start_tag, next(self._sequence))

    def mark_idle(self) -> None:
        """An entity ran out of work. If too many are idle, all idle ones are forgotten."""
        self.busy -= 1
        if len(self) > 2 * self.busy + _MAX_IDLE:
            entries, self._order, self._first = self._order[self._first :], [], 0
            for entry in entries:
                if entry[2].backlog:
                    self._order.append(entry)
                else:
                    self._forget(entry[2])

    def next(self) -> E:
        """The busy entity whose turn it is. Idle ones before it are forgotten.

        Raises IndexError when no entity is busy.
        """
        while True:
            entity: E = self._order[self._first][2]
            if entity.backlog:
                return entity
            self._take_out(entity)
            self._forget(entity)

    def charge(self, entity: E, cost: int) -> None:
        """Move the virtual time and the entity's start tag on: it was served."""
        self.virtual_time = entity.start_tag
        start_tag = entity.start_tag + entity.virtual_cost(cost)
        self._insert(entity, start_tag, next(self._sequence))

    def refund(self, entity: E, cost: int) -> None:
        """Undo a charge for a turn that was not used. The entity goes before equal tags."""
        start_tag = entity.start_tag - entity.virtual_cost(cost)
        self._insert(entity, start_tag, -next(self._sequence))

    def place_of(self, entity: E) -> Place:
        """The place that an entity has, or would get behind all with the same start tag."""
        if entity.backlog or (entity.sequence and entity.start_tag >= self.virtual_time):
            return entity.start_tag, entity.sequence
        return max(entity.start_tag, self.virtual_time), inf

    def place_after_backlog(self, entity: E, place: Place) -> Place:
        """The place that an entity now at `place` has once its backlog is served."""
        return (place[0] + entity.virtual_cost(entity.backlog), inf) if entity.backlog else place

    def count_before(self, place: Place) -> int:
        """How many entities have their turn before a place."""
        return bisect_left(self._order, place, lo=self._first) - self._first

    def sample(self, count_before: int) -> list[E]:
        """Some of the first `count_before` entities, evenly spaced."""
        stride = count_before // SAMPLE_SIZE + 1
        end = self._first + count_before
        return [entity for _, _, entity in self._order[self._first : end : stride]]

    def least_service_before(self, busy: E, other: E) -> float:
        """The least service, in cost at weight one, that a busy entity gets before the turn of
        another one that becomes busy now."""
        start_tag, sequence = self.place_of(other)
        if (busy.start_tag, busy.sequence) > (start_tag, sequence):
            return 0
        lead = (start_tag - busy.start_tag) / SCALE
        return max(busy.backlog / busy.count / busy.weight, lead)

    def _insert(self, entity: E, start_tag: int, sequence: int) -> None:
        """Put an entity into the order, or move it to another place."""
        if entity.sequence:
            self._take_out(entity)
        entity.start_tag, entity.sequence = start_tag, sequence
        insort(self._order, (start_tag, sequence, entity), lo=self._first)

    def _take_out(self, entity: E) -> None:
        index = bisect_left(self._order, (entity.start_tag, entity.sequence), lo=self._first)
        if index > self._first:
            del self._order[index]
            return
        self._first += 1
        if self._first >= _MIN_TRIM and 2 * self._first >= len(self._order):
            del self._order[: self._first]
            self._first = 0

    def _forget(self, entity: E) -> None:
        entity.sequence = 0
        del self._entities[entity.key]
