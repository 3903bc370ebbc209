"""A member's float: admissions of each lane that it holds in advance.

While nothing waits in the group, a request is admitted from it at once. How much a member wants
follows from the rate of its requests: enough for the time of a few calls, or, while no budget is
scarce, for the time between heartbeats, so that it need not call sooner.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

from rustygate.core.bucket import SECOND
from rustygate.core.group_floats import MAX_FLOAT
from rustygate.core.lane import AdmissionTotals

# The part of a second's admissions that a member wants while a budget is scarce, the part while
# none is, and the least number.
_PART, _AMPLE_PART, _LEAST = 0.2, 1.0, 4

# A lane without requests for this time needs no float.
_IDLE = 2 * SECOND


@dataclass(slots=True)
class Held:
    """The float of a lane.

    Attributes:
        count, tokens: how many admissions are left, each of this many tokens.
        full: how many there were after the last reply.
        used: those used since the last call.
        total_requests, total_tokens: the lane's totals as of the last reply, and those used since.
        wanted_tokens: what a request of the lane takes, at most, lately.
        rate: requests a second, smoothed.
    """

    count: int = 0
    tokens: int = 0
    full: int = 0
    used: int = 0
    total_requests: int = 0
    total_tokens: int = 0
    wanted_tokens: int = 0
    rate: float = 0.0
    seen: int = 0
    last_used: int = 0

    def wanted(self, *, scarce: bool) -> int:
        part = _PART if scarce else _AMPLE_PART
        return min(MAX_FLOAT, max(_LEAST, ceil(self.rate * part)))

    @property
    def is_low(self) -> bool:
        return 2 * self.count <= self.full


class Floats:
    """The floats of a member's lanes, by name."""

    def __init__(self) -> None:
        self._lanes: dict[str, Held] = {}

    def __repr__(self) -> str:
        held = {name: each.count for name, each in self._lanes.items() if each.count}
        return f"<Floats {held}>"

    @property
    def held(self) -> int:
        return sum(each.count for each in self._lanes.values())

    def note(self, lane: str, tokens: int, now: int) -> Held:
        """A request of a lane arrives."""
        held = self._lanes.get(lane)
        if held is None:
            held = self._lanes[lane] = Held()
        held.seen += 1
        held.last_used = now
        held.wanted_tokens = max(tokens, held.wanted_tokens * 9 // 10)
        return held

    @staticmethod
    def take(held: Held, tokens: int, now: int) -> AdmissionTotals:
        """Use one admission. Returns its mark: the lane's totals with it."""
        held.count -= 1
        held.used += 1
        held.total_requests += 1
        held.total_tokens += tokens
        return AdmissionTotals(now, held.total_requests, held.total_tokens)

    def request(
        self, elapsed: int, now: int, *, contended: bool, waiting: bool, scarce: bool
    ) -> list[list[Any]]:
        """What to ask the group for. The floats of other lanes are given back by this.

        Args:
            elapsed: nanoseconds since the last call.
            contended: other requests wait in the group, so that there are no floats.
            waiting: requests wait here. The group can lend something once they are admitted.
            scarce: a budget may run out soon.
        """
        wanted = []
        for name, held in list(self._lanes.items()):
            held.used = 0
            self._measure(held, elapsed)
            if now - held.last_used > _IDLE:
                del self._lanes[name]
            elif contended or self._is_misfit(held) or (waiting and held.count):
                held.count = 0
            else:
                tokens = held.tokens if held.count else held.wanted_tokens
                wanted.append([name, held.wanted(scarce=scarce), tokens])
        return wanted

    def receive(self, floats: list[list[Any]]) -> None:
        """Adopt what a reply says is held, less what was used since the call."""
        for held in self._lanes.values():
            held.count = held.full = 0
        for name, count, tokens, total_requests, total_tokens in floats:
            held = self._lanes.setdefault(name, Held())
            held.count = held.full = max(0, count - held.used)
            held.tokens = tokens
            held.total_requests = total_requests + held.used
            held.total_tokens = total_tokens + held.used * tokens

    def drop(self) -> None:
        """The group has taken everything back."""
        for held in self._lanes.values():
            held.count = held.full = held.used = 0

    @staticmethod
    def _measure(held: Held, elapsed: int) -> None:
        if elapsed > 0:
            rate, weight = held.seen * SECOND / elapsed, min(1.0, elapsed / SECOND)
            held.rate += (rate - held.rate) * weight
            held.seen = 0

    @staticmethod
    def _is_misfit(held: Held) -> bool:
        """Whether the admissions held do not fit the requests, so that other sizes are wanted."""
        too_small = held.tokens < held.wanted_tokens
        return held.count > 0 and (too_small or held.tokens > 2 * held.wanted_tokens)
