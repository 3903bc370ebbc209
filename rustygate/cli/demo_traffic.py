"""The clients of `rustygate demo --traffic`: three kinds share the gate.

A hog sends all it can, a chat sends few requests at high priority, and a batch job sends many at
low priority. Each second a line shows how many requests of each were served and how long they
waited, as the gate reports in its response headers.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiohttp import BaseConnector, ClientError, ClientSession, DummyCookieJar

MS = 1000

REPORT_INTERVAL_S = 1.0

# How long a client waits after an error response or a failed connection.
ERROR_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class ClientProfile:
    """How a client behaves: how many requests it has open, and the pause after each of them."""

    client: str
    priority: str
    concurrency: int
    pause_s: float
    max_tokens: int


PROFILES = (
    ClientProfile("hog", "default", 60, 0.0, 60),
    ClientProfile("chat", "interactive", 2, 1.0, 30),
    ClientProfile("batch", "batch", 20, 0.0, 120),
)


class _Statistics:
    """The responses to one client since the last report."""

    def __init__(self, client: str) -> None:
        self.client = client
        self._waits_ms: list[int] = []
        self._failed = 0

    def record(self, status: int, queued_ms: int) -> None:
        if status < 400:
            self._waits_ms.append(queued_ms)
        else:
            self._failed += 1

    def report(self) -> str:
        """The client's part of a line; the counts start again at zero."""
        waits, failed = sorted(self._waits_ms), self._failed
        self._waits_ms, self._failed = [], 0
        text = f"{self.client} {len(waits):3d} served"
        if waits:
            median, longest = waits[len(waits) // 2] / MS, waits[-1] / MS
            text += f", waited {median:5.1f} s, at most {longest:5.1f} s"
        else:
            text += " " * 32
        return text + (f", {failed} failed" if failed else "")


async def _send_requests(
    session: ClientSession, url: str, profile: ClientProfile, statistics: _Statistics
) -> None:
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": f"I am the {profile.client}."}],
        "max_completion_tokens": profile.max_tokens,
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


async def _print_reports(statistics: list[_Statistics]) -> None:
    while True:
        await asyncio.sleep(REPORT_INTERVAL_S)
        print(" | ".join(each.report() for each in statistics), flush=True)


@asynccontextmanager
async def run_clients(url: str, connector: BaseConnector) -> AsyncIterator[None]:
    """Run the clients against the gate at `url` for as long as the context lasts."""
    statistics = [_Statistics(profile.client) for profile in PROFILES]
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as session:
        tasks = [
            asyncio.create_task(
                _send_requests(session, f"{url}/v1/chat/completions", profile, each)
            )
            for profile, each in zip(PROFILES, statistics, strict=True)
            for _ in range(profile.concurrency)
        ]
        tasks.append(asyncio.create_task(_print_reports(statistics)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
