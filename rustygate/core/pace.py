"""The pace of a lane whose limits upstream does not report.

After a 429 the lane resumes at the pace that upstream sustained: the number of requests it
accepted lately, at least one, divided by the wait it asks for. Requests are released one by one, a
little slower than that, because the network varies the gaps between them.

After a run of successes the pace is probed: a step faster. A probe that is refused is undone, and
the next run is twice as long. A pace that is refused without a probe was too fast, and is slowed
down. This resembles the congestion avoidance of TCP (RFC 5681), with requests in place of bytes.
"""

from rustygate.core.bucket import MINUTE, SECOND, TokenBucket

# Releases are this much further apart than upstream's pace, against jitter.
MARGIN = 1.08

# A lane that sent nothing for this long has no pace any more.
QUIET_TIME = MINUTE

# A pace is at most a thousand requests a second.
_MIN_PERIOD = SECOND // 1000

# A run of successes takes at least this time, in so many requests.
_RUN_TIME = 8 * SECOND
_MIN_RUN, _FIRST_RUN, _MAX_RUN = 2, 8, 512

# The first probe adds one request per window. The step doubles after each success, and halves
# after each failure, down to this share of the first pace.
_MIN_STEP = 1 / 16

# How much a pace is slowed down that was refused at its first request, its second, or later; and
# at least if nothing was accepted since the last time.
_SLOWER_BY = 2.0, 1.25, 1.1
_SLOWER_AGAIN = 1.5


class Pace:
    """A bucket without burst, whose period follows what upstream accepts.

    Args:
        window: nanoseconds in which upstream accepted some requests.
        accepted: how many; responses that are still to come may be refusals.
    """

    def __init__(self, now: int, window: int, accepted: int) -> None:
        self._window = window
        self._accepted = accepted
        self._changed_at = now
        self._sent = self._run = self._needed = 0
        self._step = 1.0
        self._first_period = self._good_period = 1
        self._is_probe = False
        self.confirmed = False
        self.bucket = TokenBucket(1, 1)
        self._restart()

    def __repr__(self) -> str:
        probe = " probe" if self._is_probe else ""
        return f"<Pace{probe} 1 in {self.bucket.period / SECOND:.3g} s>"

    def is_over(self, now: int) -> bool:
        """Whether nothing was sent for so long that the pace is out of date."""
        return now - max(self.bucket.full_at, self._changed_at) > QUIET_TIME

    def take(self, now: int) -> None:
        """Release a request."""
        self._sent += 1
        self.bucket.take(now)

    def accept(self, now: int, admitted_at: int) -> None:
        """Upstream accepted a request."""
        # Requests that came slower than the pace do not show that it is sustained.
        in_use = now <= self.bucket.full_at + self.bucket.period
        if in_use and admitted_at > self._changed_at:
            self._run += 1
            if self._run >= self._needed:
                self._probe(now)

    def refuse(self, now: int, admitted_at: int) -> None:
        """Upstream refused a request."""
        if admitted_at <= self._changed_at:
            if not self.confirmed:
                self._accepted -= 1
                self._restart()
            return
        if self._is_probe:
            self._needed = min(2 * self._needed, _MAX_RUN)
            self._step = max(self._step / 2, _MIN_STEP)
        else:
            slower_by = _SLOWER_BY[min(max(self._sent, 1), 3) - 1]
            if self.confirmed and not self._run:
                slower_by = max(slower_by, _SLOWER_AGAIN)
            self._good_period = min(round(self._good_period * slower_by), MINUTE)
        self.confirmed = True
        self._change(now, self._good_period, is_probe=False)

    def _restart(self) -> None:
        """Set the first pace, by what upstream accepted."""
        period = round(self._window * MARGIN / max(1, self._accepted))
        period = min(max(_MIN_PERIOD, period), MINUTE)
        self._first_period = self._good_period = period
        self._step = 1 / max(1, self._accepted)
        self._needed = min(max(_MIN_RUN, -(-_RUN_TIME // period)), _FIRST_RUN)
        self._set_period(period)

    def _probe(self, now: int) -> None:
        """The present pace is good; try a faster one."""
        self._good_period = self.bucket.period
        if self._is_probe:
            self._needed = max(_FIRST_RUN, self._needed // 2)
            self._step = min(2 * self._step, self._first_period / self._good_period)
        rate = 1 / self._good_period + self._step / self._first_period
        self._change(now, max(_MIN_PERIOD, round(1 / rate)), is_probe=True)

    def _change(self, now: int, period: int, *, is_probe: bool) -> None:
        self._changed_at, self._is_probe = now, is_probe
        self._sent = self._run = 0
        self._set_period(period)

    def _set_period(self, period: int) -> None:
        """Change the period; the last release counts as before."""
        self.bucket.full_at += period - self.bucket.period
        self.bucket.period = period
