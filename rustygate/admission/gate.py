"""The gate: budgets and the queue in front of them, put together.

`dispatcher` holds the gate's own budgets and admits waiters, `lanes` and the client queues hold
the other budgets, and `admission` is one attempt's way through all of them.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rustygate.admission.admission import Admission
from rustygate.admission.dispatcher import Dispatcher
from rustygate.admission.lanes import Lanes
from rustygate.admission.waiter import ClientQueue, TurnQueue, Waiter, clock_ns
from rustygate.config import Settings
from rustygate.core.budgets import Level
from rustygate.core.clients import Limits
from rustygate.core.saved_levels import VERSION, SavedLevels, restore_bucket, saved_bucket
from rustygate.core.upcoming import Upcoming, upcoming
from rustygate.exchange import Exchange

if TYPE_CHECKING:
    from rustygate.admission.group.member import Member
    from rustygate.admission.group.store import Store


@dataclass(frozen=True, slots=True)
class GateState:
    """The state of a gate at an instant: waiters by class, the levels of its own budgets, and
    those of the lanes whose models are known."""

    waiters: Mapping[str, int]
    in_flight: int
    budgets: tuple[Level, ...]
    lanes: Mapping[str, tuple[Level, ...]]


class Gate:
    """Budgets, and the queue in front of them.

    Each attempt goes through `admission(exchange)`. After `close`,
    all attempts are refused with `Draining`.

    Attributes:
        member: what ties it to its group, if it is in one.
    """

    def __init__(
        self, settings: Settings, store: "Store | None" = None, member: str | None = None
    ) -> None:
        """`store`: that of the group which the gate shares its budgets with; `member`: its name
        there, by default a random one."""
        self._loop = asyncio.get_running_loop()
        # With RATE_LIMIT=auto, a burst of requests goes out before a model's first response.
        probes = settings.rate_limit_burst if settings.rate_limit is None else None
        self.lanes = Lanes(probes, self._loop)
        self._clients: dict[str, ClientQueue] = {}
        self.dispatcher: Dispatcher
        self._admission_type = Admission
        self.member: Member | None = None
        if store is None:
            self.dispatcher = Dispatcher(settings, self._loop)
        else:
            self._join_group(settings, store, member)

    def _join_group(self, settings: Settings, store: "Store", name: str | None) -> None:
        # Not imported by a single gate: these modules take a megabyte.
        from rustygate.admission.group.admission import GroupAdmission
        from rustygate.admission.group.dispatcher import GroupDispatcher
        from rustygate.admission.group.member import Member

        dispatcher = GroupDispatcher(settings, self.lanes, self._clients, self._loop)
        self.dispatcher = dispatcher
        self._admission_type = GroupAdmission
        self.member = Member(dispatcher, store, self._loop, settings.gate_group, name)
        self.member.start()

    def __repr__(self) -> str:
        own = self.dispatcher.budgets
        waiting = self.dispatcher.waiting
        return f"<Gate {own.in_flight} in flight, {waiting} waiting, {own.requests}>"

    def close(self) -> None:
        """Refuse all waiters and newcomers; exchanges in flight continue."""
        self.dispatcher.close()

    @property
    def closed(self) -> bool:
        return self.dispatcher.closed

    def admission(
        self, exchange: Exchange, before_wait: Callable[[], None] | None = None
    ) -> Admission:
        """An attempt's way through the gate; see `Admission`."""
        client = self._clients.get(exchange.client)
        return self._admission_type(exchange, self.dispatcher, self.lanes, client, before_wait)

    def turn_queue(self) -> TurnQueue:
        """The order of the turns of a new WebSocket."""
        return TurnQueue()

    def turn_admission(self, exchange: Exchange, turn_queue: TurnQueue) -> Admission:
        """The way of a WebSocket's turn through the gate, behind the turns before it."""
        admission = self.admission(exchange)
        admission.turn_queue = turn_queue
        return admission

    def now(self) -> int:
        """The event loop's clock, in nanoseconds."""
        return clock_ns(self._loop)

    def client_budgets(self, client: str) -> ClientQueue | None:
        """The budgets of a client's own limits, if it has any."""
        return self._clients.get(client)

    async def leave_group(self) -> None:
        """Give back to the group what this gate holds, if it is in one."""
        if self.member is not None:
            await self.member.leave()

    def limit_clients(
        self,
        limits: Mapping[str, Limits],
        weights: Mapping[str, float] | None = None,
        version: int = 0,
    ) -> None:
        """Set the limits of clients, by name; a client that is not named has no limits.

        A client that can get limits later must be named from the start, with empty limits.
        Waiters keep waiting, for the new limits. New limits begin with full budgets; unchanged
        limits keep their levels.

        Args:
            weights: the weights of all clients; for the group.
            version: of the limits and weights that a group gets, the newest count.
        """
        if self.member is not None and weights:
            self.member.set_clients(version, limits, weights)
        for name in limits.keys() - self._clients.keys():
            self._clients[name] = ClientQueue(name)
        for name, client in list(self._clients.items()):
            if client.set_limits(limits.get(name, Limits())):
                self.dispatcher.wake(client)
            if name not in limits and not (any(client.waiting) or client.budgets.in_flight):
                del self._clients[name]

    def save_levels(self, wall: int) -> SavedLevels:
        """The levels to keep over a restart; `wall` is the wall-clock time in nanoseconds."""
        now, own = self.now(), self.dispatcher.budgets
        known = (lane for lane in self.lanes if lane.budgets.known)
        return SavedLevels(
            VERSION,
            wall,
            saved_bucket(own.requests, now),
            saved_bucket(own.tokens, now),
            tuple(lane.budgets.save(lane.name, now) for lane in known),
            tuple(client.save(now) for client in self._clients.values()),
        )

    def restore_levels(self, saved: SavedLevels, wall: int) -> None:
        """Restore saved levels: before the first request, and after clients have their limits."""
        now, own = self.now(), self.dispatcher.budgets
        elapsed = max(0, wall - saved.saved_at)
        restore_bucket(own.requests, saved.requests, now, elapsed)
        restore_bucket(own.tokens, saved.tokens, now, elapsed)
        for each in saved.lanes:
            lane = self.lanes.get(each.name)
            lane.budgets.restore(now, each, elapsed)
            lane.refill_periods = lane.budgets.refill_periods
        for client in saved.clients:
            if client.name in self._clients:
                self._clients[client.name].restore(now, client, elapsed)

    def snapshot(self) -> dict[str, int]:
        """How many exchanges wait, and how many are in flight."""
        return {
            "waiters": self.dispatcher.waiting,
            "in_flight": self.dispatcher.budgets.in_flight,
        }

    def upcoming(self, limit: int, now: int) -> list[Upcoming[Waiter]]:
        """The next waiters to be admitted, in that order, as seen at an instant. The time depends
        on the number of lanes and flows, not of waiters."""
        dispatcher, clients = self.dispatcher, self._clients.values()
        found = upcoming(dispatcher.scheduler, self.lanes, clients, now, limit)
        return dispatcher.expect(found)

    def state(self) -> GateState:
        """The state to show in metrics. Takes time by the number of lanes, not of waiters."""
        now, own = self.now(), self.dispatcher.budgets
        known = (each for each in self.lanes if each.budgets.known)
        return GateState(
            self.dispatcher.waiting_by_class,
            own.in_flight,
            tuple(own.levels(now)),
            {each.name: tuple(each.budgets.levels(now)) for each in known},
        )
