"""A control plane and its workers on one event loop, for a virtual clock."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from rustygate.admission.client_budgets import Spending
from rustygate.admission.gate import Gate
from rustygate.control_plane import ControlPlane
from rustygate.core.bucket import SECOND
from rustygate.core.clients import SpendingLimits
from rustygate.core.price_list import PriceList
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock
from rustygate.workers.channel import Channel
from rustygate.workers.remote_control import RemoteControl
from rustygate.workers.remote_gate import RemoteAdmission
from rustygate.workers.service import WorkerService
from rustygate.workers.worker import ALIVE_INTERVAL_S
from rustygate.workers.worker_process import SUSPEND_AFTER_S
from tests.support.channels import Link
from tests.support.gate import captured_log
from tests.support.harness import DEFAULTS, run_ready_tasks

BUDGET = 1000

# More than any scenario takes on its virtual clock.
LIMIT_S = 3600.0

ONE_SLOT: dict[str, Any] = {"rate_limit": None, "concurrency_limit": 1}
ONE_EACH_SECOND: dict[str, Any] = {"rate_limit": 1.0, "rate_limit_burst": 1}


class RecordingTally:
    """Settles with the budgets of clients, and remembers the rest."""

    def __init__(self, spending: Spending) -> None:
        self._spending = spending
        self.settled: list[Exchange] = []
        self.counted: list[tuple[object, ...]] = []

    def settle(self, exchange: Exchange) -> None:
        self.settled.append(exchange)
        self._spending.settle(exchange)

    def count_retry(self, *values: object) -> None:
        self.counted.append(("retry", *values))

    def count_upstream_429(self, *values: object) -> None:
        self.counted.append(("429", *values))

    def count_refusal(self, *values: object) -> None:
        self.counted.append(("refusal", *values))


class RemoteWorker:
    """A worker whose messages can be held up, as if its process was stopped."""

    def __init__(self, control: ControlPlane) -> None:
        self.service = WorkerService(control, {"alive": lambda: None}, lambda: None)
        self.channel = Channel({}, {}, lambda: self.control.gate.close())
        self.control = RemoteControl(self.channel)
        self.gate = self.control.gate
        self.link = Link(self.service.channel, self.channel)
        self._loop = asyncio.get_running_loop()
        self._tell_alive()

    def _tell_alive(self) -> None:
        """As a worker does all the time, unless it is stopped."""
        if not self.link.to_supervisor.is_held:
            self.gate.tell_alive()
        self._loop.call_later(ALIVE_INTERVAL_S, self._tell_alive)

    def end(self) -> int:
        """Its process ends."""
        self.link.cut()
        return self.service.end()


class RemoteGates:
    """A gate and the workers that use it.

    Attributes:
        admitted: the client of each exchange that was admitted, and when, in seconds.
    """

    def __init__(self, workers: int = 1, **overrides: Any) -> None:
        self.settings = replace(DEFAULTS, **overrides)
        self.gate = Gate(self.settings)
        self.spending = Spending(PriceList())
        self.spending_limits = {"limited": SpendingLimits(tokens_per_day=BUDGET)}
        self.spending.set_limits(self.spending_limits)
        self.tally = RecordingTally(self.spending)
        control = SimpleNamespace(
            gate=self.gate,
            spending=self.spending,
            tally=self.tally,
            **dict.fromkeys(("readiness", "metrics_text", "state_text"), None),
            **dict.fromkeys(("usage_text", "budgets_text"), None),
        )
        self.workers = [RemoteWorker(cast(ControlPlane, control)) for _ in range(workers)]
        self.began = self.gate.now()
        self.admitted: list[tuple[str, float]] = []

    def exchange(self, client: str = "a", **fields: Any) -> Exchange:
        deadline = self.gate.now() + int(self.settings.rate_limit_timeout * SECOND)
        given = {"deadline": deadline, "arrived": self.gate.now(), **fields}
        return Exchange(client, "POST", "/v1/chat/completions", **given)

    def admission(self, exchange: Exchange, worker: int = 0) -> RemoteAdmission:
        return self.workers[worker].gate.admission(exchange)

    async def enter(self, exchange: Exchange, worker: int = 0) -> RemoteAdmission:
        admission = await self.admission(exchange, worker).enter()
        self.admitted.append((exchange.client, self.now_s))
        return admission

    async def admit(self, exchange: Exchange, hold_s: float = 0, worker: int = 0) -> None:
        """Send an exchange through the gate, and keep it in flight for a time."""
        admission = await self.enter(exchange, worker)
        await asyncio.sleep(hold_s)
        admission.leave()

    @property
    def now_s(self) -> float:
        return (self.gate.now() - self.began) / SECOND

    @property
    def order(self) -> str:
        return "".join(client for client, _ in self.admitted)

    def check_nothing_is_left(self) -> None:
        """Check that nothing waits, is in flight, or is reserved, on either side."""
        nothing = {"waiters": 0, "in_flight": 0}
        assert self.gate.snapshot() == nothing
        assert not [lane for lane in self.gate.lanes if lane.users]
        account = self.spending.budgets.account("limited")
        assert account is not None
        assert account.reserved.tokens == 0
        for worker in self.workers:
            assert worker.gate.snapshot() == nothing
            service = worker.service
            assert not service._attempts
            assert not service._reserved
            assert not service._suspended
            assert not list(service._turn_queues.values())


def run(
    scenario: Callable[[RemoteGates], Awaitable[None]], workers: int = 1, **settings: Any
) -> RemoteGates:
    """Run a scenario, and check that nothing is left and no error was logged."""

    async def main() -> RemoteGates:
        gates = RemoteGates(workers, **settings)
        # The workers' timers go on for ever, so a deadlock would not be seen.
        async with asyncio.timeout(LIMIT_S):
            await scenario(gates)
        await run_ready_tasks()
        gates.check_nothing_is_left()
        return gates

    with captured_log() as log:
        gates = virtual_clock.run(main)
    assert not log.errors
    return gates


def spawn(coroutine: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait for its end."""
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


async def stop_worker(gates: RemoteGates, seconds: float) -> None:
    """The first worker is stopped for so long, and suspended in time."""
    link, service = gates.workers[0].link, gates.workers[0].service
    link.hold()
    suspended = SUSPEND_AFTER_S + 0.25
    await asyncio.sleep(min(seconds, suspended))
    if seconds >= suspended:
        service.suspend()
        service.suspend()
        await asyncio.sleep(seconds - suspended)


async def resume_worker(gates: RemoteGates) -> None:
    """The first worker runs again, and reads what was sent to it."""
    gates.workers[0].link.release()
    gates.workers[0].gate.tell_alive()
    await run_ready_tasks()


async def settle(gates: RemoteGates, exchange: Exchange) -> None:
    """The first worker settles an exchange."""
    exchange.outcome = "ok"
    gates.workers[0].control.tally.settle(exchange)
    await run_ready_tasks()
