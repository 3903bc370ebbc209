"""An upstream with true quotas on a virtual clock, and clients that reach it through a gate.

Requests travel for half of the latency in each direction, with jitter. The gate's own retry policy
decides what follows a 429.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from multidict import CIMultiDict

from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.rate_limit_headers import read_rate_limits
from rustygate.errors import QueueTimeout
from rustygate.exchange import Exchange
from rustygate.retry import RetryPolicy
from tests.support.harness import Harness

BODY = b'{"error": {"code": "rate_limit_exceeded", "message": ""}}'
HELD: Any = SimpleNamespace(is_held=True)


@dataclass
class LimitedUpstream:
    """Requests and tokens in buckets.

    Args:
        latency_s: the mean time to a response, half of it until the request is charged.
        jitter: how much of the latency varies, from 0 to 1.
        reports: whether responses report the quotas, as OpenAI's do.
        retry_after: the header of a 429, by the exact wait in seconds; None: no header.
        overcharge: how many tokens upstream counts for one of the gate's.
        answer_s: how long upstream takes to answer a request it accepted.
    """

    requests: TokenBucket | None = None
    tokens: TokenBucket | None = None
    latency_s: float = 0.2
    jitter: float = 0.0
    reports: bool = True
    retry_after: Callable[[float], dict[str, str]] | None = None
    overcharge: float = 1.0
    answer_s: float = 0.0
    random: Random = field(default_factory=lambda: Random(1))
    accepted_at: list[tuple[float, int]] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)
    others_at: list[tuple[float, int]] = field(default_factory=list)

    def now(self) -> int:
        return int(asyncio.get_running_loop().time() * SECOND)

    def wait(self, tokens: int) -> int:
        now = self.now()
        wait = 0 if self.requests is None else self.requests.wait(now)
        return wait if self.tokens is None else max(wait, self.tokens.wait(now, tokens))

    def take(self, tokens: int) -> bool:
        if self.wait(tokens):
            return False
        for bucket, cost in ((self.requests, 1), (self.tokens, tokens)):
            if bucket is not None:
                bucket.take(self.now(), cost)
        return True

    def headers(self) -> dict[str, str]:
        named = {"requests": self.requests, "tokens": self.tokens}
        headers = {}
        for kind, bucket in named.items():
            if bucket is not None and self.reports:
                headers[f"x-ratelimit-limit-{kind}"] = str(bucket.burst)
                level = max(0, bucket.level(self.now()))
                headers[f"x-ratelimit-remaining-{kind}"] = str(level)
        return headers

    async def travel(self) -> None:
        half = self.latency_s / 2
        await asyncio.sleep(half * (1 + self.random.uniform(-self.jitter, self.jitter)))

    async def respond(self, tokens: int) -> tuple[int, CIMultiDict[str]]:
        """The status and headers of the response to a request."""
        await self.travel()
        tokens = round(tokens * self.overcharge)
        at = asyncio.get_running_loop().time()
        accepted = self.take(tokens)
        headers = self.headers()
        if accepted:
            self.accepted_at.append((at, tokens))
            await asyncio.sleep(self.answer_s)
        else:
            self.refused_at.append(at)
            if self.retry_after is not None:
                headers |= self.retry_after(self.wait(tokens) / SECOND)
        await self.travel()
        return (200 if accepted else 429), CIMultiDict(headers)

    async def consume(self, every_s: float, count: int = 1, tokens: int = 0) -> None:
        """Another consumer, which keeps sending `count` requests at once at regular intervals."""
        while True:
            for _ in range(count):
                if self.take(tokens):
                    self.others_at.append((asyncio.get_running_loop().time(), tokens))
            await asyncio.sleep(every_s)


async def request(
    harness: Harness, upstream: LimitedUpstream, client: str = "a", **fields: Any
) -> Exchange:
    """Like `send`, through a harness's gate."""
    return await send(harness.gate, harness.settings, upstream, client, **fields)


async def send(
    gate: Gate, settings: Settings, upstream: LimitedUpstream, client: str, **fields: Any
) -> Exchange:
    """Send a request through a gate, as the proxy does. Its status is 429 if it failed."""
    policy = RetryPolicy(settings, gate)
    deadline = gate.now() + int(settings.rate_limit_timeout * SECOND)
    fields = {"deadline": deadline, "model": "m", **fields}
    exchange = Exchange(client, "POST", "/v1/x", **fields)
    status = 429
    try:
        while True:
            async with gate.admission(exchange) as admission:
                exchange.attempts += 1
                status, headers = await upstream.respond(exchange.tokens)
                admission.record_response(
                    status == 200, read_rate_limits(headers), refused=status == 429
                )
                if status == 200:
                    break
                response = cast(Any, SimpleNamespace(status=status, headers=headers))
                if policy.judge_response(exchange, HELD, admission, response, BODY) is None:
                    break
                admission.settle(0)
            await asyncio.sleep(0)
    except QueueTimeout:
        exchange.reason = "queue_timeout"
        status = 429
    exchange.status = status
    exchange.settled = gate.now()
    return exchange
