"""Measure how forty clients of the official SDK share one quota through the gate.

The gate runs with RATE_LIMIT=auto in front of the simulator, which enforces the quota strictly and
reports it in its headers as OpenAI does. The clients' own retries are off. For each scenario the
script prints the 429s that clients got, the 429s that upstream sent (in all, and after the first
seconds), the share of the quota that was used while all clients wanted more, and Jain's fairness
index of the clients' shares. For the second half of the run, when the initial burst is spent, it
prints how far the rate was from the quota's, and how many waits were within 30% of the prediction
on arrival. With --other another consumer, which sends straight to upstream, takes part of each
quota at a steady rate; the counts are then without it, and the quota is what it left. With --gates
it instead compares a group of gates with one gate, and with as many gates without a group
(`benchmarks/group.py`); with --workers, a gate of several processes with one of a single process.
With --gate the script itself is a scenario's gate and writes those waits to a file.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any
from urllib.request import urlopen

import openai

from rustygate.admission.dispatcher import Dispatcher
from rustygate.admission.waiter import Waiter
from rustygate.cli import main as rustygate
from scripts.benchmarks import group
from scripts.benchmarks.processes import free_port, wait_until_listening

CLIENTS = 40
FIRST_S = 5.0
TOO_MANY_REQUESTS = "429"

# Shorter waits depend on the machine as much as on the queue.
MIN_WAIT_NS = 100_000_000
TOLERANCE = 0.3


@dataclass(frozen=True)
class Scenario:
    """A quota, and the requests of each client: some models, random sizes."""

    name: str
    rpm: int
    tpm: int
    models: tuple[str, ...]
    tokens: tuple[int, int]


SCENARIOS = (
    Scenario("requests-bound", 1200, 10**9, ("gpt-4o",), (5, 20)),
    Scenario("tokens-bound", 10**6, 120_000, ("gpt-4o",), (20, 200)),
    Scenario("two models", 900, 90_000, ("gpt-4o", "gpt-4o-mini"), (20, 120)),
)


@contextmanager
def running(*command: str, **environ: str) -> Iterator[str]:
    """Run a server on a free port. Yields its URL."""
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, *(part.format(port=port) for part in command)],
        env=os.environ | environ | {"PORT": str(port)},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until_listening(child, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait()


def serve(waits_file: Path) -> int:
    """Run the gate, and write each waiter's arrival, predicted wait and actual wait, in ns."""
    waits: list[tuple[int, int, int]] = []
    predictions: dict[Waiter, int] = {}
    start_waiting, stop_waiting = Dispatcher.start_waiting, Dispatcher.stop_waiting

    def start(dispatcher: Dispatcher, newcomer: Waiter, began: int) -> asyncio.Future[None]:
        predictions[newcomer] = dispatcher.predict(newcomer).wait
        return start_waiting(dispatcher, newcomer, began)

    def stop(dispatcher: Dispatcher, waiter: Waiter, began: int) -> None:
        stop_waiting(dispatcher, waiter, began)
        predicted = predictions.pop(waiter)
        if waiter.granted:
            waits.append((began, predicted, dispatcher.now() - began))

    setattr(Dispatcher, "start_waiting", start)  # noqa: B010 - mypy forbids this
    setattr(Dispatcher, "stop_waiting", stop)  # noqa: B010
    code = rustygate(["serve"])
    waits_file.write_text(json.dumps(waits))
    return code


def print_waits(waits_file: Path, since: float) -> None:
    """Compare predicted with actual waits, for arrivals after an instant."""
    waits = json.loads(waits_file.read_text())
    ratios = [
        predicted / actual
        for arrived, predicted, actual in waits
        if arrived >= since * 1e9 and actual >= MIN_WAIT_NS
    ]
    if ratios:
        near = sum(abs(ratio - 1) <= TOLERANCE for ratio in ratios) / len(ratios)
        print(
            f"{'':<16} {len(ratios)} waits, {near:.1%} within {TOLERANCE:.0%} of the prediction "
            f"(median ratio {median(ratios):.2f})",
            flush=True,
        )


@dataclass(frozen=True)
class Usage:
    """The simulator's counts: responses by status, and the model's tokens."""

    responses: Counter[str]
    tokens: int

    @classmethod
    def fetch(cls, simulator: str) -> "Usage":
        with urlopen(f"{simulator}/simulator/stats") as response:
            stats = json.load(response)
        return cls(Counter(stats["by_status"]), stats["tokens_in"] + stats["tokens_out"])

    def minutes(self, scenario: Scenario) -> float:
        """The usage in minutes of a model's quota, by the scarcer budget."""
        minutes = max(self.responses["200"] / scenario.rpm, self.tokens / scenario.tpm)
        return minutes / len(scenario.models)

    def since(self, other: "Usage") -> "Usage":
        return Usage(self.responses - other.responses, self.tokens - other.tokens)


class Other:
    """Another consumer of the quota, which does not go through the gate.

    Args:
        share: what it asks for, as a share of each model's quota.
    """

    def __init__(self, simulator: str, scenario: Scenario, share: float) -> None:
        self._simulator = simulator
        self._scenario = scenario
        self.share = share
        self._responses: Counter[str] = Counter()
        self._tokens = 0

    def usage(self) -> Usage:
        return Usage(self._responses.copy(), self._tokens)

    async def run(self) -> None:
        """Send requests until this is cancelled."""
        tokens = sum(self._scenario.tokens) // 2
        rate = self.share * min(self._scenario.rpm, self._scenario.tpm / (tokens + 10)) / 60
        async with (
            openai.AsyncOpenAI(
                base_url=f"{self._simulator}/v1", api_key="any", max_retries=0
            ) as sdk,
            asyncio.TaskGroup() as requests,
        ):
            while rate:
                for model in self._scenario.models:
                    requests.create_task(self._send(sdk, model, tokens))
                await asyncio.sleep(1 / rate)

    async def _send(self, sdk: openai.AsyncOpenAI, model: str, tokens: int) -> None:
        message: Any = {"role": "user", "content": "x" * 40}
        try:
            response = await sdk.chat.completions.create(
                model=model, messages=[message], max_completion_tokens=tokens
            )
        except openai.APIStatusError as error:
            self._responses[str(error.status_code)] += 1
            return
        self._responses["200"] += 1
        self._tokens += response.usage.total_tokens if response.usage else 0


async def client(
    number: int, gate: str, scenario: Scenario, until: float, statuses: Counter[str]
) -> int:
    """Send requests until the end. Returns how many requests or tokens the client got."""
    sdk = openai.AsyncOpenAI(
        base_url=f"{gate}/v1",
        api_key="any",
        max_retries=0,
        timeout=120,
        default_headers={"X-RustyGate-Client": f"client-{number}"},
    )
    random, got = Random(number), 0

    async def loop(model: str) -> None:
        nonlocal got
        while time.monotonic() < until:
            tokens = random.randint(*scenario.tokens)
            try:
                response = await sdk.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": "x" * random.randint(4, 400)}],
                    max_completion_tokens=tokens,
                )
            except openai.APIStatusError as error:
                statuses[f"{error.status_code} {error.code}"] += 1
                continue
            statuses["200"] += 1
            if time.monotonic() < until:
                got += (
                    response.usage.total_tokens if response.usage and scenario.rpm > 10**5 else 1
                )

    await asyncio.gather(*(loop(model) for model in scenario.models for _ in range(2)))
    await sdk.close()
    return got


async def run_clients(
    scenario: Scenario, gate: str, simulator: str, seconds: float, share: float
) -> float:
    """Run a scenario and print its results. Returns the instant at which its second half began."""
    other = Other(simulator, scenario, share)

    def usage() -> Usage:
        return Usage.fetch(simulator).since(other.usage())

    statuses: Counter[str] = Counter()
    began = time.monotonic()
    until = began + seconds
    tasks = [
        asyncio.create_task(client(number, gate, scenario, until, statuses))
        for number in range(CLIENTS)
    ]
    others = asyncio.create_task(other.run())
    await asyncio.sleep(FIRST_S)
    first = usage()
    await asyncio.sleep(began + seconds / 2 - time.monotonic())
    half, half_at = usage(), time.monotonic()
    await asyncio.sleep(until - time.monotonic())
    last, last_at = usage(), time.monotonic()
    taken = other.usage().minutes(scenario)
    others.cancel()
    got = await asyncio.gather(*tasks)
    later = last.since(first)
    rejected = later.responses[TOO_MANY_REQUESTS] / (sum(later.responses.values()) or 1)
    used = last.minutes(scenario) / (1 + (last_at - began) / 60 - taken)
    rate = last.since(half).minutes(scenario) / ((last_at - half_at) / 60)
    off = rate / (1 - share) - 1
    print(
        f"{scenario.name:<16} clients got {dict(statuses)}, upstream sent {dict(last.responses)}, "
        f"429s after {FIRST_S:g} s {rejected:.2%}, used {used:.1%}, rate off by {off:+.1%}, "
        f"Jain {group.jain(got):.4f}",
        flush=True,
    )
    return half_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument(
        "--other", type=float, default=0, metavar="SHARE", help="of each quota, below 1"
    )
    parser.add_argument(
        "--gates",
        type=int,
        default=1,
        metavar="N",
        help="compare a group of N gates with one gate",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="compare a gate with N workers with one process",
    )
    parser.add_argument("--gate", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gate is not None:
        sys.exit(serve(arguments.gate))
    if arguments.gates > 1:
        group.main(arguments.gates, arguments.seconds)
        return
    if arguments.workers > 1:
        group.compare_workers(arguments.workers, arguments.seconds)
        return
    for scenario in SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            waits_file = Path(folder) / "waits"
            since = measure(scenario, arguments.seconds, arguments.other, waits_file)
            print_waits(waits_file, since)


def measure(scenario: Scenario, seconds: float, share: float, waits_file: Path) -> float:
    """Run a scenario with a gate that records its waits; as `run_clients`."""
    with ExitStack() as stack:
        limits = ("--rpm", str(scenario.rpm), "--tpm", str(scenario.tpm))
        simulator = stack.enter_context(
            running("-m", "rustygate", "simulate", "--port", "{port}", "--latency", "0.2", *limits)
        )
        gate = stack.enter_context(
            running(
                "-m",
                "scripts.quota",
                "--gate",
                str(waits_file),
                OPENAI_API_KEY="sk-any",
                OPENAI_BASE_URL=f"{simulator}/v1",
                RATE_LIMIT="auto",
                RATE_LIMIT_TIMEOUT="120",
                RUST_LOG="warn",
            )
        )
        return asyncio.run(run_clients(scenario, gate, simulator, seconds, share))


if __name__ == "__main__":
    main()
