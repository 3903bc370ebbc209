"""Forty clients of the official SDK share one quota through the gate: what they see of it.

The gate runs with RATE_LIMIT=auto before the simulator, which keeps the quota strictly and tells
of it as OpenAI does. The clients' own retries are off. Printed for each scene: 429s that clients
saw, 429s that upstream gave (in all, and after the first seconds), the share of the quota that
was used while all wanted more, Jain's index of what the clients got; and of the second half of
the time, when what was saved up is spent: how far the rate was from the quota's, and how many
waits were as long as predicted on arrival, give or take 30%. With --gate it is the gate of a
scene, which notes those waits in a file.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from urllib.request import urlopen

import openai

from rustygate.admission.dispatcher import Dispatcher
from rustygate.admission.wait_queues import Waiter
from rustygate.cli import main as rustygate

CLIENTS = 40
FIRST_S = 5.0
TOO_MANY = "429"

# Shorter waits are as much the machine's as the queue's.
LEAST_NS = 100_000_000
NEAR = 0.3


@dataclass(frozen=True)
class Scene:
    """A quota, and what each client sends: models in turn, sizes at random."""

    name: str
    rpm: int
    tpm: int
    models: tuple[str, ...]
    tokens: tuple[int, int]


SCENES = (
    Scene("requests-bound", 1200, 10**9, ("gpt-4o",), (5, 20)),
    Scene("tokens-bound", 10**6, 120_000, ("gpt-4o",), (20, 200)),
    Scene("two models", 900, 90_000, ("gpt-4o", "gpt-4o-mini"), (20, 120)),
)


@contextmanager
def running(*command: str, **environ: str) -> Iterator[str]:
    """A process that serves on a free port; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, *(part.format(port=port) for part in command)],
        env=os.environ | environ | {"PORT": str(port)},
        stdout=subprocess.DEVNULL,
    )
    try:
        while child.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait()


def serve(noted: Path) -> int:
    """Serve, and note when each waiter came, what it could expect then and what it had, in ns."""
    waits: list[tuple[int, int, int]] = []
    wait_for_turn = Dispatcher.wait_for_turn

    async def note(dispatcher: Dispatcher, newcomer: Waiter, deadline: int) -> None:
        predicted, began = dispatcher.predict(newcomer).wait, dispatcher.now()
        await wait_for_turn(dispatcher, newcomer, deadline)
        waits.append((began, predicted, dispatcher.now() - began))

    setattr(Dispatcher, "wait_for_turn", note)  # noqa: B010 - a method may not be assigned
    code = rustygate(["serve"])
    noted.write_text(json.dumps(waits))
    return code


def tell_waits(noted: Path, since: float) -> None:
    """Say how predictions compare with waits, of those who came since an instant."""
    waits = json.loads(noted.read_text())
    ratios = [told / had for began, told, had in waits if began >= since * 1e9 and had >= LEAST_NS]
    if ratios:
        near = sum(abs(ratio - 1) <= NEAR for ratio in ratios) / len(ratios)
        print(
            f"{'':<16} {len(ratios)} waits, {near:.1%} within {NEAR:.0%} of what was predicted "
            f"(median {median(ratios):.2f} of it)",
            flush=True,
        )


@dataclass(frozen=True)
class Count:
    """What the simulator has counted: answers by status, and the model's tokens."""

    answers: Counter[str]
    tokens: int

    @classmethod
    def of(cls, simulator: str) -> "Count":
        with urlopen(f"{simulator}/simulator/stats") as answer:
            told = json.load(answer)
        return cls(Counter(told["by_status"]), told["tokens_in"] + told["tokens_out"])

    def minutes(self, scene: Scene) -> float:
        """How many minutes of a model's quota that is, by whichever budget binds."""
        return max(self.answers["200"] / scene.rpm, self.tokens / scene.tpm) / len(scene.models)

    def since(self, other: "Count") -> "Count":
        return Count(self.answers - other.answers, self.tokens - other.tokens)


async def client(number: int, gate: str, scene: Scene, until: float, seen: Counter[str]) -> int:
    """Ask again and again until the end; the model's tokens it got."""
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
            tokens = random.randint(*scene.tokens)
            try:
                answer = await sdk.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": "x" * random.randint(4, 400)}],
                    max_completion_tokens=tokens,
                )
            except openai.APIStatusError as error:
                seen[f"{error.status_code} {error.code}"] += 1
                continue
            seen["200"] += 1
            if time.monotonic() < until:
                got += answer.usage.total_tokens if answer.usage and scene.rpm > 10**5 else 1

    await asyncio.gather(*(loop(model) for model in scene.models for _ in range(2)))
    await sdk.close()
    return got


def jain(shares: list[int]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares) or 1)


async def play(scene: Scene, gate: str, simulator: str, seconds: float) -> float:
    """Play a scene, tell what came of it; the instant at which its second half began."""
    seen: Counter[str] = Counter()
    began = time.monotonic()
    until = began + seconds
    tasks = [
        asyncio.create_task(client(number, gate, scene, until, seen)) for number in range(CLIENTS)
    ]
    await asyncio.sleep(FIRST_S)
    first = Count.of(simulator)
    await asyncio.sleep(began + seconds / 2 - time.monotonic())
    half, half_at = Count.of(simulator), time.monotonic()
    await asyncio.sleep(until - time.monotonic())
    last, last_at = Count.of(simulator), time.monotonic()
    got = await asyncio.gather(*tasks)
    later = last.since(first)
    refused = later.answers[TOO_MANY] / (sum(later.answers.values()) or 1)
    used = last.minutes(scene) / (1 + (last_at - began) / 60)
    off = last.since(half).minutes(scene) / ((last_at - half_at) / 60) - 1
    print(
        f"{scene.name:<16} clients saw {dict(seen)}, upstream gave {dict(last.answers)}, "
        f"429s after {FIRST_S:g} s {refused:.2%}, used {used:.1%}, rate off by {off:+.1%}, "
        f"Jain {jain(got):.4f}",
        flush=True,
    )
    return half_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--gate", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gate is not None:
        sys.exit(serve(arguments.gate))
    for scene in SCENES:
        with tempfile.TemporaryDirectory() as folder:
            noted = Path(folder) / "waits"
            tell_waits(noted, measure(scene, arguments.seconds, noted))


def measure(scene: Scene, seconds: float, noted: Path) -> float:
    """Play a scene with a gate that notes its waits; as `play`."""
    with ExitStack() as stack:
        limits = ("--rpm", str(scene.rpm), "--tpm", str(scene.tpm))
        simulator = stack.enter_context(
            running("-m", "rustygate", "simulate", "--port", "{port}", "--latency", "0.2", *limits)
        )
        gate = stack.enter_context(
            running(
                __file__,
                "--gate",
                str(noted),
                OPENAI_API_KEY="sk-any",
                OPENAI_BASE_URL=f"{simulator}/v1",
                RATE_LIMIT="auto",
                RATE_LIMIT_TIMEOUT="120",
                RUST_LOG="warn",
            )
        )
        return asyncio.run(play(scene, gate, simulator, seconds))


if __name__ == "__main__":
    main()
