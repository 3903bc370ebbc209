"""How several gates share one quota: as a group, each for itself, and as one gate beside them; and
how the workers of one gate share it.

Clients of the official SDK, their own retries off, are placed unevenly: one at the first gate, one
at all gates in turn, one at the last two, and a light one, with a request a second, at the first.
The first three always want more than they get. For each run it prints the responses by status, the
429s that upstream sent, the share of the quota that was used, Jain's fairness index of the three
busy clients, the light client's waits, and what the group cost Redis.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.request import urlopen

import openai

from scripts.benchmarks.processes import free_port, wait_until_listening
from tests.support.redis import NONE_INSTALLED, SERVERS, RedisServer

BUSY = ("one gate", "all gates", "two gates")
IN_FLIGHT = 8
LIGHT = "light"
QUEUED_HEADER = "x-rustygate-queued-ms"


@dataclass(frozen=True)
class Quota:
    """The gates' own limit, in requests a second, and its burst; `auto`: upstream enforces it and
    reports it, the gates learn it."""

    rate: float
    burst: int
    auto: bool = False

    def __str__(self) -> str:
        return f"{self.rate:g}/s, " + ("learned" if self.auto else f"burst {self.burst}")


QUOTAS = (Quota(40, 2), Quota(100, 1), Quota(1, 3), Quota(20, 1200, auto=True))


@dataclass
class Result:
    """What the clients of a run got."""

    statuses: Counter[str] = field(default_factory=Counter)
    got: Counter[str] = field(default_factory=Counter)
    light_ms: list[float] = field(default_factory=list)


@contextmanager
def process(*command: str, port: int, **environ: str) -> Iterator[str]:
    """Run a server of this project. Yields its URL."""
    child = subprocess.Popen(
        [sys.executable, "-m", "rustygate", *command, "--port", str(port)],
        env={"PATH": os.environ["PATH"], **environ},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until_listening(child, port)
        if child.returncode is not None:
            sys.exit(f"a server ended with {child.returncode}")
        url = f"http://127.0.0.1:{port}"
        if command[0] == "serve":
            # The supervisor of workers listens before they serve.
            urlopen(f"{url}/health").close()
        yield url
    finally:
        child.terminate()
        child.wait()


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    if not SERVERS:
        sys.exit(NONE_INSTALLED)
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        try:
            yield server
        finally:
            server.close()


class Client:
    """A client of the official SDK that sends requests to some gates in turn."""

    def __init__(self, name: str, gates: list[str], result: Result) -> None:
        self._name = name
        self._result = result
        self._sdks = [
            openai.AsyncOpenAI(
                base_url=f"{gate}/v1",
                api_key="any",
                max_retries=0,
                timeout=120,
                default_headers={"X-RustyGate-Client": name},
            )
            for gate in gates
        ]
        self._next = cycle(self._sdks)

    async def send(self) -> float:
        """Send a request. Returns how long it was queued, in ms."""
        message: Any = {"role": "user", "content": "Hi"}
        try:
            response = await next(self._next).chat.completions.with_raw_response.create(
                model="gpt-4o", messages=[message], max_completion_tokens=5
            )
        except openai.APIStatusError as error:
            self._result.statuses[f"{error.status_code} {error.code}"] += 1
            return float(error.response.headers.get(QUEUED_HEADER, 0))
        except openai.APIConnectionError:
            self._result.statuses["connection error"] += 1
            return 0
        self._result.statuses["200"] += 1
        self._result.got[self._name] += 1
        return float(response.headers[QUEUED_HEADER])

    async def keep_sending(self, pause_s: float = 0) -> None:
        while True:
            queued_ms = await self.send()
            if pause_s:
                self._result.light_ms.append(queued_ms)
                await asyncio.sleep(pause_s)

    async def close(self) -> None:
        for sdk in self._sdks:
            await sdk.close()


async def send_requests(gates: list[str], seconds: float) -> Result:
    result = Result()
    placed = dict(zip(BUSY, (gates[:1], gates, gates[-2:]), strict=True))
    clients = {name: Client(name, urls, result) for name, urls in placed.items()}
    light = Client(LIGHT, gates[:1], result)
    tasks = [
        asyncio.create_task(client.keep_sending())
        for client in clients.values()
        for _ in range(IN_FLIGHT)
    ]
    tasks.append(asyncio.create_task(light.keep_sending(1)))
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for client in (*clients.values(), light):
        await client.close()
    return result


def jain(shares: list[int]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares) or 1)


def upstream_429s(simulator: str) -> float:
    """The share of its responses that were 429."""
    with urlopen(f"{simulator}/simulator/stats") as response:
        by_status = Counter(json.load(response)["by_status"])
    return by_status["429"] / (sum(by_status.values()) or 1)


def redis_cost(server: RedisServer) -> tuple[int, float]:
    """The calls of the script and the CPU seconds of a Redis so far."""
    info = server.command("INFO", "all")
    scripts = (info.get(f"cmdstat_{name}", {}) for name in ("evalsha", "eval"))
    calls = sum(each.get("calls", 0) for each in scripts)
    return calls, info["used_cpu_user"] + info["used_cpu_sys"]


def run(
    quota: Quota, gates: int, seconds: float, *, grouped: bool = False, workers: int = 1
) -> None:
    """Run the clients against some gates, and print what they got."""
    with ExitStack() as stack:
        limits = ("--rpm", str(round(quota.rate * 60))) if quota.auto else ("--rpm", "1000000")
        simulator = stack.enter_context(
            process("simulate", "--latency", "0.02", *limits, port=free_port(), RUST_LOG="error")
        )
        settings = {
            "OPENAI_API_KEY": "sk-any",
            "OPENAI_BASE_URL": f"{simulator}/v1",
            "RATE_LIMIT": "auto" if quota.auto else str(quota.rate),
            "RATE_LIMIT_BURST": "20" if quota.auto else str(quota.burst),
            "RATE_LIMIT_TIMEOUT": "120",
            "RUST_LOG": "warn",
            "WORKERS": str(workers),
        }
        server = None
        if grouped:
            server = stack.enter_context(redis_server())
            settings["REDIS_URL"] = server.url
        urls = [
            stack.enter_context(process("serve", port=free_port(), **settings))
            for _ in range(gates)
        ]
        result = asyncio.run(send_requests(urls, seconds))
        refused = upstream_429s(simulator)
        cost = ""
        if server is not None:
            calls, cpu = redis_cost(server)
            cost = (
                f", {calls / gates / seconds:.0f} syncs a second and gate, "
                f"Redis {cpu / seconds:.1%} of a core"
            )
    burst = quota.rate * 60 if quota.auto else quota.burst
    name = f"{gates} gates in a group" if grouped else f"{gates} gates" if gates > 1 else "1 gate"
    name = name if workers == 1 else f"{workers} workers"
    waits = quantiles(result.light_ms, n=20) if len(result.light_ms) > 1 else [0.0] * 19
    used = result.statuses["200"] / (burst + quota.rate * seconds)
    print(
        f"{quota!s:<18} {name:<18} clients got {dict(result.statuses)}, "
        f"upstream sent {refused:.2%} 429s, used {used:.1%}, "
        f"Jain {jain([result.got[name] for name in BUSY]):.4f}, "
        f"light client p50 {waits[9]:.0f} ms, p95 {waits[18]:.0f} ms{cost}",
        flush=True,
    )


def main(gates: int, seconds: float) -> None:
    for quota in QUOTAS:
        run(quota, 1, seconds)
        run(quota, gates, seconds, grouped=True)
        run(quota, gates, seconds)


def compare_workers(workers: int, seconds: float) -> None:
    """A gate with this many workers, beside a single process."""
    for quota in QUOTAS:
        run(quota, 1, seconds)
        run(quota, 1, seconds, workers=workers)
