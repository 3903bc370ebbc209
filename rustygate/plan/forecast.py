"""`rustygate plan`: who would wait how long under which quota, before anybody pays for it.

The gate's own code runs on a clock that jumps, before an upstream that keeps the quota asked for
as OpenAI does and tells of it in its answers. Clients arrive at random at their rate, or all at
once; the same numbers are drawn each time.
"""

import argparse
import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from random import Random
from typing import Any

from rustygate.admission.gate import Admission, Gate
from rustygate.config import ConfigError, Settings
from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.clients import LEAST_WEIGHT, MOST_WEIGHT
from rustygate.core.priority_class import CLASSES
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.errors import Refusal
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock

MODEL = "planned"

# A year of hours, or a day of seconds: beyond that a number is a slip.
MOST = 86_400

# A plan of more requests than that is a slip too: it would take a quarter of an hour.
MOST_REQUESTS = 10_000_000

# One request in so long as a plan may last.
LEAST_RATE = 1 / (MOST * 3600)

# So many requests that come at once are let in before they are looked at.
_BATCH = 1000

_CLIENT = re.compile(
    r"(?P<name>[^:]+):(?P<count>\d+(\.\d+)?)(/(?P<unit>[smh])|@(?P<at>once|\d+)):(?P<tokens>\d+)"
    r"(:(?P<priority>[a-z]+))?(:(?P<weight>\d+(\.\d+)?))?"
)
_UNIT_S = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Demand:
    """What one client asks for.

    Args:
        count: requests a second, or in all if `at_s` says when they come at once.
        tokens: what each costs, input and output together.
    """

    client: str
    count: float
    at_s: float | None
    tokens: int
    priority: str = "default"
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Demand":
        """`NAME:2/s:800`, `NAME:1000@once:3000`, with `:CLASS` and `:WEIGHT` if wanted.

        Raises argparse.ArgumentTypeError.
        """
        found = _CLIENT.fullmatch(text)
        demand = found and cls._of(found)
        if not demand or not demand._is_sane():
            raise argparse.ArgumentTypeError(
                f"expected NAME:N/s:TOKENS (or /m, /h), or NAME:N@once:TOKENS (or @SECONDS), then "
                f"maybe :CLASS ({', '.join(CLASSES)}) and :WEIGHT "
                f"({LEAST_WEIGHT} to {MOST_WEIGHT}); got {text!r}"
            )
        return demand

    @classmethod
    def _of(cls, found: re.Match[str]) -> "Demand":
        at = found["at"]
        count = float(found["count"]) / _UNIT_S[found["unit"] or "s"]
        at_s = None if at is None else 0.0 if at == "once" else float(at)
        priority, weight = found["priority"] or "default", float(found["weight"] or 1)
        return cls(found["name"], count, at_s, int(found["tokens"]), priority, weight)

    def _is_sane(self) -> bool:
        """Whether the gate's numbers hold for it: its class, its weight, its times."""
        if self.priority not in CLASSES or not LEAST_WEIGHT <= self.weight <= MOST_WEIGHT:
            return False
        if self.at_s is None:
            return self.count >= LEAST_RATE
        return self.count >= 1 and self.at_s <= MOST * 3600

    def requests(self, duration_s: float) -> float:
        """How many come in all, on average."""
        return self.count if self.at_s is not None else self.count * duration_s

    def arrivals(self, duration_s: float, random: Random) -> Iterator[float]:
        """The seconds at which requests come."""
        if self.at_s is not None:
            yield from (self.at_s for _ in range(int(self.count)))
            return
        now_s = random.expovariate(self.count)
        while now_s < duration_s:
            yield now_s
            now_s += random.expovariate(self.count)


@dataclass(frozen=True, slots=True)
class Plan:
    """A quota and who is to share it; the defaults stand only here.

    Args:
        rpm: requests per minute that upstream lets through; None: any number.
        tpm: the model's tokens per minute, likewise.
        duration_s: for how long clients with a rate go on asking.
        latency_s: how long an answer takes.
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
    """What became of one client's requests; `waits_s` are those of the admitted ones."""

    waits_s: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0

    def quantile(self, share: float) -> float:
        """The wait that this share of the admitted did not exceed."""
        ordered = sorted(self.waits_s)
        return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a plan comes to; `used` is the share of the quota over the time it took."""

    outcomes: dict[str, Outcome]
    took_s: float
    used_requests: float | None
    used_tokens: float | None


class _Upstream:
    """A quota as upstream keeps it: buckets that refill in a minute, told in each answer."""

    def __init__(self, plan: Plan) -> None:
        self._budgets = Budgets(_bucket(plan.rpm), _bucket(plan.tpm))
        self.requests = self.tokens = 0

    def ask(self, now: int, tokens: int) -> int:
        """Charge a request; the nanoseconds until it would fit, if it does not, a minute for one
        that never will."""
        if self._budgets.tokens is not None and tokens > self._budgets.tokens.burst:
            return MINUTE
        wait = self._budgets.wait(now, tokens) or 0
        if not wait:
            self._budgets.take(now, tokens)
            self.requests += 1
            self.tokens += tokens
        return wait

    def news(self, now: int) -> RateLimitUpdate:
        return RateLimitUpdate(
            _quota(self._budgets.requests, now), _quota(self._budgets.tokens, now)
        )


def _bucket(per_minute: int | None) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket.per_minute(per_minute)


def _quota(bucket: TokenBucket | None, now: int) -> Quota | None:
    return None if bucket is None else Quota(bucket.burst, max(0, bucket.level(now)), None)


class _Run:
    """One run of a plan, on the loop it was made in."""

    def __init__(self, plan: Plan) -> None:
        settings = Settings(
            openai_api_key="none", rate_limit=None, rate_limit_timeout=plan.timeout_s
        )
        self._plan = plan
        self._retries = settings.upstream_retries
        self._gate = Gate(settings)
        self._upstream = _Upstream(plan)
        self._outcomes = {demand.client: Outcome() for demand in plan.demands}
        self._requests: set[asyncio.Task[None]] = set()

    async def run(self) -> Forecast:
        self._gate.start()
        began = self._gate.now()
        random = Random(self._plan.seed)
        seeded = [(demand, Random(random.random())) for demand in self._plan.demands]
        await asyncio.gather(*(self._come(demand, own) for demand, own in seeded))
        await asyncio.gather(*self._requests)
        took_s = (self._gate.now() - began) / SECOND
        self._gate.close()
        plan, upstream = self._plan, self._upstream
        return Forecast(
            self._outcomes,
            took_s,
            _share(upstream.requests, plan.rpm, took_s),
            _share(upstream.tokens, plan.tpm, took_s),
        )

    async def _come(self, demand: Demand, random: Random) -> None:
        """Let a client's requests come when they come."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for number, at_s in enumerate(demand.arrivals(self._plan.duration_s, random)):
            if (pause_s := began_s + at_s - loop.time()) > 0:
                await asyncio.sleep(pause_s)
            elif number % _BATCH == 0:
                # Those that are refused at once are gone before more come.
                await asyncio.sleep(0)
            request = loop.create_task(self._request(demand))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)

    async def _request(self, demand: Demand) -> None:
        outcome = self._outcomes[demand.client]
        exchange = Exchange(
            demand.client,
            "POST",
            "/v1/responses",
            deadline=self._gate.now() + int(self._plan.timeout_s * SECOND),
            priority=demand.priority,
            weight=demand.weight,
            model=MODEL,
            tokens=demand.tokens,
            tokens_least=demand.tokens,
        )
        try:
            while exchange.attempts <= self._retries:
                async with self._gate.admission(exchange) as admission:
                    if await self._attempt(exchange, admission):
                        outcome.waits_s.append(exchange.queued / SECOND)
                        return
            outcome.failed += 1
        except Refusal:
            outcome.refused += 1

    async def _attempt(self, exchange: Exchange, admission: Admission) -> bool:
        """Ask upstream once; whether it answered well."""
        exchange.attempts += 1
        wait = self._upstream.ask(self._gate.now(), exchange.tokens)
        news = self._upstream.news(self._gate.now())
        await asyncio.sleep(self._plan.latency_s)
        admission.answered(ok=not wait, news=news)
        if wait:
            admission.pause(wait)
        return not wait


def _share(used: int, per_minute: int | None, took_s: float) -> float | None:
    """The share of what a full bucket and its refill could have given in that time."""
    return None if per_minute is None else used / (per_minute * (1 + took_s / 60))


def forecast(plan: Plan) -> Forecast:
    """Run a plan; a day of it takes seconds, if it asks for less than the quota."""

    async def run() -> Forecast:
        return await _Run(plan).run()

    return virtual_clock.run(run)


def lines(plan: Plan, seen: Forecast) -> Iterator[str]:
    """A forecast as a table."""
    width = max(6, *(len(demand.client) for demand in plan.demands))
    yield f"{'client':<{width}}  requests  admitted  refused   p50 s   p95 s   max s"
    for name, outcome in seen.outcomes.items():
        admitted = len(outcome.waits_s)
        asked = admitted + outcome.refused + outcome.failed
        waits = "".join(f"{outcome.quantile(share):8.2f}" for share in (0.5, 0.95, 1.0))
        refused = outcome.refused + outcome.failed
        yield f"{name:<{width}}  {asked:8d}  {admitted:8d}  {refused:7d}{waits}"
    yield ""
    yield f"over {seen.took_s:.0f} s: {_used('requests', plan.rpm, seen.used_requests)}, " + (
        _used("tokens", plan.tpm, seen.used_tokens)
    )


def _used(what: str, limit: int | None, share: float | None) -> str:
    return f"{what} unlimited" if share is None else f"{share:.0%} of {limit} {what} a minute used"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a flag for each part of a plan."""
    default = Plan(())

    def add(name: str, read: Callable[[str], Any], value: object, text: str) -> None:
        text = f"{text} (default: %(default)s)"
        parser.add_argument(name, type=read, default=value, metavar="N", help=text)

    add("--rpm", _limit, default.rpm, "requests per minute; 0: no limit")
    add("--tpm", _limit, default.tpm, "the model's tokens per minute; 0: no limit")
    add("--hours", _positive, default.duration_s / 3600, "how long clients with a rate ask")
    add("--latency", _positive, default.latency_s, "seconds that an answer takes")
    add("--timeout", _positive, default.timeout_s, "seconds a request may wait")
    parser.add_argument(
        "--client",
        type=Demand.parse,
        action="append",
        required=True,
        dest="demands",
        metavar="NAME:ARRIVALS:TOKENS[:CLASS[:WEIGHT]]",
        help="ARRIVALS: 2/s, 90/m, 5/h, 1000@once or 1000@SECONDS; may be repeated",
    )


def _limit(text: str) -> int | None:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text) or None


def _positive(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= MOST:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number above 0, up to {MOST}, got {text!r}")


def from_arguments(arguments: argparse.Namespace) -> Plan:
    """The plan that a parser with `add_arguments` read. Raises ConfigError if it is too large."""
    demands: Sequence[Demand] = arguments.demands
    requests = sum(demand.requests(arguments.hours * 3600) for demand in demands)
    if requests > MOST_REQUESTS:
        raise ConfigError(
            [f"plan: expected at most {MOST_REQUESTS:,} requests in all, got {requests:,.0f}"]
        )
    return Plan(
        tuple(demands),
        arguments.rpm,
        arguments.tpm,
        duration_s=arguments.hours * 3600,
        latency_s=arguments.latency,
        timeout_s=arguments.timeout,
    )
