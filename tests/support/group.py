"""Gates that share one quota, on a virtual clock."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any

from rustygate.admission.admission import Admission
from rustygate.admission.gate import Gate
from rustygate.admission.group.dispatcher import GroupDispatcher
from rustygate.admission.group.local_store import Fault, LocalGroup, LocalStore
from rustygate.core.bucket import SECOND
from rustygate.errors import Refusal
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock
from tests.support.harness import DEFAULTS, member_names


class GroupHarness:
    """A group of gates over one scheduler, a call of which takes half a millisecond.

    Args:
        seed: of the members' names.

    Attributes:
        admitted: by client, gate and time in seconds.
        waits: how long each admitted request of a client has waited, in seconds.
        errors: what requests were refused with.
    """

    def __init__(self, gates: int = 3, *, seed: int | None = None, **overrides: object) -> None:
        self.settings = replace(DEFAULTS, **{"rate_limit_timeout": 1e4, **overrides})  # type: ignore[arg-type]
        self.group = LocalGroup(delay_s=0.0005)
        self.stores: list[LocalStore] = []
        self.gates: list[Gate] = []
        self._names = member_names(seed)
        self.admitted: list[tuple[str, int, float]] = []
        self.waits: dict[str, list[float]] = {}
        self.errors: list[Exception] = []
        self.on_response: Callable[[Admission], None] | None = None
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()
        self.dead: set[int] = set()
        self._demands: list[asyncio.Task[None]] = []
        self._places: dict[asyncio.Task[Exchange], int] = {}
        self._requests: set[asyncio.Task[Exchange]] = set()
        for _ in range(gates):
            self.add_gate()

    def add_gate(self, **overrides: object) -> int:
        self.stores.append(LocalStore(self.group))
        settings = replace(self.settings, **overrides)  # type: ignore[arg-type]
        self.gates.append(Gate(settings, self.stores[-1], next(self._names)))
        return len(self.gates) - 1

    @property
    def now(self) -> float:
        return self._loop.time() - self.began

    async def admit(
        self, client: str, gate: int, hold_s: float = 0.0, **fields: object
    ) -> Exchange:
        """Send a request through a gate, and keep it in flight for a time."""
        deadline = self.gates[gate].now() + int(self.settings.rate_limit_timeout * SECOND)
        exchange = Exchange(client, "POST", "/v1/x", **{"deadline": deadline, **fields})  # type: ignore[arg-type]
        began = self.now
        async with self.gates[gate].admission(exchange) as admission:
            self.admitted.append((client, gate, self.now))
            self.waits.setdefault(client, []).append(self.now - began)
            if hold_s:
                await asyncio.sleep(hold_s)
            if self.on_response is not None:
                self.on_response(admission)
        return exchange

    def spawn(
        self, client: str, gate: int, hold_s: float = 0.0, **fields: object
    ) -> "asyncio.Task[Exchange]":
        task = asyncio.create_task(self.admit(client, gate, hold_s, **fields))
        self._requests.add(task)
        self._places[task] = gate
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: "asyncio.Task[Exchange]") -> None:
        self._requests.discard(task)
        self._places.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)  # type: ignore[arg-type]

    def flood(self, client: str, gate: int, depth: int, **fields: object) -> None:
        """Keep this many requests of a client waiting at a gate."""

        async def one() -> None:
            while True:
                try:
                    await self.admit(client, gate, **fields)  # type: ignore[arg-type]
                except Refusal as error:
                    self.errors.append(error)
                    return

        for _ in range(depth):
            self.demand(one())

    def demand(self, requests: Coroutine[object, object, None]) -> None:
        """Send requests until the demand stops."""
        self._demands.append(asyncio.create_task(requests))

    def trickle(self, client: str, gates: Iterable[int], interval_s: float) -> None:
        """Send a request of a client now and then, to one gate after another."""

        async def requests() -> None:
            while True:
                for gate in gates:
                    await asyncio.sleep(interval_s)
                    self.spawn(client, gate)

        self.demand(requests())

    def kill(self, gate: int) -> None:
        """A gate ends without a word, and its requests with it."""
        member = self.gates[gate].member
        assert member is not None
        assert member._task is not None
        member._task.cancel()
        for task, place in list(self._places.items()):
            if place == gate:
                task.cancel()
        self.dead.add(gate)

    def unknown_to_group(self, gate: int) -> int:
        """How many admissions of a gate, at most, the group does not know to be used."""
        dispatcher, member = self.gates[gate].dispatcher, self.gates[gate].member
        assert isinstance(dispatcher, GroupDispatcher)
        assert member is not None
        known = self.group.scheduler.members.get(member._name)
        used = sum(held.used for held in dispatcher.floats._lanes.values())
        return used + (0 if known is None else len(known.box))

    def hold_replies(self, gate: int) -> None:
        """Calls of a gate arrive from now on, and it gets no reply."""
        self.stores[gate].fault = Fault.LOSE_REPLY

    async def stop_demand(self, *, requests: bool = True) -> None:
        """Stop sending, and cancel the requests in flight."""
        tasks = [*self._demands, *(self._requests if requests else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def count(self, client: str, since: float = 0.0, until: float = 1e9) -> int:
        return sum(each == client and since <= at < until for each, _, at in self.admitted)

    def total(self, since: float = 0.0, until: float = 1e9) -> int:
        return sum(since <= at < until for *_, at in self.admitted)

    def excess(self, since: float = 0.0, until: float = 1e9) -> float:
        """The most that was admitted in any window beyond the rate: the burst that was seen."""
        assert self.settings.rate_limit is not None
        lowest = highest = 0.0
        times = sorted(at for *_, at in self.admitted if since <= at < until)
        for number, at in enumerate(times):
            ahead = number - self.settings.rate_limit * at
            lowest = ahead if not number else min(lowest, ahead)
            highest = max(highest, ahead - lowest + 1)
        return highest

    def assert_conserved(self) -> None:
        """Nothing is held or waits any more, and the buckets are full."""
        group = self.group.scheduler
        assert (group.waiting, group.own.in_flight - group.own.held) == (0, 0)
        for place, gate in enumerate(self.gates):
            if place not in self.dead:
                assert gate.snapshot() == {"waiters": 0, "in_flight": 0}
        for lane in group.lanes.values():
            assert lane.budgets.in_flight == lane.budgets.held
        bucket = group.own.requests
        assert bucket is None or bucket.level(self.group.now()) == bucket.burst - group.own.held

    def states(self) -> list[str]:
        return [gate.member.state for gate in self.gates if gate.member is not None]


def run_group(
    scenario: Callable[[GroupHarness], Awaitable[None]], gates: int = 3, **arguments: Any
) -> GroupHarness:
    """Run a scenario on a virtual clock; the arguments are those of `GroupHarness`."""

    async def main() -> GroupHarness:
        harness = GroupHarness(gates, **arguments)
        await scenario(harness)
        await harness.stop_demand()
        return harness

    return virtual_clock.run(main)


def jain(shares: Iterable[float]) -> float:
    """Jain's index: 1 if all shares are equal."""
    values = list(shares)
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))
