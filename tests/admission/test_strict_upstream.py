"""An upstream with exactly the gate's limit, which it does not report, on a virtual clock.

Its refill starts when the first request of a burst arrives. If that request took longer to arrive
than a later one, the later one comes before there is room and is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from math import ceil
from random import Random
from statistics import median

import pytest

from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from tests.support.harness import Harness, run_scenario
from tests.support.limited_upstream import LimitedUpstream, request

MS = SECOND // 1000


def whole_seconds(wait_s: float) -> dict[str, str]:
    return {"Retry-After": str(ceil(wait_s))}


RATE, BURST, FLOOD = 100, 20, 500


def flood(seed: int) -> tuple[int, float, float]:
    """Requests that come all at once, beside a client that sends one every half second.

    Returns how many upstream refused, how many seconds the flood took, and the other client's
    median wait.
    """
    upstream = LimitedUpstream(
        TokenBucket.from_rate(RATE, BURST),
        latency_s=0.002,
        jitter=1.0,
        reports=False,
        retry_after=whole_seconds,
        random=Random(seed),
    )
    took_s, waits = 0.0, []

    async def scenario(harness: Harness) -> None:
        nonlocal took_s
        clock = asyncio.get_running_loop().time

        async def light() -> None:
            while True:
                await asyncio.sleep(0.5)
                began = clock()
                assert (await request(harness, upstream, "light")).status == 200
                waits.append(clock() - began)

        task = asyncio.create_task(light())
        await asyncio.sleep(1)
        began = clock()
        made = await asyncio.gather(*(request(harness, upstream, "flood") for _ in range(FLOOD)))
        assert {exchange.status for exchange in made} == {200}
        took_s = clock() - began
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_scenario(scenario, rate_limit=RATE, rate_limit_burst=BURST, rate_limit_timeout=600)
    return len(upstream.refused_at), took_s, median(waits)


@pytest.mark.parametrize("seed", range(5))
def test_strict_upstream_refuses_few_of_a_flood(seed: int) -> None:
    refused, took_s, light_s = flood(seed)
    assert refused <= 2
    # Each refusal pauses the lane for up to a second.
    least_s = (FLOOD - BURST) / RATE
    assert least_s <= took_s <= least_s + refused + 0.15
    assert light_s <= 0.03


async def refusals(
    harness: Harness,
    count: int,
    *,
    model: str = "m",
    slow: bool = False,
    tokens_left: int | None = None,
) -> None:
    """Upstream refuses `count` requests that were admitted at once. It may say how many tokens are
    left of a thousand; each request needs a hundred."""
    async with AsyncExitStack() as stack:
        admissions = [
            await stack.enter_async_context(
                harness.gate.admission(harness.exchange("a", model=model, tokens=100))
            )
            for _ in range(count)
        ]
        for admission in admissions:
            if tokens_left is not None:
                update = RateLimitUpdate(None, Quota(1000, tokens_left))
                admission.record_response(False, update, refused=True)
            admission.pause(SECOND, slow=slow)


def lag_after(scenario: Callable[[Harness], Awaitable[None]]) -> int:
    harness = run_scenario(scenario, rate_limit=10, rate_limit_burst=3)
    bucket = harness.gate.dispatcher.budgets.requests
    assert bucket is not None
    return bucket.lag


def test_refusals_of_one_burst_count_once() -> None:
    assert lag_after(lambda harness: refusals(harness, 3)) == 2 * MS


def test_refusal_of_a_later_burst_counts_again() -> None:
    async def scenario(harness: Harness) -> None:
        await refusals(harness, 3)
        await asyncio.sleep(0.5)
        await refusals(harness, 3, model="n")

    assert lag_after(scenario) == 4 * MS


def test_refusal_while_the_limit_has_room_does_not_count() -> None:
    assert lag_after(lambda harness: refusals(harness, 2)) == 0


@pytest.mark.parametrize(("tokens_left", "lag"), [(99, 0), (1000, 2 * MS)])
def test_refusal_because_of_tokens_does_not_count(tokens_left: int, lag: int) -> None:
    assert lag_after(lambda harness: refusals(harness, 3, tokens_left=tokens_left)) == lag


def test_refusal_because_of_overload_does_not_count() -> None:
    assert lag_after(lambda harness: refusals(harness, 3, slow=True)) == 0
