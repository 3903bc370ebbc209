"""An upstream that enforces a limit and does not report it, on a virtual clock."""

import asyncio
from collections.abc import Callable
from math import ceil

import pytest

from rustygate.core.bucket import SECOND, TokenBucket
from tests.support.harness import Harness, run_scenario
from tests.support.limited_upstream import LimitedUpstream, request

Hint = Callable[[float], dict[str, str]]


def exact(wait_s: float) -> dict[str, str]:
    return {"retry-after-ms": str(ceil(wait_s * 1000))}


def whole_seconds(wait_s: float) -> dict[str, str]:
    return {"Retry-After": str(ceil(wait_s))}


HINTS = pytest.mark.parametrize("hint", [None, exact, whole_seconds], ids=str)


def silent(
    rate: float, burst: int = 1, hint: Hint | None = None, **more: float
) -> LimitedUpstream:
    bucket = TokenBucket.from_rate(rate, burst)
    return LimitedUpstream(bucket, reports=False, retry_after=hint, **more)  # type: ignore[arg-type]


def send_at_once(upstream: LimitedUpstream, count: int, **settings: object) -> tuple[int, float]:
    """Send requests of eight clients at once. Returns how many succeeded, and when the last one
    was accepted, in seconds."""
    statuses: list[int | None] = []

    async def scenario(harness: Harness) -> None:
        requests = (request(harness, upstream, f"c{n % 8}") for n in range(count))
        statuses.extend([each.status for each in await asyncio.gather(*requests)])
        upstream.accepted_at[:] = [
            (at - harness.began / SECOND, tokens) for at, tokens in upstream.accepted_at
        ]

    run_scenario(scenario, **settings)
    return statuses.count(200), max(at for at, _ in upstream.accepted_at)


@HINTS
@pytest.mark.parametrize("answer_s", [0, 5], ids=["fast", "slow answers"])
@pytest.mark.parametrize(("latency_s", "jitter"), [(0.02, 0.5), (0.1, 0.3), (0.2, 0.3)])
@pytest.mark.parametrize("rate_limit", [10, None])
def test_eight_requests_at_one_a_second(
    hint: Hint | None, latency_s: float, jitter: float, answer_s: float, rate_limit: float | None
) -> None:
    upstream = silent(1, hint=hint, latency_s=latency_s, jitter=jitter, answer_s=answer_s)
    succeeded, last_s = send_at_once(upstream, 8, rate_limit=rate_limit)
    assert succeeded == 8
    assert 7 <= last_s <= 8.5
    assert len(upstream.refused_at) <= 8


@pytest.mark.parametrize(
    ("rate", "burst", "count", "hint", "at_most_s", "refusals"),
    [
        (5, 5, 60, None, 15, 30),
        (5, 5, 60, exact, 15, 30),
        (5, 1, 60, exact, 20, 35),
        (20, 20, 300, None, 30, 60),
        (20, 1, 200, exact, 25, 40),
        (1, 5, 20, whole_seconds, 18, 25),
        (0.1, 1, 3, exact, 22, 4),
        (0.1, 1, 3, whole_seconds, 22, 4),
        (0.1, 1, 2, None, 18, 6),
    ],
)
def test_other_rates(
    rate: float, burst: int, count: int, hint: Hint | None, at_most_s: float, refusals: int
) -> None:
    upstream = silent(rate, burst, hint, latency_s=0.1, jitter=0.3)
    succeeded, last_s = send_at_once(upstream, count, rate_limit=100)
    assert succeeded == count
    assert (count - burst) / rate * 0.95 <= last_s <= at_most_s
    assert len(upstream.refused_at) <= refusals


def test_pace_follows_an_upstream_that_recovers() -> None:
    upstream = silent(1, latency_s=0.1)

    async def scenario(harness: Harness) -> None:
        tasks = [asyncio.create_task(request(harness, upstream, f"c{n % 8}")) for n in range(200)]
        await asyncio.sleep(10)
        upstream.requests = TokenBucket.from_rate(100, 100)
        for task in tasks:
            assert (await task).status == 200
        assert harness.gate.now() - harness.began < 70 * SECOND

    run_scenario(scenario, rate_limit_timeout=300)
    assert len(upstream.refused_at) <= 25
