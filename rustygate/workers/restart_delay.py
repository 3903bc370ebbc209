"""How long to wait before a worker that ended is replaced: longer each time, if they end soon."""

# The first delay, and the longest.
FIRST_S, LONGEST_S = 0.1, 30.0

# How long a worker must run to count as healthy.
HEALTHY_S = 10.0


class RestartDelay:
    """The delays before the processes that replace one worker."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def next_s(self, age_s: float) -> float:
        """The delay after the end of a process of this age."""
        delay_s = FIRST_S if age_s >= HEALTHY_S else self._next_s
        self._next_s = min(2 * delay_s, LONGEST_S)
        return delay_s
