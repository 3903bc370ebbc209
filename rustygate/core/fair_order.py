"""The fair order of waiting flows: two levels of start-time fair queueing, kept as tags.

The algorithm is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), nested as in its
section 3: one server orders the priority classes (`CLASS_WEIGHTS`), one in each class orders
its flows. A server keeps a virtual time. Each class and flow has a start tag: the virtual time at
which its next item may begin. The smallest start tag is next; among equal tags, the one whose last
turn is longest ago. A turn moves the virtual time to the start tag, and the start tag on by the
item's cost divided by the weight. With equal costs and weights this is round robin.

The scheduler relies on these properties:
- While they wait, flows are served in proportion to their weights, measured in cost, to within one
  item each.
- An idle flow earns no credit: it starts no earlier than the virtual time.
- No flow starves, because start tags only grow.

One departure from the paper: at the end of a busy period all tags are forgotten, where the paper
moves the virtual time to the largest finish tag. Both make all flows equal again.

Tags are floats. An error of one unit in 2**53 does not matter to a share.
"""

from itertools import compress, count
from operator import attrgetter

# The shares of a contended budget while all classes wait; the best class first.
CLASS_WEIGHTS = {"interactive": 16, "default": 4, "batch": 1}
CLASS_NAMES = tuple(CLASS_WEIGHTS)
WEIGHTS = tuple(CLASS_WEIGHTS.values())
CLASS_INDEX = {name: index for index, name in enumerate(CLASS_NAMES)}
CLASSES = range(len(WEIGHTS))

# Numbers from here on are later than all that were counted so far.
LATER = 1 << 60

_tag = attrgetter("tag")


class Place:
    """A place in an order: a start tag, and the number of the last turn, which decides between
    equal tags; 0 before the first. `position` is the index in a list of those that wait."""

    __slots__ = ("position", "tag", "turn")

    def __init__(self) -> None:
        self.tag = 0.0
        self.turn = self.position = 0


class FairOrder:
    """One order: the places of the classes, and the virtual times of both levels.

    Attributes:
        time: the virtual time of the server over the classes.
        times: the virtual times of the servers over each class's flows.
    """

    __slots__ = ("_turns", "classes", "time", "times")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all classes, at the end of a busy period."""
        self._turns = count(1)
        self.time = 0.0
        self.times = [0.0 for _ in CLASSES]
        self.classes = [Place() for _ in CLASSES]

    def copy(self) -> "FairOrder":
        """The same order, whose next turns come after all turns of this one."""
        copy = FairOrder()
        copy._turns = count(LATER)
        copy.time, copy.times = self.time, self.times[:]
        for place, other in zip(copy.classes, self.classes, strict=True):
            place.tag, place.turn = other.tag, other.turn
        return copy

    def enter_class(self, index: int) -> None:
        """A class that did not wait gets its first item."""
        self._enter(self.classes[index], self.time)

    def enter(self, index: int, place: Place) -> None:
        """A flow of a class that did not wait gets its first item."""
        self._enter(place, self.times[index])

    def _enter(self, place: Place, time: float) -> None:
        if not place.turn or place.tag < time:
            place.tag = max(place.tag, time)
            place.turn = next(self._turns)

    def charge(self, index: int, place: Place, weight: float, cost: float) -> None:
        """A flow had a turn of this cost, in the order."""
        of_class = self.classes[index]
        start = max(of_class.tag, self.time)
        self.time = start
        of_class.tag = start + cost / WEIGHTS[index]
        of_class.turn = next(self._turns)
        start = max(place.tag, self.times[index])
        self.times[index] = start
        place.tag = start + cost / weight
        place.turn = next(self._turns)

    def charge_ahead(
        self, index: int, place: Place, weight: float, cost: float, *, time: float, first: float
    ) -> None:
        """The same for a turn that another order gave, perhaps ahead of others in this one.

        Args:
            time: the smallest tag of the classes that wait.
            first: the smallest tag of the flows that wait in the class.
        """
        of_class = self.classes[index]
        of_class.tag = max(of_class.tag, self.time) + cost / WEIGHTS[index]
        of_class.turn = next(self._turns)
        self.time = max(self.time, time)
        place.tag = max(place.tag, self.times[index]) + cost / weight
        place.turn = next(self._turns)
        self.times[index] = max(self.times[index], first)

    def refund(self, index: int, place: Place, weight: float, cost: float) -> None:
        """Undo a charge for a turn that was not used: the flow is before equal tags."""
        of_class = self.classes[index]
        of_class.tag -= cost / WEIGHTS[index]
        of_class.turn = -next(self._turns)
        place.tag -= cost / weight
        place.turn = -next(self._turns)

    def by_turn(self, waiting: list[int]) -> list[int]:
        """The classes with waiting items, in the order of their turns.

        Args:
            waiting: how many items wait in each class.
        """
        classes = list(compress(CLASSES, waiting))
        if len(classes) > 1:
            classes.sort(key=self._class_place)
        return classes

    def first_tag(self, waiting: list[int]) -> float:
        """The smallest tag of the classes with waiting items."""
        return min(map(_tag, compress(self.classes, waiting)), default=0.0)

    def is_before(self, index: int, other: int) -> bool:
        """Whether a class has its turn before another."""
        return self._class_place(index) < self._class_place(other)

    def _class_place(self, index: int) -> tuple[float, int]:
        place = self.classes[index]
        return place.tag, place.turn
