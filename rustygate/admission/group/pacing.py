"""When a member calls its group's store next.

While nothing waits in the group, a call for a newcomer is made at once. While something waits,
calls are about as far apart as the last reply says, at instants that vary, so that the members do
not all call at the same time. A member with waiters calls at least every `DEMAND_HEARTBEAT`,
because the group forgets the demand of a silent member, and any other at least every `HEARTBEAT`.
"""

from enum import IntEnum
from random import Random

from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.group_scheduler import DEMAND_LEASE, MS

# The time between calls until a reply says otherwise (`core.group_load`).
SPACING = 21 * MS

# Even with this variation, that time is shorter than the scheduler looks ahead.
_VARIATION = 0.15

DEMAND_HEARTBEAT = DEMAND_LEASE // 2
HEARTBEAT = SECOND // 2

# At most 56 calls in any second: 48, and a few at once after a quiet time.
_PERIOD, _BURST = SECOND // 48, 8


class Urgency(IntEnum):
    """How soon something must be reported to the group."""

    NONE = 0
    LATER = 1
    SPACED = 2
    AT_ONCE = 3


class Pacing:
    """The instants of a member's calls, in nanoseconds.

    Attributes:
        spacing: the time between calls while something waits, on average.
    """

    def __init__(self, now: int, random: Random) -> None:
        self._random = random
        self._bucket = TokenBucket(_PERIOD, _BURST)
        self._last = now
        self.spacing = SPACING
        self._vary()

    def space(self, spacing: int) -> None:
        """Set how far apart calls are; those made at once keep to it on average."""
        if spacing != self.spacing:
            self.spacing = spacing
            self._bucket.resize(self._last, _PERIOD * spacing // SPACING, _BURST)

    def sent(self, now: int) -> None:
        """A call is made."""
        self._bucket.take(now)
        self._last = now
        self._vary()

    def due(self, now: int, urgency: Urgency, *, waiting: bool, grants_at: int | None) -> int:
        """The instant of the next call.

        Args:
            waiting: whether the member has waiters.
            grants_at: the instant from which a call can bring a grant; None if that does not
                depend on time alone.
        """
        if waiting and urgency < Urgency.SPACED:
            urgency = Urgency.LATER if grants_at is not None else Urgency.SPACED
        due = self._last + self._interval(urgency)
        if waiting and grants_at is not None and urgency is Urgency.LATER:
            spaced = self._last + self._interval(Urgency.SPACED)
            due = min(due, max(spaced, grants_at + self._offset))
        return max(due, now + self._bucket.wait(now))

    def _interval(self, urgency: Urgency) -> int:
        spaced = int(self.spacing * self._factor)
        if urgency is Urgency.SPACED:
            return spaced
        if urgency is Urgency.LATER:
            return max(spaced, int(DEMAND_HEARTBEAT * min(1, self._factor)))
        return 0 if urgency is Urgency.AT_ONCE else int(HEARTBEAT * min(1, self._factor))

    def _vary(self) -> None:
        self._factor = 1 + _VARIATION * (2 * self._random.random() - 1)
        self._offset = int(2 * MS * self._random.random())
