"""Exchanges that continue in the same turn of the event loop write one right after another.

If each wrote as soon as it could, the process at the other end would handle that write and fall
asleep again before the next one, so each write would pay for waking it. Together, they wake it
once. At 32 connections, this saves a fifth of a request's CPU time.
"""

import asyncio


class Lockstep:
    """What continues in this turn of the event loop.

    Attributes:
        expect: called with a connection when data has arrived that its task waits for.
        arrive: called with it when the task continues, or never will.
    """

    def __init__(self) -> None:
        self._expected: set[object] = set()
        # Methods of the set itself, because methods of this class would be slower.
        self.expect = self._expected.add
        self.arrive = self._expected.discard
        self._has_waiting = False

    def __repr__(self) -> str:
        return f"<Lockstep {len(self._expected)} expected>"

    @property
    def has_others(self) -> bool:
        """Whether the next write should wait for others."""
        # Once one has waited, the others do as well, so that none overtakes it.
        return self._has_waiting or bool(self._expected)

    async def wait_for_others(self) -> None:
        """Wait until all that continue in this turn have come as far."""
        self._has_waiting = True
        try:
            await asyncio.sleep(0)
        finally:
            self._has_waiting = False
