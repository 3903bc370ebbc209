"""How many processors this process may use."""

import os
from math import ceil
from pathlib import Path

# The control group's limit of a container or service: microseconds of processor time in each
# period, such as `200000 100000`, or `max` (cgroup v2).
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def available_cpus() -> int:
    """The processors that this process may run on, at most as many as its CPU limit is worth."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        # Not on Linux.
        count = os.cpu_count() or 1
    return max(1, min(count, _cpu_limit() or count))


def _cpu_limit() -> int | None:
    """The limit in processors, rounded up; None if there is none."""
    try:
        quota, period = _CPU_LIMIT.read_text().split()
        return ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return None
