"""A quota that the gate shares with another consumer, on a virtual clock."""

import asyncio
from dataclasses import dataclass
from math import ceil
from typing import Any

import pytest

from rustygate.core.bucket import TokenBucket
from tests.support.harness import Harness, run_scenario
from tests.support.limited_upstream import LimitedUpstream, request

SECONDS = 60

# Until then the first requests show the limits, and the other consumer is noticed.
FIRST_S = 5

WAIT_S = 60


def exact(wait_s: float) -> dict[str, str]:
    return {"retry-after-ms": str(ceil(wait_s * 1000))}


def whole_seconds(wait_s: float) -> dict[str, str]:
    return {"Retry-After": str(ceil(wait_s))}


@dataclass
class Run:
    """Clients that always want more, and another consumer from `start_s` to `stop_s`.

    Args:
        per_minute: the quota, in requests, or in tokens if `tokens` is set.
        tokens: the tokens of each request.
        every_s: when the other consumer sends `at_once` requests; 0: there is none.
    """

    upstream: LimitedUpstream
    per_minute: int
    tokens: int = 0
    every_s: float = 0
    at_once: int = 1
    start_s: float = 0
    stop_s: float = SECONDS
    clients: int = 12
    failures: int = 0

    def run(self) -> None:
        bucket = TokenBucket.per_minute(self.per_minute)
        if self.tokens:
            self.upstream.tokens = bucket
        else:
            self.upstream.requests = bucket
        run_scenario(self._scenario, rate_limit=None, rate_limit_timeout=WAIT_S)

    async def _scenario(self, harness: Harness) -> None:
        self.began = asyncio.get_running_loop().time()
        bucket = self.upstream.tokens or self.upstream.requests
        assert bucket is not None
        bucket.fill_to(self.upstream.now(), bucket.burst // 20)
        other = asyncio.create_task(self._other())
        await asyncio.gather(*(self._client(harness, f"c{n}") for n in range(self.clients)))
        other.cancel()

    def _elapsed_s(self) -> float:
        return asyncio.get_running_loop().time() - self.began

    async def _client(self, harness: Harness, name: str) -> None:
        while self._elapsed_s() < SECONDS:
            made = await request(harness, self.upstream, name, tokens=self.tokens)
            if made.status != 200:
                self.failures += 1
                await asyncio.sleep(1)

    async def _other(self) -> None:
        await asyncio.sleep(self.start_s)
        if self.every_s:
            async with asyncio.timeout(self.stop_s - self.start_s):
                await self.upstream.consume(self.every_s, self.at_once, self.tokens)

    def used(self, since_s: float = FIRST_S, until_s: float = SECONDS) -> float:
        """The share of what the other left of the quota that the gate used."""

        def units(taken: list[tuple[float, int]]) -> int:
            return sum(tokens or 1 for at, tokens in taken if since_s <= at - self.began < until_s)

        quota = self.per_minute * (until_s - since_s) / 60
        return units(self.upstream.accepted_at) / (quota - units(self.upstream.others_at))

    def refused(self) -> float:
        """The share of the gate's requests that upstream refused after the first seconds."""
        refused = sum(at - self.began >= FIRST_S for at in self.upstream.refused_at)
        accepted = sum(at - self.began >= FIRST_S for at, _ in self.upstream.accepted_at)
        return refused / (refused + accepted)


UPSTREAMS = pytest.mark.parametrize(
    ("latency_s", "hint"),
    [(0.02, exact), (0.2, exact), (0.2, whole_seconds), (0.8, exact)],
)


@UPSTREAMS
@pytest.mark.parametrize(
    "quota",
    [
        {"per_minute": 600, "every_s": 0.2},
        {"per_minute": 60, "every_s": 2},
        {"per_minute": 600, "every_s": 2, "at_once": 10},
        {"per_minute": 600, "every_s": 5, "at_once": 25, "clients": 30},
        {"per_minute": 600, "every_s": 2 / 15},
        {"per_minute": 600, "every_s": 0.2, "start_s": 20, "stop_s": 40},
        {"per_minute": 60_000, "tokens": 100, "every_s": 0.2},
        {"per_minute": 3000, "every_s": 0.04, "clients": 60},
    ],
    ids=["half", "half of few", "bursts", "rare bursts", "most", "for a time", "tokens", "many"],
)
def test_others_leave_few_refusals_and_no_waste(
    latency_s: float, hint: Any, quota: dict[str, Any]
) -> None:
    run = Run(LimitedUpstream(latency_s=latency_s, jitter=0.3, retry_after=hint), **quota)
    run.run()
    assert run.failures == 0
    assert run.refused() <= 0.1
    assert 0.9 <= run.used() <= 1.1


@UPSTREAMS
@pytest.mark.parametrize("tokens", [0, 100])
def test_sole_consumer_loses_nothing(latency_s: float, hint: Any, tokens: int) -> None:
    upstream = LimitedUpstream(latency_s=latency_s, jitter=0.3, retry_after=hint)
    run = Run(upstream, 60_000 if tokens else 600, tokens)
    run.run()
    assert run.failures == 0
    assert run.refused() <= 0.01
    assert run.used() >= 0.97


@UPSTREAMS
def test_lane_is_back_within_5_s_after_the_other_stops(latency_s: float, hint: Any) -> None:
    upstream = LimitedUpstream(latency_s=latency_s, jitter=0.3, retry_after=hint)
    run = Run(upstream, 600, every_s=0.2, stop_s=30)
    run.run()
    assert 0.9 <= run.used(10, 30) <= 1.1
    assert run.used(30, 35) >= 0.9
    assert run.used(35, SECONDS) >= 0.97


@UPSTREAMS
@pytest.mark.parametrize("overcharge", [1.5, 3])
def test_upstream_that_counts_more_tokens_starves_nobody(
    latency_s: float, hint: Any, overcharge: float
) -> None:
    upstream = LimitedUpstream(latency_s=latency_s, jitter=0.3, retry_after=hint)
    upstream.overcharge = overcharge
    run = Run(upstream, 60_000, 100)
    run.run()
    assert run.failures == 0
    assert run.used() >= 0.75
