"""How late timers are: a measure of how busy the machine is while a test runs."""

import asyncio

_INTERVAL_S = 0.005

# Being late for less time costs nothing.
_NO_STALL_S = 0.01


class Lateness:
    """By how much timers of this process are late while `watch` runs.

    Attributes:
        worst_s: the most that one was late.
        stalled_s: the sum, without what costs nothing.
    """

    def __init__(self) -> None:
        self.worst_s = self.stalled_s = 0.0

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _INTERVAL_S
            await asyncio.sleep(_INTERVAL_S)
            late = loop.time() - due
            self.worst_s = max(self.worst_s, late)
            self.stalled_s += max(0.0, late - _NO_STALL_S)
