"""A gate on a virtual clock, and the exchanges that go through it."""

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
    """A gate, and the admissions that it granted, by client, with their times in seconds."""

    def __init__(self, **overrides: object) -> None:
        self.settings = replace(DEFAULTS, **overrides)  # type: ignore[arg-type]
        self.gate = Gate(self.settings)
        self.began = self.gate.now()
        self.admitted: list[tuple[str, float]] = []
        # Called at the end of each exchange, in place of upstream's response.
        self.on_response: Callable[[Admission], None] | None = None

    def exchange(self, client: str, **fields: Any) -> Exchange:
        deadline = self.gate.now() + int(self.settings.rate_limit_timeout * SECOND)
        return Exchange(client, "POST", "/v1/x", **{"deadline": deadline, **fields})

    async def admit(self, client: str = "a", hold_s: float = 0, **fields: Any) -> Exchange:
        """Send a request through the gate, and keep it in flight for a time."""
        exchange = self.exchange(client, **fields)
        async with self.gate.admission(exchange) as admission:
            self.admitted.append((client, (self.gate.now() - self.began) / SECOND))
            if hold_s:
                await asyncio.sleep(hold_s)
            if self.on_response is not None:
                self.on_response(admission)
        return exchange

    def spawn(self, client: str = "a", hold_s: float = 0, **fields: Any) -> Task:
        return asyncio.create_task(self.admit(client, hold_s, **fields))

    @property
    def times(self) -> list[float]:
        return [time for _, time in self.admitted]

    @property
    def order(self) -> str:
        return "".join(client for client, _ in self.admitted)


def run_scenario(scenario: Callable[[Harness], Awaitable[None]], **overrides: object) -> Harness:
    """Run a scenario on a virtual clock, and check that no request waits or is in flight at the
    end."""

    async def main() -> Harness:
        harness = Harness(**overrides)
        await scenario(harness)
        assert harness.gate.snapshot() == {"waiters": 0, "in_flight": 0}
        harness.gate.close()
        return harness

    return virtual_clock.run(main)


async def run_ready_tasks() -> None:
    """Run all tasks that are ready, without advancing the clock."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until_in_flight(harness: Harness) -> None:
    """Run the loop until a request is in flight, and not one step further."""
    for _ in range(20):
        if harness.gate.snapshot()["in_flight"]:
            return
        await asyncio.sleep(0)


def rate_limit(
    limit: int, remaining: int | None = None, *, tokens: bool = False
) -> RateLimitUpdate:
    """What a response reports of one quota: requests, or the model's tokens."""
    quota = Quota(limit, remaining)
    return RateLimitUpdate(None, quota) if tokens else RateLimitUpdate(quota, None)


def set_rate_limit(harness: Harness, update: RateLimitUpdate, model: str = "m") -> None:
    """Let upstream report a model's rate limit in a response."""

    async def request() -> None:
        async with harness.gate.admission(harness.exchange("first", model=model)) as admission:
            admission.record_response(ok=True, update=update)

    task = asyncio.get_running_loop().create_task(request())
    task.add_done_callback(lambda done: done.result())
