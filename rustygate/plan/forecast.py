"""Forecasts how long clients wait under a quota, without a request to upstream.

The gate's own code runs on a virtual clock, in front of a simulated upstream that enforces the
quota as OpenAI does and reports it in its responses. Clients' requests arrive at random at a
given rate, or all together. A plan's random numbers are the same in each run.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from random import Random

from rustygate.admission.admission import Admission
from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.errors import Refusal
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock
from rustygate.plan.demand import Demand

MODEL = "planned"

# This many of the requests that arrive together are started before the gate sees them.
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """A quota and the clients that share it. The only place for the defaults.

    Args:
        rpm: requests per minute that upstream admits; None: any number.
        tpm: the model's tokens per minute, likewise.
        duration_s: how long clients with a rate send requests.
        latency_s: how long a response takes.
        timeout_s: how long a request may wait, as RATE_LIMIT_TIMEOUT.
    """

    demands: tuple[Demand, ...]
    rpm: int | None = 500
    tpm: int | None = 200_000
    duration_s: float = 3600.0
    latency_s: float = 1.0
    timeout_s: float = 30.0
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """The results of one client's requests.

    `waits_s` holds the waits of the admitted ones. The gate refused some; others failed, because
    upstream refused them and they could not be sent again in time.
    """

    waits_s: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0

    def record(self, wait_s: float | None, attempts: int) -> None:
        """Count a request that waited so long, or was not admitted in time."""
        if wait_s is not None:
            self.waits_s.append(wait_s)
        elif attempts:
            self.failed += 1
        else:
            self.refused += 1

    def quantile(self, share: float) -> float:
        """The wait that this share of the admitted requests did not exceed."""
        ordered = sorted(self.waits_s)
        return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """The results of a plan: the outcomes by client, the duration of the whole run, and the
    shares of the quota that were used in it."""

    outcomes: dict[str, Outcome]
    duration_s: float
    used_requests: float | None
    used_tokens: float | None


# Is called at the end of each request, with its client and its wait, None if it was refused. An
# exception from it ends the run.
Observer = Callable[[str, float | None], None]


class _Upstream:
    """An upstream that enforces a quota: buckets that refill in a minute."""

    def __init__(self, plan: Plan) -> None:
        self._budgets = Budgets(_bucket(plan.rpm), _bucket(plan.tpm))
        self.requests = self.tokens = 0

    def charge(self, now: int, tokens: int) -> int:
        """Charge a request if the quota suffices. Returns the nanoseconds until it would: 0 if
        the request was charged, a minute if it exceeds the quota as a whole."""
        if self._budgets.tokens is not None and tokens > self._budgets.tokens.burst:
            return MINUTE
        wait = self._budgets.wait(now, tokens) or 0
        if not wait:
            self._budgets.take(now, tokens)
            self.requests += 1
            self.tokens += tokens
        return wait

    def update(self, now: int) -> RateLimitUpdate:
        """The rate limits that a response reports."""
        return RateLimitUpdate(
            _quota(self._budgets.requests, now), _quota(self._budgets.tokens, now)
        )


def _bucket(per_minute: int | None) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket.per_minute(per_minute)


def _quota(bucket: TokenBucket | None, now: int) -> Quota | None:
    return None if bucket is None else Quota(bucket.burst, max(0, bucket.level(now)))


class _Run:
    """One run of a plan, on the running event loop."""

    def __init__(self, plan: Plan, observe: Observer) -> None:
        settings = Settings(
            openai_api_key="none", rate_limit=None, rate_limit_timeout=plan.timeout_s
        )
        self._plan = plan
        self._observe = observe
        self._gate = Gate(settings)
        self._upstream = _Upstream(plan)
        self._outcomes = {demand.client: Outcome() for demand in plan.demands}

    async def run(self) -> Forecast:
        began = self._gate.now()
        async with asyncio.TaskGroup() as requests:
            for demand, random in seeded(self._plan):
                requests.create_task(self._send_requests(demand, random, requests))
        duration_s = (self._gate.now() - began) / SECOND
        self._gate.close()
        plan, upstream = self._plan, self._upstream
        return Forecast(
            self._outcomes,
            duration_s,
            _share(upstream.requests, plan.rpm, duration_s),
            _share(upstream.tokens, plan.tpm, duration_s),
        )

    async def _send_requests(
        self, demand: Demand, random: Random, requests: asyncio.TaskGroup
    ) -> None:
        """Start each request of a client at its arrival time."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for number, at_s in enumerate(demand.arrivals(self._plan.duration_s, random)):
            if (pause_s := began_s + at_s - loop.time()) > 0:
                await asyncio.sleep(pause_s)
            elif number % _BATCH == 0:
                # Requests that are refused on arrival free their memory before more arrive.
                await asyncio.sleep(0)
            requests.create_task(self._request(demand))

    async def _request(self, demand: Demand) -> None:
        exchange = Exchange(
            demand.client,
            "POST",
            "/v1/responses",
            deadline=self._gate.now() + int(self._plan.timeout_s * SECOND),
            priority=demand.priority,
            weight=demand.weight,
            model=MODEL,
            tokens=demand.tokens,
            min_tokens=demand.tokens,
        )
        wait_s = await self._wait_of(exchange)
        self._outcomes[demand.client].record(wait_s, exchange.attempts)
        self._observe(demand.client, wait_s)

    async def _wait_of(self, exchange: Exchange) -> float | None:
        """Run a request. Returns the seconds it waited, or None if it was not admitted in time."""
        wait = 0
        with suppress(Refusal):
            while self._gate.now() + wait <= exchange.deadline:
                async with self._gate.admission(exchange) as admission:
                    wait = await self._attempt(exchange, admission)
                if not wait:
                    return exchange.queued / SECOND
        return None

    async def _attempt(self, exchange: Exchange, admission: Admission) -> int:
        """Send a request upstream once. Returns the nanoseconds until it may be sent again; 0 if
        it was successful."""
        exchange.attempts += 1
        wait = self._upstream.charge(self._gate.now(), exchange.tokens)
        update = self._upstream.update(self._gate.now())
        await asyncio.sleep(self._plan.latency_s)
        admission.record_response(not wait, update)
        if wait:
            admission.pause(wait)
        return wait


def _share(used: int, per_minute: int | None, duration_s: float) -> float | None:
    """The used share of a full bucket and its refill over a time; None without a limit."""
    return None if per_minute is None else used / (per_minute * (1 + duration_s / 60))


def seeded(plan: Plan) -> list[tuple[Demand, Random]]:
    """The demands, each with its own random numbers."""
    random = Random(plan.seed)
    return [(demand, Random(random.random())) for demand in plan.demands]


def requests_of(plan: Plan) -> dict[str, int]:
    """How many requests each client of a plan sends."""
    counts = dict.fromkeys((demand.client for demand in plan.demands), 0)
    for demand, random in seeded(plan):
        counts[demand.client] += sum(1 for _ in demand.arrivals(plan.duration_s, random))
    return counts


def forecast(plan: Plan, observe: Observer = lambda client, wait_s: None) -> Forecast:
    """Run a plan. A day takes seconds as long as the demand is below the quota."""

    async def run() -> Forecast:
        return await _Run(plan, observe).run()

    return virtual_clock.run(run)
