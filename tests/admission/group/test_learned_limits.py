"""Gates use all of a limit that upstream reports, and upstream refuses hardly any requests."""

import asyncio
from collections.abc import Sequence
from itertools import cycle
from math import ceil
from random import Random

import pytest

from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.bucket import TokenBucket
from tests.support.group import GroupHarness, run_group
from tests.support.harness import Harness, run_scenario
from tests.support.limited_upstream import LimitedUpstream, send

# In the first seconds, the level falls from a twentieth of the limit to nothing.
FIRST_S, SECONDS = 2, 10

LIMITS: dict[str, object] = {"rate_limit": None, "rate_limit_burst": 20}


def exact(wait_s: float) -> dict[str, str]:
    return {"retry-after-ms": str(ceil(wait_s * 1000))}


class Clients:
    """One client uses the first gate, one all gates in turn, one the last. Each keeps eight
    requests going, of 0.5 to 1.5 times `tokens`."""

    def __init__(self, upstream: LimitedUpstream, tokens: int) -> None:
        self.upstream, self.tokens = upstream, tokens
        self.random = Random(1)
        self.began = 0.0

    async def send(self, gates: Sequence[Gate], settings: Settings) -> None:
        self.began = asyncio.get_running_loop().time()
        bucket = self.upstream.tokens or self.upstream.requests
        assert bucket is not None
        bucket.fill_to(self.upstream.now(), bucket.burst // 20)
        tasks = [
            asyncio.create_task(self._keep_sending(client, places, settings))
            for client, places in (("a", gates[:1]), ("b", gates), ("c", gates[-1:]))
            for _ in range(8)
        ]
        await asyncio.sleep(SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_sending(self, client: str, gates: Sequence[Gate], settings: Settings) -> None:
        for gate in cycle(gates):
            tokens = self.random.randint(self.tokens // 2, 3 * self.tokens // 2)
            made = await send(gate, settings, self.upstream, client, tokens=tokens)
            assert made.status == 200

    def used(self, per_minute: int) -> float:
        """The share of the limit that was used after the first seconds."""
        units = sum(
            tokens if self.tokens else 1
            for at, tokens in self.upstream.accepted_at
            if at >= self.began + FIRST_S
        )
        return units / (per_minute * (SECONDS - FIRST_S) / 60)

    def run(self, gates: int) -> None:
        """`gates`: how many are in a group; 0: one gate without a group."""

        async def alone(harness: Harness) -> None:
            await self.send([harness.gate], harness.settings)

        async def together(harness: GroupHarness) -> None:
            await asyncio.sleep(1)
            await self.send(harness.gates, harness.settings)

        if gates:
            run_group(together, gates, **LIMITS)
        else:
            run_scenario(alone, **LIMITS)


@pytest.mark.parametrize("gates", [0, 1, 4], ids=["alone", "group of one", "group of four"])
@pytest.mark.parametrize(
    ("tokens", "latency_s", "jitter"), [(0, 0.02, 0.1), (0, 0.2, 1.0), (100, 0.02, 1.0)]
)
def test_learned_limit_is_fully_used_with_hardly_any_429s(
    tokens: int, latency_s: float, jitter: float, gates: int
) -> None:
    upstream = LimitedUpstream(latency_s=latency_s, jitter=jitter, retry_after=exact)
    per_minute = 2400 * max(1, tokens)
    if tokens:
        upstream.tokens = TokenBucket.per_minute(per_minute)
    else:
        upstream.requests = TokenBucket.per_minute(per_minute)
    clients = Clients(upstream, tokens)
    clients.run(gates)
    assert len(upstream.refused_at) <= (2 if tokens else 0)
    assert 0.99 <= clients.used(per_minute) <= 1.03
