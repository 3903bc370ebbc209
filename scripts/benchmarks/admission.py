"""What admission costs in one event loop: the gate's and other limiters', with many waiting.

As a program it measures one of `OURS` and `LIMITERS`: `NAME WAITERS SECONDS` prints microseconds
of CPU. With waiters, each of so many tasks asks again as soon as it was admitted, at 2,000
admissions a second, so that the number of those that wait stays. A semaphore knows no rate: it is
passed on from one to the next as fast as that goes. The fair queue alone is pushed to and popped.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from time import process_time

from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.fairqueue import FairQueue
from rustygate.core.flow import Flow
from rustygate.exchange import Exchange

RATE = 2000
UNLIMITED = 10**9
FLOWS = 100
AT_ONCE = 20_000
FAR_NS = 10**15
FOREVER_S = 10**6

Passage = Callable[[], Awaitable[object]]


def of_gate(rate: int) -> Passage:
    """In a hundred flows."""
    burst = 1 if rate == RATE else rate
    gate = Gate(
        Settings(
            openai_api_key="sk-bench",
            rate_limit=rate,
            rate_limit_burst=burst,
            queue_limit=UNLIMITED,
        )
    )
    gate.start()
    numbers = count()

    async def passage() -> None:
        client = f"client-{next(numbers) % FLOWS}"
        exchange = Exchange(client, "POST", "/v1/x", gate.now() + FAR_NS)
        async with gate.admission(exchange) as admission:
            admission.record_response(ok=True)

    return passage


def of_semaphore(rate: int) -> Passage:
    semaphore = asyncio.Semaphore(1)

    async def passage() -> None:
        async with semaphore:
            await asyncio.sleep(0)

    return passage


def of_aiolimiter(rate: int) -> Passage:
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(1, 1 / rate) if rate == RATE else AsyncLimiter(rate, 1)
    return lambda: limiter.acquire()


def of_pyrate_limiter(rate: int) -> Passage:
    from pyrate_limiter import Limiter, Rate

    limiter = Limiter(Rate(rate // 1000, 1))
    return lambda: limiter.try_acquire_async("bench", blocking=True)


def of_throttled(rate: int) -> Passage:
    from throttled.asyncio import RateLimiterType, Throttled, rate_limiter

    quota = rate_limiter.per_sec(rate, burst=1 if rate == RATE else rate)
    using = RateLimiterType.GCRA.value
    throttled = Throttled("bench", timeout=FOREVER_S, using=using, quota=quota)
    return lambda: throttled.limit()


SEMAPHORE, GATE, QUEUE = "asyncio.Semaphore", "RustyGate", "fair queue"
OURS = (SEMAPHORE, GATE, QUEUE)

LIMITERS: dict[str, Callable[[int], Passage]] = {
    "aiolimiter": of_aiolimiter,
    "pyrate-limiter": of_pyrate_limiter,
    "throttled-py": of_throttled,
}
CONTESTANTS = {SEMAPHORE: of_semaphore, GATE: of_gate, **LIMITERS}


async def alone(passage: Passage) -> float:
    """Microseconds of a passage when nobody waits."""
    began = process_time()
    for _ in range(AT_ONCE):
        await passage()
    return (process_time() - began) / AT_ONCE * 1e6


async def contended(passage: Passage, waiters: int, seconds: float) -> float:
    """Microseconds of CPU of an admission while so many wait; infinite if there was none."""
    admitted = 0

    async def customer() -> None:
        nonlocal admitted
        while True:
            await passage()
            admitted += 1

    customers = [asyncio.create_task(customer()) for _ in range(waiters)]
    await asyncio.sleep(0.1)
    before, began = admitted, process_time()
    await asyncio.sleep(seconds)
    spent, done = process_time() - began, admitted - before
    assert not any(each.done() for each in customers), "a customer was turned away"
    return spent / done * 1e6 if done else float("inf")


def queue_us(waiting: int) -> float:
    """Microseconds to push an item to the fair queue and pop one, with so many in it."""
    queue: FairQueue[int] = FairQueue()
    flows = [Flow(f"client-{number}") for number in range(FLOWS)]
    for number in range(waiting):
        queue.push(number, flows[number % FLOWS])
    began = process_time()
    for number in range(waiting, waiting + AT_ONCE):
        queue.push(number, flows[number % FLOWS])
        queue.pop()
    return (process_time() - began) / AT_ONCE * 1e6


async def measure(name: str, waiters: int, seconds: float) -> None:
    make = CONTESTANTS[name]
    if waiters:
        print(await contended(make(RATE), waiters, seconds), flush=True)
    else:
        print(await alone(make(UNLIMITED)), flush=True)
    # Cancelling a hundred thousand waiters takes ten seconds, and is not what is measured.
    os._exit(0)


def main(name: str, waiters: str, seconds: str) -> None:
    if name == QUEUE:
        print(queue_us(int(waiters)))
    else:
        asyncio.run(measure(name, int(waiters), float(seconds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
