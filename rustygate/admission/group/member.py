"""A member of a group: calls the group's store, and knows whether the gate is together with it.

- `joining`: the first call has not been answered yet.
- `together`: the store answers.
- `alone`: it does not. The gate continues with its last share of the limits; with all of them if
  it has not been in the group, because it knows of no other member.

A call may take 100 ms, the first one a second (`call_limit`). If it fails, the gate is on its own
at once, so that no request waits for the store, and calls are repeated. When the store answers
again, the member registers again with what it holds, as it does when the group has forgotten it.
"""

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from secrets import token_hex
from typing import Any

from loguru import logger

from rustygate.admission.group import messages
from rustygate.admission.group.call_limit import call_limit_s
from rustygate.admission.group.clients import clients_of
from rustygate.admission.group.dispatcher import GroupDispatcher
from rustygate.admission.group.pacing import Pacing, Urgency
from rustygate.admission.group.store import (
    Reply,
    Store,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    SyncFailed,
)
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from rustygate.core.group_load import horizon_of
from rustygate.core.plural import counted
from rustygate.system.background import repeat, start_task

# How long a member waits before it calls a store that did not answer, so that all come back within
# the scheduler's `RETURN_LEASE`; and one that answers, but needs somebody to correct something.
_RETRY, _RARE_RETRY = SECOND // 10, SECOND

STATES = ("joining", "together", "alone")


class Member:
    """Calls the store as long as it is `start`ed, until it `leave`s.

    Attributes:
        state: one of `STATES`.
        members: how many members the group had at the last reply.
        on_sync: called with the duration of each answered call, in nanoseconds.
    """

    def __init__(
        self,
        dispatcher: GroupDispatcher,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        group: str = "",
        name: str | None = None,
    ) -> None:
        """`group`: its name, for the log. `name`: the member's, unique in the group; it also
        decides at which instants it calls. By default a random one."""
        self.state = "joining"
        self.members = 0
        self.on_sync: Callable[[int], None] = lambda duration: None
        self._dispatcher = dispatcher
        self._store = store
        self._loop = loop
        self._group = group
        self._name = name or token_hex(8)
        self._random = Random(self._name)
        self._pacing = Pacing(dispatcher.now(), self._random)
        self._registered = self._leaving = self._was_together = False
        # What was logged last; while it lasts, it is not logged again.
        self._defect = self._reason = self._differing = ""
        self._seq = self._ack = 0
        self._answered_at = dispatcher.now()
        self._share = 1.0
        self._urgency = Urgency.AT_ONCE
        self._grants_at: int | None = None
        self._retry_at = 0
        self._clients: list[list[Any]] | None = None
        self._clients_version, self._clients_sent = 0, False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        dispatcher.urge = self.urge

    def __repr__(self) -> str:
        return f"<Member {self.state}, {self.members} members, call {self._seq}>"

    def start(self) -> None:
        group = f"calling group {self._group}"
        self._task = start_task(group, repeat(group, self._call_when_due))

    async def leave(self) -> None:
        """Give everything back, and end."""
        self._leaving = True
        self._wake.set()
        if self._task is not None:
            await self._task
        if self._registered:
            await self._call(leave=True)
            self._registered = False
        await self._store.close()

    def urge(self, urgency: Urgency) -> None:
        """There is something to report to the group."""
        if urgency > self._urgency:
            self._urgency = urgency
            self._wake.set()

    def set_clients(
        self, version: int, limits: Mapping[str, Limits], weights: Mapping[str, float]
    ) -> None:
        """Set the limits and weights of the clients, for the whole group.

        Args:
            version: of two members' clients, the greater one counts.
        """
        clients = clients_of(limits, weights)
        self._clients, self._clients_version, self._clients_sent = clients, version, False
        self._dispatcher.urgencies.client_slots = any(client[5] >= 0 for client in clients)
        self.urge(Urgency.SPACED)

    # Calls.

    async def _call_when_due(self) -> bool:
        """Make the next call. Returns whether there may be another one."""
        await self._until_due()
        if self._leaving:
            return False
        try:
            await self._call()
        except Exception as error:
            # A bug in the gate. Requests must not wait for it.
            self._on_failure(SyncFailed(type(error).__name__))
            raise
        return True

    async def _until_due(self) -> None:
        while not self._leaving and (due := self._due()) > self._dispatcher.now():
            self._wake.clear()
            # One microsecond more: a timer that fires early costs another round.
            timer = self._loop.call_at(due / SECOND + 1e-6, self._wake.set)
            await self._wake.wait()
            timer.cancel()

    def _due(self) -> int:
        if self._retry_at:
            return self._retry_at
        return self._pacing.due(
            self._dispatcher.now(),
            self._urgency,
            waiting=self._dispatcher.scheduler.waiting > 0,
            grants_at=self._grants_at,
        )

    async def _call(self, *, leave: bool = False) -> None:
        sent = self._dispatcher.now()
        self._pacing.sent(sent)
        self._urgency = Urgency.NONE
        call = self._report(sent) if self._registered else self._registration(sent)
        if leave:
            call["leave"], call["float"] = 1, []
        limit_s = call_limit_s(first=self._seq == 1 and not self._dispatcher.local)
        try:
            reply = await self._store.sync(call, limit_s)
        except StoreUnavailable as error:
            self._on_failure(error)
        except SyncFailed as error:
            self._on_defect(error)
        else:
            if not leave:
                self._read(reply, sent)

    def _registration(self, now: int) -> dict[str, Any]:
        """A call with the same name and a higher number: an earlier one that is still on its way
        is ignored."""
        self._clients_sent = False
        held = self._dispatcher.register(now)
        others_alone = int(self._dispatcher.local and self._share < 1)
        ahead = horizon_of(self._pacing.spacing) if self._was_together else 0
        return {**self._report(now), **held, "known": 0, "alone": others_alone, "ahead": ahead}

    def _report(self, now: int) -> dict[str, Any]:
        dispatcher = self._dispatcher
        dispatcher.refresh_paces()
        elapsed = now - self._answered_at
        self._seq += 1
        floats = dispatcher.floats.request(
            elapsed,
            now,
            contended=dispatcher.closed or dispatcher.urgencies.group_waiting > 0,
            waiting=dispatcher.scheduler.waiting > 0,
            scarce=dispatcher.urgencies.scarce,
        )
        call = {
            "member": self._name,
            "known": 1,
            "seq": self._seq,
            "ack": self._ack,
            "elapsed": elapsed,
            "limits": dispatcher.limits,
            "demand": dispatcher.report(now),
            "news": dispatcher.news.take(now),
            "float": floats,
        }
        if self._clients is not None and not self._clients_sent:
            call["clients"], call["clients_version"] = self._clients, self._clients_version
        return call

    # Answers.

    def _read(self, reply: Reply, sent: int) -> None:
        registered = self._registered
        try:
            self._on_reply(reply, sent)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            # Another version's script may have written it. What it grants comes back to the group.
            self._registered = registered
            self._on_defect(SyncFailed(f"unexpected reply ({type(error).__name__})"))

    def _on_reply(self, reply: Reply, sent: int) -> None:
        now = self._dispatcher.now()
        self.on_sync(now - sent)
        if "stale" in reply or "ignored" in reply:
            self._on_stale()
            return
        if not self._registered:
            self._on_registered(reply, now)
        self._answered_at, self._ack = sent, self._seq
        self._clients_sent = True
        self.members, self._share = reply["members"], reply["share"]
        self._grants_at = now + reply["next"] if reply["next"] >= 0 else None
        self._pacing.space(reply["spacing"])
        self._dispatcher.receive(reply, sent, now)
        self._check_limits(reply["limits"])
        if self._dispatcher.news:
            self.urge(self._dispatcher.urgencies.quiet)

    def _on_registered(self, reply: Reply, now: int) -> None:
        self._registered = True
        self._retry_at = 0
        self._dispatcher.join(now)
        others = counted(reply["members"], "member")
        if not self._was_together:
            logger.info("joined group {}: {}", self._group, others)
        elif self.state == "alone":
            logger.info("Redis answers again: joined group {} again, {}", self._group, others)
        if self.state == "alone":
            self._defect = ""
        self.state, self._was_together = "together", True

    def _on_stale(self) -> None:
        """The group has forgotten this member, because it was silent or the store is empty."""
        self._registered = False
        self.urge(Urgency.AT_ONCE)
        logger.info("group {} has forgotten this gate: registering again", self._group)

    def _on_failure(self, error: StoreError) -> None:
        now = self._dispatcher.now()
        self._registered = False
        lasts = isinstance(error, StoreRefused | SyncFailed)
        self._retry_at = now + (_RARE_RETRY if lasts else _RETRY)
        self._dispatcher.news.stop()
        if self.state != "alone":
            self._go_alone(error, now)
        elif isinstance(error, StoreRefused) and str(error) != self._reason:
            self._reason = str(error)
            logger.warning("{}", messages.still_alone(self._group, error))

    def _on_defect(self, error: SyncFailed) -> None:
        """The scheduler failed. That may depend on the call, so the next one is a different one:
        a registration. If that fails, too, the gate continues alone."""
        if str(error) != self._defect:
            self._defect = str(error)
            logger.error("a call to group {} failed: {}", self._group, error)
            if error.detail:
                logger.debug("the script of group {} says: {}", self._group, error.detail)
        if not self._registered:
            self._on_failure(error)
            return
        self._registered = False
        self.urge(Urgency.AT_ONCE)

    def _go_alone(self, error: StoreError, now: int) -> None:
        self.state, self.members, self._reason = "alone", 0, str(error)
        self._dispatcher.go_alone(self._share, now)
        share = self._share if self._was_together else None
        logger.warning("{}", messages.alone(self._group, error, share))

    def _check_limits(self, in_force: list[int]) -> None:
        differing = messages.different_limits(self._dispatcher.limits, in_force)
        if differing and differing != self._differing:
            logger.warning(
                "the gates of group {} have different limits: {}; the strictest value of each "
                "applies to all, so set the same values at all of them",
                self._group,
                differing,
            )
        self._differing = differing
