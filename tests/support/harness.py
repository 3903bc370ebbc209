"""A gate on a virtual clock, and the exchanges that go through it.

`one_and_three` runs a test with one gate, and with three in a group that stand for one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Any

import pytest

from rustygate.admission.admission import Admission
from rustygate.admission.gate import Gate
from rustygate.admission.group.local_store import LocalGroup, LocalStore
from rustygate.admission.waiter import clock_ns
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock

Task = asyncio.Task[Exchange]

# Until then the gates of a group have joined it.
_JOINED_S = 0.01

# A member reports what is not urgent within 0.1 s, and another one hears of it with its next call.
_TOLD_S = 0.2

DEFAULTS = Settings(openai_api_key="sk-test")

# Of the names of a group's members, which decide when they call and which one comes first.
SEED = 0


def member_names(seed: int | None = None) -> Iterator[str]:
    """The same names in each run, so that a scenario on the virtual clock always takes the same
    course."""
    random = Random(SEED if seed is None else seed)
    while True:
        yield f"{random.getrandbits(64):016x}"


one_and_three = pytest.mark.parametrize("gates", [1, 3])


class Gates:
    """Gates that share one quota, and take requests in turn. They look like one gate.

    Calls to their group take no time, so that admissions are at the instants of a single gate.
    """

    def __init__(self, settings: Settings, count: int) -> None:
        self.group = LocalGroup()
        self.began = clock_ns(asyncio.get_running_loop())
        names = islice(member_names(), count)
        self.gates = [Gate(settings, LocalStore(self.group), name) for name in names]
        self._places: dict[int, tuple[Gate, Exchange]] = {}
        self._version = 0

    def admission(self, exchange: Exchange) -> Admission:
        """Each attempt of an exchange is made at the same gate."""
        gate = self.gates[len(self._places) % len(self.gates)]
        gate, _ = self._places.setdefault(id(exchange), (gate, exchange))
        return gate.admission(exchange)

    def now(self) -> int:
        return self.gates[0].now()

    def snapshot(self) -> dict[str, int]:
        each = [gate.snapshot() for gate in self.gates]
        return {name: sum(one[name] for one in each) for name in each[0]}

    def limit_clients(self, limits: Mapping[str, Limits]) -> None:
        self._version += 1
        for gate in self.gates:
            gate.limit_clients(limits, dict.fromkeys(limits, 1.0), self._version)

    def close(self) -> None:
        for gate in self.gates:
            gate.close()


class Harness:
    """A gate, and the admissions that it granted, by client, with their times in seconds."""

    gate: Gate

    def __init__(self, gates: int = 1, /, **overrides: object) -> None:
        self.settings = replace(DEFAULTS, **overrides)  # type: ignore[arg-type]
        self._in_group = gates > 1
        if self._in_group:
            self.gate = Gates(self.settings, gates)  # type: ignore[assignment]
        else:
            self.gate = Gate(self.settings)
        self.began = self.gate.now()
        self.admitted: list[tuple[str, float]] = []
        # Called at the end of each exchange, in place of upstream's response.
        self.on_response: Callable[[Admission], None] | None = None

    def exchange(self, client: str, **fields: Any) -> Exchange:
        deadline = self.gate.now() + int(self.settings.rate_limit_timeout * SECOND)
        return Exchange(client, "POST", "/v1/x", **{"deadline": deadline, **fields})

    async def admit(self, client: str = "a", hold_s: float = 0, **fields: Any) -> Exchange:
        """Send a request through the gate, and keep it in flight for a time."""
        exchange = self.exchange(client, **fields)
        async with self.gate.admission(exchange) as admission:
            self.admitted.append((client, (self.gate.now() - self.began) / SECOND))
            if hold_s:
                await asyncio.sleep(hold_s)
            if self.on_response is not None:
                self.on_response(admission)
        return exchange

    async def until_told(self) -> None:
        """Until the gates of a group know of each other's requests and responses."""
        await run_ready_tasks()
        if self._in_group:
            await asyncio.sleep(_TOLD_S)

    def spawn(self, client: str = "a", hold_s: float = 0, **fields: Any) -> Task:
        return asyncio.create_task(self.admit(client, hold_s, **fields))

    @property
    def times(self) -> list[float]:
        return [time for _, time in self.admitted]

    @property
    def order(self) -> str:
        return "".join(client for client, _ in self.admitted)


def run_scenario(
    scenario: Callable[[Harness], Awaitable[None]], gates: int = 1, /, **overrides: object
) -> Harness:
    """Run a scenario on a virtual clock, and check that no request waits or is in flight at the
    end."""

    async def main() -> Harness:
        harness = Harness(gates, **overrides)
        if gates > 1:
            await asyncio.sleep(_JOINED_S)
            harness.began = harness.gate.now()
        await scenario(harness)
        assert harness.gate.snapshot() == {"waiters": 0, "in_flight": 0}
        harness.gate.close()
        return harness

    return virtual_clock.run(main)


async def run_ready_tasks() -> None:
    """Run all tasks that are ready, without advancing the clock."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until_in_flight(harness: Harness) -> None:
    """Run the loop until a request is in flight, and not one step further."""
    for _ in range(20):
        if harness.gate.snapshot()["in_flight"]:
            return
        await asyncio.sleep(0)


def rate_limit(
    limit: int, remaining: int | None = None, *, tokens: bool = False
) -> RateLimitUpdate:
    """What a response reports of one quota: requests, or the model's tokens."""
    quota = Quota(limit, remaining)
    return RateLimitUpdate(None, quota) if tokens else RateLimitUpdate(quota, None)


def set_rate_limit(harness: Harness, update: RateLimitUpdate, model: str = "m") -> None:
    """Let upstream report a model's rate limit in a response."""

    async def request() -> None:
        async with harness.gate.admission(harness.exchange("first", model=model)) as admission:
            admission.record_response(ok=True, update=update)

    task = asyncio.get_running_loop().create_task(request())
    task.add_done_callback(lambda done: done.result())
