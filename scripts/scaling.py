"""Measure what a group of gates carries, for docs/scaling.md.

`redis` measures what a call of the group's script takes, by the number of gates that have waiters,
and how much of Redis's core that is at the pace at which they call. `organisation` runs the
admission of a hundred gates with a thousand apps on a virtual clock, against the script in a real
Redis, and prints waits, fairness, the used share of the quota, memory and CPU. `picture` draws
grants a second and fairness by the number of gates: up to 16 on a virtual clock, and up to 4 real
ones. Each takes a few minutes; all start servers of their own.
"""

import argparse
import asyncio
import resource
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import aiohttp
from loguru import logger

from rustygate.core.bucket import SECOND
from rustygate.core.group_load import MOST_LOAD, spacing
from rustygate.core.group_state import LEAST_LOAD
from scripts import group_traces
from scripts.benchmarks import group
from scripts.benchmarks.organisation import Plan, describe, simulate
from scripts.benchmarks.panels import Panel, panels
from scripts.benchmarks.processes import free_port
from tests.support.group import GroupHarness, run_group
from tests.support.redis import SERVERS

GATES = (4, 16, 50, 100, 200)
FLOWS, GRANTS = 10, 500

QUOTA = group.Quota(100, 5)
SIMULATED, REAL = (1, 2, 3, 4, 6, 8, 12, 16), (1, 2, 3, 4)
SIMULATED_CALL_S = 0.002

# Of each client, at all of its gates together.
IN_FLIGHT = 48
WARM_UP_S = 3.0
REQUEST = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_completion_tokens": 5,
}


def redis_cost(calls: int) -> None:
    print(f"{FLOWS} flows wait at each gate, and {GRANTS} requests a second are granted:")
    with group_traces.client(next(iter(SERVERS.values()))) as client:
        for gates in GATES:
            us = group_traces.measure(client, gates, FLOWS, GRANTS, calls).cpu_us
            per_s = gates * SECOND / spacing(min(MOST_LOAD, max(LEAST_LOAD, gates)))
            print(
                f"  {gates} gates: {us:.0f} us a call, {per_s:.0f} calls/s, "
                f"{us * per_s / 1e6:.0%} of a core",
                flush=True,
            )


def organisation(plan: Plan, seconds: float) -> None:
    print("\n".join(describe(plan, simulate(plan, seconds))))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"  this simulation of all gates: {used.ru_utime + used.ru_stime:.0f} s of CPU, "
        f"{used.ru_maxrss / 1000:.0f} MB"
    )


# The picture.


def simulated_gates(gates: int, seconds: float) -> tuple[float, float]:
    """Grants a second, and Jain's index, of gates on a virtual clock."""

    async def scenario(harness: GroupHarness) -> None:
        harness.group.delay_s = SIMULATED_CALL_S
        await asyncio.sleep(1)
        for name, places in _placed(gates).items():
            for place in places:
                harness.flood(name, place, IN_FLIGHT // len(places))
        await asyncio.sleep(seconds + 1)

    harness = run_group(scenario, gates, rate_limit=QUOTA.rate, rate_limit_burst=QUOTA.burst)
    got = [harness.count(name, 2) for name in group.BUSY]
    return sum(got) / seconds, group.jain(got)


def _placed(gates: int) -> dict[str, list[int]]:
    """At which gates the clients are."""
    every = list(range(gates))
    return dict(zip(group.BUSY, (every[:1], every, every[-2:]), strict=True))


def real_gates(gates: int, seconds: float) -> tuple[float, float]:
    """The same of real ones."""
    with ExitStack() as stack:
        simulator = stack.enter_context(
            group.process(
                "simulate", "--latency", "0.02", "--rpm", "1000000", port=free_port(),
                RUST_LOG="error",
            )
        )  # fmt: skip
        settings = {
            "OPENAI_API_KEY": "sk-any",
            "OPENAI_BASE_URL": f"{simulator}/v1",
            "RATE_LIMIT": str(QUOTA.rate),
            "RATE_LIMIT_BURST": str(QUOTA.burst),
            "RATE_LIMIT_TIMEOUT": "120",
            "RUST_LOG": "warn",
            "REDIS_URL": stack.enter_context(group.redis_server()).url,
        }
        urls = [
            stack.enter_context(group.process("serve", port=free_port(), **settings))
            for _ in range(gates)
        ]
        got = asyncio.run(_send_requests(urls, seconds))
    return sum(got.values()) / seconds, group.jain([got[name] for name in group.BUSY])


async def _send_requests(gates: list[str], seconds: float) -> Counter[str]:
    """What each client gets after a warm-up."""
    got: Counter[str] = Counter()

    async def keep_sending(name: str, gate: str) -> None:
        url, headers = f"{gate}/v1/chat/completions", {"X-RustyGate-Client": name}
        while True:
            async with session.post(url, json=REQUEST, headers=headers) as response:
                await response.read()
                got[name] += response.status == 200

    async with aiohttp.ClientSession() as session:
        tasks = [
            asyncio.create_task(keep_sending(name, gates[place]))
            for name, places in _placed(len(gates)).items()
            for place in places
            for _ in range(IN_FLIGHT // len(places))
        ]
        await asyncio.sleep(WARM_UP_S)
        got.clear()
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return got


def picture(path: Path, seconds: float) -> None:
    lines: dict[str, list[tuple[int, float, float]]] = {"virtual clock": [], "real gates": []}
    for gates in SIMULATED:
        lines["virtual clock"].append((gates, *simulated_gates(gates, seconds)))
    for gates in REAL:
        lines["real gates"].append((gates, *real_gates(gates, seconds)))
    for name, points in lines.items():
        for gates, per_s, fairness in points:
            print(f"{name}: {gates} gates, {per_s:.1f} grants/s, Jain {fairness:.4f}")
    path.write_text(
        panels(
            f"One quota of {QUOTA.rate:g} requests a second, three busy clients, unevenly placed",
            "gates in the group",
            Panel("grants a second", (0, 120), 20, _column(lines, 1)),
            Panel("Jain's index: 1 if shares are equal", (0.9, 1.0), 0.02, _column(lines, 2)),
        )
    )


def _column(
    lines: dict[str, list[tuple[int, float, float]]], column: int
) -> dict[str, list[tuple[float, float]]]:
    return {name: [(row[0], row[column]) for row in rows] for name, rows in lines.items()}


def main() -> None:
    logger.remove()
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    redis = commands.add_parser("redis", help="CPU of a Redis by the number of gates")
    redis.add_argument("--calls", type=int, default=3000)
    whole = commands.add_parser("organisation", help="many gates and apps on a virtual clock")
    whole.add_argument("--gates", type=int, default=Plan.gates)
    whole.add_argument("--apps", type=int, default=Plan.apps)
    whole.add_argument("--models", type=int, default=Plan.models)
    whole.add_argument("--tpm", type=int, default=Plan.tokens_per_minute, help="of each model")
    whole.add_argument("--seconds", type=float, default=30)
    drawn = commands.add_parser("picture", help="grants and fairness by the number of gates")
    drawn.add_argument("--seconds", type=float, default=15)
    drawn.add_argument("path", type=Path, nargs="?", default=Path("docs/group-scaling.svg"))
    arguments = parser.parse_args()
    if arguments.command == "redis":
        redis_cost(arguments.calls)
    elif arguments.command == "organisation":
        plan = Plan(arguments.gates, arguments.apps, arguments.models, arguments.tpm)
        organisation(plan, arguments.seconds)
    else:
        picture(arguments.path, arguments.seconds)


if __name__ == "__main__":
    main()
