"""What a request costs at four gates in a group, next to four gates that share nothing.

All gates run on the core under test, each with the same load. CPU time is that of the gates. What
Redis does, which runs beside the load, is reported separately.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from scripts.benchmarks.contenders import GATE, GATE_MODULE, Side, ours
from scripts.benchmarks.load import send_paced, send_requests
from scripts.benchmarks.processes import cpu_s
from scripts.benchmarks.report import ALONE, CPU_PER
from scripts.benchmarks.run import Figures, Run
from tests.support.redis import NONE_INSTALLED, SERVERS, RedisServer

MEMBERS = 4
GROUP = f"group of {MEMBERS}"
CONNECTIONS = 8
# At a slow pace, figures need some requests.
PACED_SECONDS = 4
QUEUED_RATE = 50

METRICS = CPU, CALLS, SENT, RECEIVED, REDIS_CPU = (
    f"{CPU_PER}request",
    "script calls/s of a gate",
    "KB/s to Redis",
    "KB/s from Redis",
    "Redis CPU %",
)
LOADS = SLOW, FAST, BUSY, QUEUED = (
    "5 requests/s a gate",
    "50 requests/s a gate",
    "as fast as possible",
    f"{QUEUED_RATE}/s a gate, all queued",
)

Send = Callable[[Side], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent to each gate; returns the number of requests.

    Args:
        rate: the quota per gate in requests a second, if the requests are to wait.
    """

    name: str
    send: Send
    rate: int | None = None

    def environ(self, gates: int) -> dict[str, str]:
        """The settings of gates, this many of which share a quota."""
        if self.rate is None:
            return {}
        return {"RATE_LIMIT": str(self.rate * gates), "RATE_LIMIT_BURST": "1"}


@dataclass(frozen=True, slots=True)
class RedisUse:
    """What a Redis has done so far; the difference of two is what it did in between."""

    calls: int
    received: int
    sent: int
    cpu_s: float

    @classmethod
    def of(cls, server: RedisServer) -> "RedisUse":
        info = server.command("INFO", "all")
        scripts = (info.get(f"cmdstat_{name}", {}) for name in ("evalsha", "eval"))
        return cls(
            sum(each.get("calls", 0) for each in scripts),
            info["total_net_input_bytes"],
            info["total_net_output_bytes"],
            info["used_cpu_user"] + info["used_cpu_sys"],
        )

    def figures(self, before: "RedisUse", seconds: float) -> Figures:
        """What the group cost Redis each second, since `before`."""
        return {
            CALLS: (self.calls - before.calls) / MEMBERS / seconds,
            SENT: (self.received - before.received) / 1000 / seconds,
            RECEIVED: (self.sent - before.sent) / 1000 / seconds,
            REDIS_CPU: 100 * (self.cpu_s - before.cpu_s) / seconds,
        }


def group(run: Run) -> None:
    """Requests at a slow pace, at a fast one, without pause, and in a queue."""
    if not SERVERS:
        run.report.skip("group", NONE_INSTALLED)
        return
    for load in _loads(run.effort.seconds):
        with (
            _redis() as server,
            _gates(run.gate | load.environ(1)) as alone,
            _gates(run.gate | load.environ(MEMBERS) | {"REDIS_URL": server.url}) as members,
        ):
            measures = {
                ALONE: partial(_measure, load, alone),
                GROUP: partial(_measure, load, members, server),
            }
            run.alternate("group", load.name, measures)


def _loads(seconds: float) -> tuple[Load, ...]:
    async def as_fast_as_possible(side: Side) -> int:
        results = await send_requests(side.port, side.headers, CONNECTIONS, seconds)
        return len(results.latencies)

    async def queued(side: Side) -> int:
        results = await send_requests(side.port, side.headers, CONNECTIONS, PACED_SECONDS)
        return len(results.latencies)

    def paced(rate: int) -> Send:
        return lambda side: send_paced(side.port, side.headers, rate, PACED_SECONDS)

    return (
        Load(SLOW, paced(5)),
        Load(FAST, paced(50)),
        Load(BUSY, as_fast_as_possible),
        Load(QUEUED, queued, QUEUED_RATE),
    )


@contextmanager
def _redis() -> Iterator[RedisServer]:
    with TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        try:
            yield server
        finally:
            server.close()


@contextmanager
def _gates(environ: Mapping[str, str]) -> Iterator[list[Side]]:
    gate = ours(GATE, GATE_MODULE, environ)
    with ExitStack() as stack:
        yield [stack.enter_context(gate.start()) for _ in range(MEMBERS)]


def _measure(load: Load, gates: list[Side], server: RedisServer | None = None) -> Figures:
    before, began = sum(cpu_s(gate.pid) for gate in gates), monotonic()
    redis_before = server and RedisUse.of(server)
    requests = asyncio.run(_send_to_all(load.send, gates))
    spent, took = sum(cpu_s(gate.pid) for gate in gates) - before, monotonic() - began
    figures = {CPU: spent / requests * 1e6}
    if server and redis_before:
        return figures | RedisUse.of(server).figures(redis_before, took)
    return figures


async def _send_to_all(send: Send, gates: list[Side]) -> int:
    return sum(await asyncio.gather(*(send(gate) for gate in gates)))
