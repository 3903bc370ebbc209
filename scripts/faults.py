"""What faults of a group of gates cost, under load from clients of the official SDK.

Three gates share 40 requests a second, with a burst of 2. Three clients always want more than they
get: one at the first gate, one at all of them, one at the last two. A fourth one streams. Their
own retries are off. Clients go on to another gate while theirs was killed, is stopped or drains.
The script prints for each fault: errors of clients; exchanges that a killed gate took with it;
requests that a draining gate refused and another one took; the part of the quota that was used
within 2 seconds of the fault's instants and outside of them; the burst that upstream saw; Jain's
fairness index of the busy clients outside; the states of the gates at the end of the fault.

With --workers, a single gate has that many workers and no group, and the faults are those of its
processes.

`late` is by how much a timer of the script itself was late at most: a machine that is busy with
other things makes a group look worse.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import redis

from tests.support.gate_group import GateGroup, pass_time, running_group
from tests.support.gates import Gates
from tests.support.slow_proxy import SlowProxy
from tests.support.worker_faults import WORKER_FAULTS
from tests.support.worker_processes import running_workers

RATE, BURST = 40.0, 2
BUSY = ("one gate", "all gates", "two gates")

# How long before a fault and after it the clients send.
AROUND_S = 5.0

# What happens this close to an instant of a fault is counted apart.
NEAR_S = 2.0

Fault = Callable[["Run"], Awaitable[None]]

FAULTS: dict[str, Fault] = {}


class Run:
    """A group under load.

    Attributes:
        seconds: how long a temporary fault lasts.
        instants: when something was done to the group.
        states: those of the gates at the end of the fault.
    """

    def __init__(self, group: GateGroup, seconds: float) -> None:
        self.group = group
        self.seconds = seconds
        self.instants: list[float] = []
        self.states: list[str] = []

    def mark(self) -> None:
        self.instants.append(asyncio.get_running_loop().time())

    async def outage(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Let something fail for a while."""
        self.mark()
        begin()
        await self.lasting(self.seconds)
        self.mark()
        end()

    async def commands(self, begin: tuple[str, ...], end: tuple[str, ...]) -> None:
        """An outage between two commands of Redis."""
        command = self.group.command
        await self.outage(lambda: command(*begin), lambda: command(*end))

    async def lasting(self, seconds: float) -> None:
        """Let a fault last, and note the gates' states at its end."""
        await asyncio.sleep(seconds)
        self.states = [
            "stopped" if gate.is_stopped else await self.group.state(gate) for gate in self.group
        ]


def fault(name: str) -> Callable[[Fault], Fault]:
    def register(function: Fault) -> Fault:
        FAULTS[name] = function
        return function

    return register


@fault("none")
async def none(run: Run) -> None:
    run.mark()


@fault("gate killed")
async def gate_killed(run: Run) -> None:
    """With waiters, grants, slots and streams."""
    run.mark()
    run.group.gates[0].kill()


@fault("gate stopped")
async def gate_stopped(run: Run) -> None:
    gate = run.group.gates[1]
    await run.outage(gate.stop, gate.resume)


@fault("gate drained")
async def gate_drained(run: Run) -> None:
    run.mark()
    run.group.gates[0].drain()


@fault("gate joins")
async def gate_joins(run: Run) -> None:
    gate = run.group.launch()
    await gate.start()
    run.mark()
    run.group.keep_sending("newcomer", len(run.group.gates) - 1)


@fault("Redis killed")
async def redis_killed(run: Run) -> None:
    await run.outage(run.group.redis.stop, run.group.redis.start)


@fault("Redis stopped")
async def redis_stopped(run: Run) -> None:
    await run.outage(run.group.redis.pause, run.group.redis.resume)


@fault("FLUSHALL")
async def flushed(run: Run) -> None:
    run.mark()
    run.group.command("FLUSHALL")


@fault("SCRIPT FLUSH")
async def script_flushed(run: Run) -> None:
    run.mark()
    run.group.command("SCRIPT FLUSH")


@fault("connections killed")
async def connections_killed(run: Run) -> None:
    run.mark()
    run.group.command("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")


@fault("no memory")
async def no_memory(run: Run) -> None:
    await run.commands(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))


@fault("no writes")
async def no_writes(run: Run) -> None:
    """The server has become a replica."""
    await run.commands(("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"))


@fault("no permission")
async def no_permission(run: Run) -> None:
    user = "ACL", "SETUSER", "default"
    await run.commands((*user, "-@scripting"), (*user, "+@all"))


@fault("script hangs")
async def script_hangs(run: Run) -> None:
    """Of another program, until it is ended."""
    run.group.command("CONFIG", "SET", "lua-time-limit", "100")
    endless = asyncio.create_task(
        asyncio.to_thread(run.group.command, "EVAL", "while true do end", 0)
    )
    await run.outage(lambda: None, lambda: run.group.command("SCRIPT", "KILL"))
    with suppress(redis.ResponseError):
        await endless


@fault("connection hangs")
async def connection_hangs(run: Run) -> None:
    """Of a fourth gate, which reaches Redis through a proxy."""
    proxy = SlowProxy(run.group.redis.port)
    try:
        await run.group.launch(proxy.port).start()
        await run.group.until_members(4)
        run.group.keep_sending("fourth gate", 3)
        await pass_time(2 * NEAR_S)
        await run.outage(proxy.hang, proxy.resume)
        await pass_time(AROUND_S)
    finally:
        run.group.gates[3].kill()
        proxy.close()


async def run_group_fault(name: str, gates: int, latency_s: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with running_group(
            Path(folder), gates, latency_s=latency_s, RATE_LIMIT=RATE, RATE_LIMIT_BURST=BURST
        ) as group:
            run = Run(group, seconds)
            everywhere = range(gates)
            for client, places in zip(
                BUSY, ((0,), everywhere, (gates - 2, gates - 1)), strict=True
            ):
                group.keep_sending(client, *places)
            group.keep_sending("streams", *everywhere, in_flight=2, stream=True)

            async def fault() -> None:
                await FAULTS[name](run)

            began, ended = await around(fault)
            if not run.states:
                await run.lasting(0)
            print_run(name, group, run.instants, run.states, began, ended)


async def around(fault: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Let clients send before a fault and after it. Returns when they began and ended."""
    began = await pass_time(1)
    await pass_time(AROUND_S)
    await fault()
    return began, await pass_time(NEAR_S + AROUND_S)


async def run_worker_fault(name: str, workers: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with running_workers(
            Path(folder), workers=workers, RATE_LIMIT=RATE, RATE_LIMIT_BURST=BURST
        ) as gate:
            for client in BUSY:
                gate.keep_sending(client, 0)
            gate.keep_sending("streams", 0, in_flight=6, stream=True)
            instants: list[float] = []

            async def fault() -> None:
                await WORKER_FAULTS[name](gate, instants, seconds)

            began, ended = await around(fault)
            states = [each["state"] for each in await gate.workers()]
            print_run(name, gate, instants, states, began, ended)


def print_run(
    name: str, gates: Gates, instants: list[float], states: list[str], began: float, ended: float
) -> None:
    upstream = gates.upstream
    near = [(at, at + NEAR_S) for at in instants]
    bounds = [began, *(each for pair in near for each in pair), ended]
    outside = list(zip(bounds[::2], bounds[1::2], strict=True))

    def used(spans: list[tuple[float, float]]) -> str:
        return "/".join(f"{upstream.used(RATE, *span):.0%}" for span in spans)

    fairness = "/".join(f"{upstream.jain(BUSY, *span):.3f}" for span in outside)
    print(
        f"{name:<21} errors {dict(gates.errors) or 0}, lost {gates.lost}, moved {gates.moved}, "
        f"used near {used(near)}, else {used(outside)}, "
        f"burst seen {upstream.excess(RATE, began):.1f}, Jain {fairness}, "
        f"states {' '.join(states)}, late {gates.lateness.worst_s * 1000:.0f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--latency", type=float, default=0, metavar="MS", help="of all calls to Redis"
    )
    parser.add_argument(
        "--seconds", type=float, default=10, help="how long outages last, default: %(default)s"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="a single gate with this many workers"
    )
    parser.add_argument(
        "fault",
        nargs="*",
        help=f"default: all of {', '.join(FAULTS)}; with --workers, of {', '.join(WORKER_FAULTS)}",
    )
    arguments = parser.parse_args()
    seconds = arguments.seconds
    if arguments.workers:
        for name in arguments.fault or WORKER_FAULTS:
            asyncio.run(run_worker_fault(name, arguments.workers, seconds))
        return
    for name in arguments.fault or FAULTS:
        asyncio.run(run_group_fault(name, arguments.gates, arguments.latency / 1000, seconds))


if __name__ == "__main__":
    main()
