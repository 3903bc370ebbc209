"""Which lanes share one pace, because upstream seems to limit them together.

Many upstreams that report no limits count all requests of a key, whatever their model. A lane
learns that limit only from its own refusals, so lanes that each learn on their own exceed it
together. A lane joins the pace of others when it is refused twice with nothing accepted in
between, while the others had requests accepted: a limit of its own would have let something
through. It leaves for good when it is refused several times in a row while the others are served.

A lane that was never refused shares no pace, so no lane waits for another's limit.
"""

from rustygate.core.pace import Pace

# A lane that is refused this often in a row, while others are served, has a limit of its own.
_MAX_REFUSALS = 3

_MAX_PACES = 16


class PaceGroup:
    """The paces of lanes that may share one."""

    def __init__(self) -> None:
        self._paces: list[Pace] = []

    def __repr__(self) -> str:
        return f"<PaceGroup {self._paces}>"

    def add(self, now: int, pace: Pace) -> None:
        """Add the pace of a lane that was refused for the first time."""
        current = [each for each in self._paces if not each.is_over(now)]
        self._paces = [*current[-_MAX_PACES:], pace]

    def choose(self, now: int, own: Pace, wait: int, refusals: int) -> Pace:
        """The pace of a lane after a refusal: its present one, another's, or a new one.

        Args:
            own: the pace that the lane has now, which it may share.
            wait: nanoseconds until upstream may accept another request.
            refusals: how often in a row the lane was refused while others at this pace were not.
        """
        if own.is_shared and refusals >= _MAX_REFUSALS:
            return Pace(now, wait, 1)
        if own.delivers or own not in self._paces:
            return own
        for pace in self._paces:
            if pace.delivers and not pace.is_over(now):
                self._paces.remove(own)
                own.successor, pace.is_shared = pace, True
                return pace
        return own
