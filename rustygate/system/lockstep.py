"""Exchanges that continue in the same turn of the event loop write one right after another.

If each wrote as soon as it could, the process at the other end would handle that write and fall
asleep again before the next one, so each write would pay for waking it. Together, they wake it
once. At 32 connections, this saves a quarter of a request's CPU time.
"""

import asyncio


class Lockstep:
    """Knows whose data has arrived, and lets tasks wait for each other before they write.

    Attributes:
        expect: called with a connection when data arrives that its task waits for.
        arrive: called with the connection when its task continues or ends.
    """

    def __init__(self) -> None:
        self._expected: set[object] = set()
        # Methods of the set itself, because methods of this class would be slower.
        self.expect = self._expected.add
        self.arrive = self._expected.discard
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<Lockstep {len(self._expected)} expected>"

    @property
    def has_others(self) -> bool:
        """Whether the next write should wait for others."""
        # While one waits, so do later ones, so that none overtakes it.
        return self._waiting > 0 or bool(self._expected)

    async def wait_for_others(self) -> None:
        """Wait a turn, in which the other tasks get as far."""
        self._waiting += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._waiting -= 1
