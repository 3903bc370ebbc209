"""Samples of numbers, taken at the end of each of the last intervals.

Events are counted as plain integers, so a history does not make counting slower.
"""

from collections import deque
from itertools import pairwise


class History:
    """The samples of a number at the ends of the last intervals, oldest first."""

    __slots__ = ("_samples",)

    def __init__(self, length: int) -> None:
        """`length`: how many intervals are kept. Those before the first sample count as 0."""
        self._samples: deque[int] = deque([0] * length, length)

    def sample(self, value: int, intervals: int = 1) -> None:
        """The value at the end of an interval, or of several that nobody sampled."""
        self._samples.extend([value] * min(intervals, len(self._samples)))

    def values(self) -> list[int]:
        """All samples, oldest first."""
        return list(self._samples)


class CountHistory:
    """How much a count has grown in each of the last intervals.

    The count itself is kept by its owner, who passes its value to each method.
    """

    __slots__ = ("_samples",)

    def __init__(self, length: int, count: int = 0) -> None:
        """`count`: the value at the start."""
        self._samples: deque[int] = deque([count] * (length + 1), length + 1)

    def sample(self, count: int, intervals: int = 1) -> None:
        """The count at the end of an interval; nothing is known of others before that."""
        missed = min(intervals - 1, len(self._samples) - 1)
        self._samples.extend([self._samples[-1]] * missed)
        self._samples.append(count)

    def steps(self) -> list[int]:
        """The growth in each interval, oldest first."""
        return [later - earlier for earlier, later in pairwise(self._samples)]

    def growth(self, count: int, intervals: int) -> int:
        """The growth in the last intervals, and since the last sample."""
        return count - self._samples[-1 - min(intervals, len(self._samples) - 1)]
