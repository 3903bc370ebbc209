"""Forty clients of the official SDK share one quota through the gate: what they see of it.

The gate runs with RATE_LIMIT=auto before the simulator, which keeps the quota strictly and tells
of it as OpenAI does. The clients' own retries are off. Printed for each scene: 429s that clients
saw, 429s that upstream gave (in all, and after the first seconds), the share of the quota that
was used while all wanted more, and Jain's index of what the clients got.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from random import Random
from urllib.request import urlopen

import openai

CLIENTS = 40
FIRST_S = 5.0
TOO_MANY = "429"


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
        [sys.executable, "-m", "rustygate", *(part.format(port=port) for part in command)],
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

    def used(self, scene: Scene, minutes: float) -> float:
        """The share of full buckets and their refill, of whichever binds, over all models."""
        budget = (1 + minutes) * len(scene.models)
        return max(self.answers["200"] / scene.rpm, self.tokens / scene.tpm) / budget


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


async def play(scene: Scene, gate: str, simulator: str, seconds: float) -> None:
    seen: Counter[str] = Counter()
    began = time.monotonic()
    until = began + seconds
    tasks = [
        asyncio.create_task(client(number, gate, scene, until, seen)) for number in range(CLIENTS)
    ]
    await asyncio.sleep(FIRST_S)
    first = Count.of(simulator)
    await asyncio.sleep(until - time.monotonic())
    last = Count.of(simulator)
    got = await asyncio.gather(*tasks)
    later = last.answers - first.answers
    refused = later[TOO_MANY] / (sum(later.values()) or 1)
    print(
        f"{scene.name:<16} clients saw {dict(seen)}, upstream gave {dict(last.answers)}, "
        f"429s after {FIRST_S:g} s {refused:.2%}, used {last.used(scene, seconds / 60):.1%}, "
        f"Jain {jain(got):.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    seconds = parser.parse_args().seconds
    for scene in SCENES:
        with ExitStack() as stack:
            limits = ("--rpm", str(scene.rpm), "--tpm", str(scene.tpm))
            simulator = stack.enter_context(
                running("simulate", "--port", "{port}", "--latency", "0.2", *limits)
            )
            gate = stack.enter_context(
                running(
                    "serve",
                    OPENAI_API_KEY="sk-any",
                    OPENAI_BASE_URL=f"{simulator}/v1",
                    RATE_LIMIT="auto",
                    RATE_LIMIT_TIMEOUT="120",
                    RUST_LOG="warn",
                )
            )
            asyncio.run(play(scene, gate, simulator, seconds))


if __name__ == "__main__":
    main()
