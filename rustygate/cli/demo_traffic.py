"""The clients of `rustygate demo --traffic`: three kinds share the gate.

A hog sends all it can, a chat sends few requests at high priority, and a batch job sends many at
low priority. A table shows how many requests of each were served and how long they waited, as the
gate reports in its response headers.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from textwrap import fill

from aiohttp import BaseConnector, ClientError, ClientSession, DummyCookieJar

from rustygate.cli.demo_table import Statistics, Table
from rustygate.simulator import Options

WIDTH = 80

REPORT_INTERVAL_S = 1.0

# How long a client waits after an error response or a failed connection.
ERROR_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class ClientProfile:
    """How a client behaves: how many requests it has open, and the pause after each of them."""

    client: str
    priority: str
    model: str
    concurrency: int
    pause_s: float
    max_tokens: int

    def describe(self) -> str:
        pause = f", {self.pause_s:g} s apart" if self.pause_s else ""
        return (
            f"{self.client:<6} class {self.priority}, {self.concurrency} requests at a time"
            f"{pause}, {self.max_tokens} tokens each"
        )


PROFILES = (
    ClientProfile("hog", "default", "gpt-4o-mini", 60, 0.0, 60),
    ClientProfile("chat", "interactive", "gpt-5", 2, 1.0, 30),
    ClientProfile("batch", "batch", "gpt-4o-mini", 20, 0.0, 120),
)

# Responses take some time, as a model's do, so that the live page shows requests in flight.
SIMULATED = Options(latency=0.1, tokens_per_second=100.0)


async def _send_requests(
    session: ClientSession, url: str, profile: ClientProfile, statistics: Statistics
) -> None:
    body = {
        "model": profile.model,
        "messages": [{"role": "user", "content": f"I am the {profile.client}."}],
        "max_completion_tokens": profile.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"X-RustyGate-Client": profile.client, "X-RustyGate-Priority": profile.priority}
    while True:
        pause_s = ERROR_PAUSE_S
        with suppress(ClientError):
            async with session.post(url, json=body, headers=headers) as response:
                await response.read()
                queued_ms = int(response.headers.get("X-RustyGate-Queued-Ms", 0))
                statistics.record(response.status, queued_ms)
                if response.ok:
                    pause_s = profile.pause_s
        await asyncio.sleep(pause_s)


async def _print_reports(statistics: list[Statistics]) -> None:
    table = Table(statistics)
    for second in count(1):
        await asyncio.sleep(REPORT_INTERVAL_S)
        table.print(second)


def introduction(limits: Iterable[str]) -> str:
    """Who the clients are, and what they share; at most 80 columns wide.

    Args:
        limits: the gate's limits, one sentence each.
    """
    clients = "\n".join(f"  {profile.describe()}" for profile in PROFILES)
    shared = "\n".join(
        fill(limit, WIDTH, initial_indent="  ", subsequent_indent="    ") for limit in limits
    )
    return f"Three clients compete:\n{clients}\n\nfor the limits of the gate:\n{shared}\n"


async def run_clients(url: str, connector: BaseConnector) -> None:
    """Run the clients against the gate at `url` until cancelled.

    Raises OutputError if the table cannot be printed.
    """
    statistics = [Statistics(profile.client, profile.priority) for profile in PROFILES]
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as session:
        tasks = [
            asyncio.create_task(
                _send_requests(session, f"{url}/v1/chat/completions", profile, each)
            )
            for profile, each in zip(PROFILES, statistics, strict=True)
            for _ in range(profile.concurrency)
        ]
        try:
            await _print_reports(statistics)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
