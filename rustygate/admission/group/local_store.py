"""A group in one process: its scheduler, and the stores through which its members call it.

It has faults and a delay that can be set, so that members can be tested without a server.
"""

import asyncio
from enum import Enum, auto

from rustygate.admission.group.store import Call, Reply, StoreUnavailable, no_answer
from rustygate.core.bucket import SECOND
from rustygate.core.group_scheduler import GroupScheduler


class Fault(Enum):
    """What goes wrong with calls."""

    REFUSE = auto()  # the connection is refused
    HANG = auto()  # the call does not arrive, and there is no answer
    LOSE_REPLY = auto()  # the call arrives, and there is no answer
    STALL = auto()  # the call arrives when the fault is over, and there is no answer
    REPEAT = auto()  # the call arrives twice


class LocalGroup:
    """A group's scheduler on the event loop's clock.

    Attributes:
        delay_s: how long a call takes, half of it before it arrives.
        fault: what goes wrong with all calls.
    """

    def __init__(self, delay_s: float = 0.0) -> None:
        self.scheduler = GroupScheduler()
        self.delay_s = delay_s
        self.fault: Fault | None = None
        self._stalled: list[Call] = []
        self._epoch = asyncio.get_running_loop().time()

    def __repr__(self) -> str:
        return f"<LocalGroup {len(self.scheduler.members)} members>"

    def now(self) -> int:
        """Nanoseconds since the group began."""
        return int((asyncio.get_running_loop().time() - self._epoch) * SECOND)

    def stall(self, call: Call) -> None:
        """Keep a call until the fault is over."""
        self._stalled.append(call)

    def resume(self) -> None:
        """End the fault of all calls."""
        self.fault = None
        while self._stalled:
            self.scheduler.sync(self._stalled.pop(0), self.now())

    def lose_state(self) -> None:
        """Start again, as a server that restarts empty."""
        self.scheduler = GroupScheduler()


class LocalStore:
    """A member's way to a group in the same process.

    Attributes:
        calls: how many calls the member has made.
        fault: what goes wrong with the calls of this member.
    """

    def __init__(self, group: LocalGroup) -> None:
        self._group = group
        self.fault: Fault | None = None
        self.calls = 0

    async def sync(self, call: Call, limit_s: float) -> Reply:
        self.calls += 1
        try:
            async with asyncio.timeout(limit_s):
                return await self._sync(call)
        except TimeoutError:
            raise no_answer(limit_s) from None

    async def _sync(self, call: Call) -> Reply:
        group, fault = self._group, self.fault or self._group.fault
        if fault is Fault.REFUSE:
            raise StoreUnavailable("connection refused")
        await asyncio.sleep(group.delay_s / 2)
        if fault is Fault.STALL:
            group.stall(call)
        if fault in (Fault.HANG, Fault.STALL):
            await _for_ever()
        reply = group.scheduler.sync(call, group.now())
        if fault is Fault.REPEAT:
            reply = group.scheduler.sync(call, group.now())
        if fault is Fault.LOSE_REPLY:
            await _for_ever()
        await asyncio.sleep(group.delay_s / 2)
        return reply

    async def close(self) -> None:
        """Nothing is open."""


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
