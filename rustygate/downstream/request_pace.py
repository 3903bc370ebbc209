"""The pace at which requests begin: a few in each turn of the event loop.

What has arrived when a turn begins is handled in that turn. If hundreds of requests arrive at
once, the events of streams would wait until all of them have been sent upstream.
"""

import asyncio
from collections import deque

# How many requests begin in one turn: as many as take a millisecond or, if that is more, a share
# of those that wait. A turn in which hundreds of streams have events is long itself: with the
# number alone, the last of a thousand requests would wait longer.
REQUESTS_PER_TURN = 16
SHARE_PER_TURN = 0.1


class RequestPace:
    """Lets requests begin in the order in which they ask."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # How many may begin in this turn, and have; below the limit, also those of earlier turns.
        self._limit, self._begun = REQUESTS_PER_TURN, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<RequestPace {len(self)} waiting>"

    def wait_for_turn(self) -> "asyncio.Future[None] | None":
        """What a request waits for; None if it may begin at once."""
        if self._begun == self._limit:
            self._waiting.append(turn := self._loop.create_future())
            return turn
        self._begin()
        return None

    def _begin(self) -> None:
        self._begun += 1
        if self._begun == self._limit:
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._limit = max(REQUESTS_PER_TURN, int(len(self) * SHARE_PER_TURN))
        self._begun = 0
        while self._waiting and self._begun < self._limit:
            turn = self._waiting.popleft()
            # The client may have left.
            if not turn.done():
                turn.set_result(None)
                self._begin()
