"""What each of several processes uses of their common limits, in memory that all of them map.

Each process writes only its own numbers, so they need no lock. A process that is to take the last
place counts itself first and then looks at the total, so two never take it both.
"""

import mmap
import os
from array import array
from typing import NamedTuple

from rustygate.system.memory_file import new_memory_file

# Bytes of a number. An aligned one is read and written whole.
_SIZE = 8


class Count:
    """What this process uses of a limit: `own`, one of the numbers of all processes."""

    __slots__ = ("_numbers", "_place")

    def __init__(self, numbers: "memoryview[int] | array[int]", place: int) -> None:
        self._numbers = numbers
        self._place = place

    def __repr__(self) -> str:
        return f"<Count {self.own} of {self.total}>"

    def __len__(self) -> int:
        """How many processes there are."""
        return len(self._numbers)

    @property
    def own(self) -> int:
        return self._numbers[self._place]

    @own.setter
    def own(self, number: int) -> None:
        self._numbers[self._place] = number

    @property
    def total(self) -> int:
        """What all processes use."""
        return sum(self._numbers)


def lone_count() -> Count:
    """The count of a process that shares its limit with no other."""
    return Count(array("q", [0]), 0)


class Counts(NamedTuple):
    """The counts of one process.

    Attributes:
        connections: open connections from clients.
        body_bytes: bytes of buffered request bodies.
        viewers: viewers of the live page.
    """

    connections: Count
    body_bytes: Count
    viewers: Count

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return len(self.connections)

    def clear(self) -> None:
        """The process has ended."""
        for count in self:
            count.own = 0


def lone_counts() -> Counts:
    """The counts of a process that shares its limits with no other."""
    return Counts(lone_count(), lone_count(), lone_count())


class SharedCounts:
    """The counts of all processes.

    Attributes:
        descriptor: of the file that other processes open with `SharedCounts(descriptor)`.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._numbers = memoryview(mmap.mmap(descriptor, 0)).cast("q")

    @classmethod
    def create(cls, processes: int) -> "SharedCounts":
        descriptor = new_memory_file("rustygate-counts")
        os.ftruncate(descriptor, _SIZE * len(Counts._fields) * processes)
        return cls(descriptor)

    def of(self, number: int) -> Counts:
        """The counts of a process; the first one's number is 0."""
        processes = len(self._numbers) // len(Counts._fields)
        starts = range(0, len(self._numbers), processes)
        return Counts(
            *(Count(self._numbers[start : start + processes], number) for start in starts)
        )

    def close(self) -> None:
        """Close the descriptor; the counts can still be used."""
        os.close(self.descriptor)
