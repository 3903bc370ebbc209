"""The CPU cost of an admission in one event loop, by the gate and by other limiters.

As a program it measures one of `BUILT_IN` or `LIMITERS`: `NAME WAITERS SECONDS` prints
microseconds of CPU per admission. With waiters, each task waits again as soon as it was
admitted, at 2,000 admissions a second, so that the number of waiters stays constant. A semaphore
has no rate: it is handed from task to task as fast as possible. The scheduler is measured by push
and grant.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from time import process_time

from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.bucket import TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.scheduler import Scheduler
from rustygate.core.scopes import LaneScope
from rustygate.exchange import Exchange

RATE = 2000
UNLIMITED_RATE = 10**9
FLOWS = 100
ITERATIONS = 20_000
DEADLINE_NS = 10**15
TIMEOUT_S = 10**6

Admit = Callable[[], Awaitable[object]]


def gate_admit(rate: int) -> Admit:
    """The gate, with a hundred flows."""
    burst = 1 if rate == RATE else rate
    gate = Gate(
        Settings(
            openai_api_key="sk-bench",
            rate_limit=rate,
            rate_limit_burst=burst,
            queue_limit=UNLIMITED_RATE,
        )
    )
    numbers = count()

    async def admit() -> None:
        flow = f"client-{next(numbers) % FLOWS}"
        exchange = Exchange(flow, "POST", "/v1/x", gate.now() + DEADLINE_NS)
        async with gate.admission(exchange) as admission:
            admission.record_response(ok=True)

    return admit


def semaphore_admit(rate: int) -> Admit:
    semaphore = asyncio.Semaphore(1)

    async def admit() -> None:
        async with semaphore:
            await asyncio.sleep(0)

    return admit


def aiolimiter_admit(rate: int) -> Admit:
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(1, 1 / rate) if rate == RATE else AsyncLimiter(rate, 1)
    return lambda: limiter.acquire()


def pyrate_limiter_admit(rate: int) -> Admit:
    from pyrate_limiter import Limiter, Rate

    limiter = Limiter(Rate(rate // 1000, 1))
    return lambda: limiter.try_acquire_async("bench", blocking=True)


def throttled_admit(rate: int) -> Admit:
    from throttled.asyncio import RateLimiterType, Throttled, rate_limiter

    quota = rate_limiter.per_sec(rate, burst=1 if rate == RATE else rate)
    using = RateLimiterType.GCRA.value
    throttled = Throttled("bench", timeout=TIMEOUT_S, using=using, quota=quota)
    return lambda: throttled.limit()


SEMAPHORE, GATE, QUEUE = "asyncio.Semaphore", "RustyGate", "scheduler"
BUILT_IN = (SEMAPHORE, GATE, QUEUE)

LIMITERS: dict[str, Callable[[int], Admit]] = {
    "aiolimiter": aiolimiter_admit,
    "pyrate-limiter": pyrate_limiter_admit,
    "throttled-py": throttled_admit,
}
LIMITERS_BY_NAME = {SEMAPHORE: semaphore_admit, GATE: gate_admit, **LIMITERS}


async def uncontended(admit: Admit) -> float:
    """Microseconds of CPU of an admission without waiters."""
    began = process_time()
    for _ in range(ITERATIONS):
        await admit()
    return (process_time() - began) / ITERATIONS * 1e6


async def contended(admit: Admit, waiters: int, seconds: float) -> float:
    """Microseconds of CPU of an admission with waiters; infinite if there was no admission."""
    admitted = 0

    async def client() -> None:
        nonlocal admitted
        while True:
            await admit()
            admitted += 1

    clients = [asyncio.create_task(client()) for _ in range(waiters)]
    await asyncio.sleep(0.1)
    before, began = admitted, process_time()
    await asyncio.sleep(seconds)
    spent, done = process_time() - began, admitted - before
    assert not any(each.done() for each in clients), "a waiter was refused"
    return spent / done * 1e6 if done else float("inf")


def queue_us(queue_length: int) -> float:
    """Microseconds to add an item to the scheduler and grant one, with that many waiting."""
    scheduler: Scheduler[int] = Scheduler(Budgets(TokenBucket(1, 1)))
    lane: LaneScope[int] = LaneScope(Budgets())
    flows = [scheduler.flow(lane, "default", f"client-{number}") for number in range(FLOWS)]
    for number in range(queue_length):
        scheduler.push(flows[number % FLOWS], number, 0)
    began = process_time()
    for number in range(queue_length, queue_length + ITERATIONS):
        flow = scheduler.flow(lane, "default", f"client-{number % FLOWS}")
        scheduler.push(flow, number, 0)
        scheduler.dispatch(number)
    return (process_time() - began) / ITERATIONS * 1e6


async def measure(name: str, waiters: int, seconds: float) -> None:
    make = LIMITERS_BY_NAME[name]
    if waiters:
        print(await contended(make(RATE), waiters, seconds), flush=True)
    else:
        print(await uncontended(make(UNLIMITED_RATE)), flush=True)
    # Cancelling a hundred thousand waiters takes ten seconds and is not measured.
    os._exit(0)


def main(name: str, waiters: str, seconds: str) -> None:
    if name == QUEUE:
        print(queue_us(int(waiters)))
    else:
        asyncio.run(measure(name, int(waiters), float(seconds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
