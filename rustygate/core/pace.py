"""The pace of lanes whose limits upstream does not report.

After a 429 a lane resumes at the pace that upstream sustained: the number of requests it accepted
lately, at least one, divided by the wait it asks for. Requests are released one by one, a little
slower than that, because the network varies the gaps between them.

From there the pace searches for upstream's rate:

- Each accepted request leads to a faster pace, until one is refused. One request tries it, and
  those behind it keep the last good pace until its response is there.
- A refused trial is undone. Upstream's rate is now between the good and the refused pace. After a
  run of successes the middle of the two is tried. Once the two are close, the search starts again,
  because upstream may take more by now. The nearer the two are, the less can be gained: then each
  refusal doubles the next run.
- A refusal at a pace that seemed to be good means that upstream's bucket had saved units, and is
  now empty. Its rate is then measured: what it accepted since the last refusal, when its bucket
  was empty too, divided by the time.

The search follows TCP's slow start and the binary search of BIC (Xu et al., INFOCOM 2004), with
requests in place of bytes. Continuing at the measured rate, instead of half of it, is the idea of
BBR (Cardwell et al., ACM Queue 2016).
"""

from collections import deque
from copy import copy

from rustygate.core.bucket import MINUTE, SECOND, TokenBucket

# Releases are this much further apart than upstream's pace, against jitter.
MARGIN = 1.08

# A lane that sent nothing for this long has no pace any more.
QUIET_TIME = MINUTE

# A pace is at most a thousand requests a second.
_MIN_PERIOD = SECOND // 1000

# The steps of the search, as factors of the rate. If upstream accepted many requests at first, the
# first step is one request more.
_STEP = 1.6

# A run takes this many requests at first; doubled, it takes up to this time.
_FIRST_RUN, _MAX_RUN_TIME = 8, MINUTE

# A good and a refused pace within the second factor are close. Runs get longer within the first
# one; until then, much can be gained.
_NEAR, _CLOSE = 1.25, 1.1

# A request that follows another later than this part of the period shows nothing.
_IN_USE = 1.5

# A pace that seemed to be good is slowed down by at least and at most these factors.
_MIN_SLOWER, _MAX_SLOWER = 1.1, 2.0

_MAX_REMEMBERED = 256


class Pace:
    """A bucket without burst, whose period follows what upstream accepts.

    Args:
        window: nanoseconds in which upstream accepted some requests.
        accepted: how many; responses that are still to come may be refusals.
    """

    def __init__(self, now: int, window: int, accepted: int) -> None:
        self._window = window
        self._accepted = accepted
        self._changed_at = self._slowed_at = self._refused_at = now
        self._run, self._needed, self._next_run = 0, 1, _FIRST_RUN
        self._step = _STEP
        # The last good period, while a faster one is tried, and the last one that was refused.
        self._good: int | None = None
        self._refused = 0
        self._is_searching = True
        # When the requests that were not refused were released.
        self._released: deque[int] = deque(maxlen=_MAX_REMEMBERED)
        # Whether upstream accepted requests since the last refusal.
        self.delivers = False
        # Whether other paces were replaced by this one, and the one that replaces this one.
        self.is_shared = False
        self.successor: Pace | None = None
        self.bucket = TokenBucket(1, 1)
        self._restart()

    def __repr__(self) -> str:
        trial = " trial" if self._good is not None else ""
        return f"<Pace{trial} 1 in {self.bucket.period / SECOND:.3g} s>"

    def copy(self) -> "Pace":
        """A pace that releases requests as this one would, if upstream does not respond."""
        twin = copy(self)
        twin.bucket, twin._released = copy(self.bucket), copy(self._released)
        return twin

    def is_over(self, now: int) -> bool:
        """Whether nothing was sent for so long that the pace is out of date."""
        return now - max(self.bucket.full_at, self._changed_at) > QUIET_TIME

    def wait_behind(self, now: int, ahead: float) -> int:
        """The least nanoseconds until a request is released that has this many others ahead."""
        # The first pace is a guess, and usually too slow.
        if not self._refused:
            return 0
        return self.bucket.wait(now) + round(ahead * min(self._refused, self.bucket.period))

    def take(self, now: int) -> None:
        """Release a request."""
        self._released.append(now)
        self.bucket.take(now)
        if self._good is not None and not self._run:
            self.bucket.full_at = now + self._good

    def accept(self, now: int, released_at: int) -> bool:
        """Upstream accepted a request. Returns whether the next one may follow sooner."""
        self.delivers = True
        if released_at <= self._changed_at or not self._was_in_use(released_at):
            return False
        self._run += 1
        if self._run >= self._needed:
            self._accelerate(now)
        elif self._run == 1:
            # The trial succeeded: those behind it need not wait longer.
            self._set_period(self.bucket.period)
        else:
            return False
        return True

    def refuse(self, now: int, released_at: int) -> bool:
        """Upstream refused a request. Returns whether it accepted others since the last refusal,
        so that the pace shows when another may follow."""
        if released_at not in self._released or released_at <= self._slowed_at:
            if self._good is None and not self._refused:
                self._accepted -= 1
                self._restart()
            return False
        self._released.remove(released_at)
        accepted = sum(self._refused_at < at < released_at for at in self._released)
        if released_at > self._changed_at and self._good is not None:
            self._undo_trial(now, self._good)
        else:
            self._slow_down(now, released_at - self._refused_at, accepted)
        self._is_searching, self._needed = False, _FIRST_RUN
        if self.bucket.period < _NEAR * self._refused:
            self._needed = self._next_run
            longest = max(_FIRST_RUN, _MAX_RUN_TIME // self.bucket.period)
            self._next_run = min(2 * self._next_run, longest)
        self._refused_at, self._slowed_at = released_at, self._changed_at
        self.delivers = accepted > 0
        return self.delivers

    def _restart(self) -> None:
        """Set the first pace, by what upstream accepted."""
        accepted = max(1, self._accepted)
        self.delivers = self._accepted > 0
        self._step = min(_STEP, 1 + 1 / accepted)
        self._set_period(round(self._window * MARGIN / accepted))

    def _was_in_use(self, released_at: int) -> bool:
        """Whether a request followed another about as soon as the pace allows."""
        earlier = (at for at in reversed(self._released) if at < released_at)
        return released_at - next(earlier, self._refused_at) <= _IN_USE * self.bucket.period

    def _accelerate(self, now: int) -> None:
        """The present pace is good; try a faster one."""
        good = self.bucket.period
        if not self._is_searching and good > self._refused * _CLOSE:
            self._change(now, round((good * self._refused) ** 0.5), good)
            return
        if not self._is_searching:
            self._is_searching, self._needed, self._step = True, 1, _CLOSE
        elif good * _STEP < self._refused:
            self._next_run = _FIRST_RUN
        self._change(now, round(good / self._step), good)
        self._step = min(_STEP, 2 * self._step - 1)

    def _undo_trial(self, now: int, good: int) -> None:
        self._refused = self.bucket.period
        self._change(now, good)

    def _slow_down(self, now: int, elapsed: int, accepted: int) -> None:
        """The pace that seemed to be good is not; use what was measured."""
        self._refused = refused = self._good or self.bucket.period
        # Up to one unit more was there than at the last refusal.
        measured = elapsed * MARGIN / (accepted + 1) if accepted else _MAX_SLOWER * refused
        period = min(max(measured, _MIN_SLOWER * refused), _MAX_SLOWER * refused)
        self._change(now, round(period))

    def _change(self, now: int, period: int, good: int | None = None) -> None:
        self._good, self._run = good, 0
        # What is released at this instant follows the new pace.
        self._changed_at = now - 1
        self._set_period(period)

    def _set_period(self, period: int) -> None:
        """Change the period that follows the last release."""
        period = min(max(_MIN_PERIOD, period), MINUTE)
        self.bucket.period = period
        if self._released:
            self.bucket.full_at = self._released[-1] + period
