"""The last exchanges, for the live page.

The exchanges themselves are kept, so that settling costs nothing more. Their fields are read when
the page is open.
"""

from collections import deque

from rustygate.exchange import Exchange

# How many exchanges are kept.
RECENT_LIMIT = 50


class Recent:
    """The exchanges that settled last, oldest first."""

    def __init__(self) -> None:
        self.exchanges: deque[Exchange] = deque(maxlen=RECENT_LIMIT)
        self.settle = self.exchanges.append

    def __repr__(self) -> str:
        return f"<Recent {len(self.exchanges)} exchanges>"
