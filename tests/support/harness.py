"""A gate on a clock that jumps to the next timer, and the exchanges that go through it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from rustygate.admission.admission import Admission
from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock

Task = asyncio.Task[Exchange]
DEFAULTS = Settings(openai_api_key="sk-test")


class Harness:
    """A gate and the exchanges that went through it, by name, with their times."""

    def __init__(self, **overrides: object) -> None:
        self.settings = replace(DEFAULTS, **overrides)  # type: ignore[arg-type]
        self.gate = Gate(self.settings)
        self.gate.start()
        self.began = self.gate.now()
        self.admitted: list[tuple[str, float]] = []
        # What upstream's answer, at the end of each exchange, does to its admission.
        self.answers: Callable[[Admission], None] | None = None

    def exchange(self, client: str, **stamps: Any) -> Exchange:
        deadline = self.gate.now() + int(self.settings.rate_limit_timeout * SECOND)
        return Exchange(client, "POST", "/v1/x", **{"deadline": deadline, **stamps})

    async def admit(self, client: str = "a", holds_s: float = 0, **stamps: Any) -> Exchange:
        exchange = self.exchange(client, **stamps)
        async with self.gate.admission(exchange) as admission:
            self.admitted.append((client, (self.gate.now() - self.began) / SECOND))
            if holds_s:
                await asyncio.sleep(holds_s)
            if self.answers is not None:
                self.answers(admission)
        return exchange

    def spawn(self, client: str = "a", holds_s: float = 0, **stamps: Any) -> Task:
        return asyncio.create_task(self.admit(client, holds_s, **stamps))

    @property
    def times(self) -> list[float]:
        return [time for _, time in self.admitted]

    @property
    def order(self) -> str:
        return "".join(client for client, _ in self.admitted)


def play(scene: Callable[[Harness], Awaitable[None]], **overrides: object) -> Harness:
    """Run a scene on a jumping clock; afterwards nobody may wait or be in flight."""

    async def main() -> Harness:
        harness = Harness(**overrides)
        await scene(harness)
        assert harness.gate.snapshot() == {"waiters": 0, "in_flight": 0}
        harness.gate.close()
        return harness

    return virtual_clock.run(main)


async def settle() -> None:
    """Let everything that is ready run, without letting time pass."""
    for _ in range(20):
        await asyncio.sleep(0)


async def granted(harness: Harness) -> None:
    """Let the loop run until somebody is in flight, and not a step further."""
    for _ in range(20):
        if harness.gate.snapshot()["in_flight"]:
            return
        await asyncio.sleep(0)


def told(limit: int, remaining: int | None = None, *, tokens: bool = False) -> RateLimitUpdate:
    quota = Quota(limit, remaining, None)
    return RateLimitUpdate(None, quota) if tokens else RateLimitUpdate(quota, None)


def teach(harness: Harness, update: RateLimitUpdate, model: str = "m") -> None:
    """Upstream tells a lane its limits."""

    async def one() -> None:
        async with harness.gate.admission(harness.exchange("teacher", model=model)) as admission:
            admission.record_response(ok=True, update=update)

    asyncio.get_running_loop().create_task(one()).add_done_callback(lambda task: task.result())
