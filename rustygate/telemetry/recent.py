"""What happened lately, for the live page: the last exchanges.

An exchange is kept as it is, so that settling it costs no more; its fields are read when somebody
looks.
"""

from collections import deque

from rustygate.exchange import Exchange

# The exchanges that are kept.
RECENT_LIMIT = 50


class Recent:
    """The exchanges that settled last, the latest one last."""

    def __init__(self) -> None:
        self.exchanges: deque[Exchange] = deque(maxlen=RECENT_LIMIT)
        self.settle = self.exchanges.append

    def __repr__(self) -> str:
        return f"<Recent {len(self.exchanges)} exchanges>"
