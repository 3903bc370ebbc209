"""The pace at which requests begin: a few in each turn of the event loop.

What has arrived when a turn begins is handled in that turn. If hundreds of requests arrive at
once, the events of streams would wait until all of them have been sent upstream.
"""

import asyncio
from collections import deque

# How many requests begin in one turn. They take a millisecond.
REQUESTS_PER_TURN = 16


class RequestPace:
    """Lets requests begin in the order in which they ask."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # How many began in this turn; while there are fewer than the limit, also earlier ones.
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<RequestPace {len(self)} waiting>"

    def wait_for_turn(self) -> "asyncio.Future[None] | None":
        """What a request waits for; None if it may begin at once."""
        if self._begun == REQUESTS_PER_TURN:
            self._waiting.append(turn := self._loop.create_future())
            return turn
        self._begin()
        return None

    def _begin(self) -> None:
        self._begun += 1
        if self._begun == REQUESTS_PER_TURN:
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < REQUESTS_PER_TURN:
            turn = self._waiting.popleft()
            # The client may have left.
            if not turn.done():
                turn.set_result(None)
                self._begin()
