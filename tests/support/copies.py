"""Deep copies of schedulers, such as a server's state before a failover."""

import copyreg
from copy import deepcopy
from itertools import count

from rustygate.core.group_scheduler import GroupScheduler


def _reduced(numbers: "count[int]") -> "tuple[type[count[int]], tuple[int]]":
    """How a counter is copied. Python 3.14 no longer does that itself, 3.12 warns of it."""
    return count, (int(repr(numbers).removeprefix("count(").removesuffix(")")),)


copyreg.pickle(count, _reduced)


def copy_of(scheduler: GroupScheduler) -> GroupScheduler:
    """A scheduler in the same state, which shares nothing with the original."""
    return deepcopy(scheduler)
