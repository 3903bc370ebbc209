"""Faults of the processes of a gate with several workers, while clients use it."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from tests.support.worker_processes import GateWithWorkers

# Each gets the gate, a list to which it adds the instants of what it does, and how long an outage
# lasts.
WorkerFault = Callable[[GateWithWorkers, list[float], float], Awaitable[None]]


def _mark(instants: list[float]) -> None:
    instants.append(asyncio.get_running_loop().time())


async def none(gate: GateWithWorkers, instants: list[float], seconds: float) -> None:
    _mark(instants)


async def killed(gate: GateWithWorkers, instants: list[float], seconds: float) -> None:
    """With waiters, slots and streams."""
    gate.gate.may_cut = True
    await gate.signal_worker(0, signal.SIGKILL)
    _mark(instants)


async def stopped(gate: GateWithWorkers, instants: list[float], seconds: float) -> None:
    pid = await gate.signal_worker(1, signal.SIGSTOP)
    _mark(instants)
    await asyncio.sleep(seconds)
    os.kill(pid, signal.SIGCONT)
    _mark(instants)


async def drained(gate: GateWithWorkers, instants: list[float], seconds: float) -> None:
    gate.gate.may_cut = True
    await gate.signal_worker(2, signal.SIGTERM)
    _mark(instants)


async def reloaded(gate: GateWithWorkers, instants: list[float], seconds: float) -> None:
    gate.gate.signal(signal.SIGHUP)
    _mark(instants)


async def supervisor_killed(gate: GateWithWorkers, instants: list[float], seconds: float) -> None:
    """A service manager starts the gate again, as soon as it has gone."""
    gate.gate.kill()
    _mark(instants)
    await gate.launch().start()
    _mark(instants)


WORKER_FAULTS: dict[str, WorkerFault] = {
    "none": none,
    "worker killed": killed,
    "worker stopped": stopped,
    "worker drained": drained,
    "reload": reloaded,
    "supervisor killed": supervisor_killed,
}
