"""`rustygate demo --traffic`: clients of different manners share the gate, for all to see.

A hog asks for all it can get, a chat asks now and then and first in line, a batch job has much to
do and time. Each second a line tells how many of each were answered, and how long they waited, as
the gate's own headers tell.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiohttp import BaseConnector, ClientError, ClientSession, DummyCookieJar

MS = 1000

# A demonstration shows what waits; beyond this a line is no news.
LINE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class ClientProfile:
    """How a client behaves: so many requests at once, each again after a pause."""

    client: str
    priority: str
    at_once: int
    pause_s: float
    tokens: int


PROFILES = (
    ClientProfile("hog", "default", 60, 0.0, 60),
    ClientProfile("chat", "interactive", 2, 1.0, 30),
    ClientProfile("batch", "batch", 20, 0.0, 120),
)

# How long who was refused, or found nobody, waits before it asks again.
REFUSED_PAUSE_S = 1.0


class _Tally:
    """One client's answers since the last line."""

    def __init__(self, client: str) -> None:
        self.client = client
        self._waits_ms: list[int] = []
        self._failed = 0

    def note(self, status: int, waited_ms: int) -> None:
        if status < 400:
            self._waits_ms.append(waited_ms)
        else:
            self._failed += 1

    def take(self) -> str:
        """What there is to say, which is then forgotten."""
        waits, failed = sorted(self._waits_ms), self._failed
        self._waits_ms, self._failed = [], 0
        text = f"{self.client} {len(waits):3d} answered"
        if waits:
            text += f", waited {waits[len(waits) // 2] / MS:5.1f} s, at most {waits[-1] / MS:5.1f}"
        else:
            text += " " * 30
        return text + (f", {failed} refused" if failed else "")


async def _ask(session: ClientSession, url: str, manner: ClientProfile, tally: _Tally) -> None:
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": f"I am the {manner.client}."}],
        "max_completion_tokens": manner.tokens,
    }
    headers = {"X-RustyGate-Client": manner.client, "X-RustyGate-Priority": manner.priority}
    while True:
        pause_s = REFUSED_PAUSE_S
        with suppress(ClientError):
            async with session.post(url, json=body, headers=headers) as answer:
                await answer.read()
                tally.note(answer.status, int(answer.headers.get("X-RustyGate-Queued-Ms", 0)))
                if answer.ok:
                    pause_s = manner.pause_s
        await asyncio.sleep(pause_s)


async def _tell(tallies: list[_Tally]) -> None:
    while True:
        await asyncio.sleep(LINE_EVERY_S)
        print(" | ".join(tally.take() for tally in tallies), flush=True)


@asynccontextmanager
async def traffic(url: str, connector: BaseConnector) -> AsyncIterator[None]:
    """Drive the clients against the gate at `url` as long as the context lasts."""
    tallies = [_Tally(manner.client) for manner in PROFILES]
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as session:
        tasks = [
            asyncio.create_task(_ask(session, f"{url}/v1/chat/completions", manner, tally))
            for manner, tally in zip(PROFILES, tallies, strict=True)
            for _ in range(manner.at_once)
        ]
        tasks.append(asyncio.create_task(_tell(tallies)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
