"""An organisation with many apps and gates, on a virtual clock.

The gates' admission and the group's script in a real Redis are those of production. HTTP, bodies
and streams are left out: a response's head, which says what is left of the limits, comes half a
second after its request was admitted. The limits are upstream's: the gates learn them.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from statistics import quantiles
from typing import Any

import redis
from loguru import logger

from rustygate.admission.admission import Admission
from rustygate.core.fair_order import CLASS_NAMES
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.errors import Refusal
from scripts.benchmarks.group import jain, redis_server
from tests.support.group import GroupHarness, run_group
from tests.support.sync_script import SyncScript

RESPONSE_S = 0.5
WARM_UP_S = 15.0

# How many requests a batch app always has waiting at each of its gates.
BATCH_DEPTH = 10


@dataclass(frozen=True)
class Kind:
    """A kind of app: its class, how many of a thousand apps are of it, tokens per request, and
    the mean pause between two requests; 0: it always wants more."""

    priority: str
    per_mille: int
    tokens: int
    pause_s: float


KINDS = (
    Kind("interactive", 200, 2000, 6),
    Kind("default", 700, 3000, 4),
    Kind("batch", 100, 4000, 0),
)


@dataclass(frozen=True)
class Plan:
    """How large the organisation is."""

    gates: int = 100
    apps: int = 1000
    models: int = 3
    tokens_per_minute: int = 30_000_000


class Upstream:
    """Limits each model's tokens, and reports what is left."""

    def __init__(self, harness: GroupHarness, plan: Plan) -> None:
        self._harness, self._limit = harness, plan.tokens_per_minute
        # The burst of a minute is almost spent.
        self._left = {_model(number): self._limit * 0.02 for number in range(plan.models)}
        self._at = dict.fromkeys(self._left, harness.now)
        self.refused = 0

    def respond(self, admission: Admission) -> None:
        model, now = admission.lane.name, self._harness.now
        left = self._left[model] + (now - self._at[model]) * self._limit / 60
        left, self._at[model] = min(self._limit, left), now
        if left < admission.tokens:
            self._left[model] = left
            self.refused += 1
            admission.record_response(False, refused=True)
            return
        self._left[model] = left - admission.tokens
        update = RateLimitUpdate(None, Quota(self._limit, int(self._left[model])))
        admission.record_response(True, update)


@dataclass
class Outcome:
    """What a run showed, for its last part.

    Attributes:
        waits: by class, in seconds.
        apps: Jain's index of what the batch apps of a model got, for each model.
    """

    seconds: float
    waits: dict[str, list[float]]
    admitted: int
    used: float
    apps: list[float]
    errors: int
    refused: int
    calls: int
    redis_us: float
    redis_bytes: int


class App:
    """An app sends requests of one model through a few gates."""

    def __init__(self, number: int, plan: Plan, harness: GroupHarness) -> None:
        self._random = Random(number)
        self.kind = _kind_of(number)
        self.name = f"app-{number}"
        self.model = _model(number % plan.models)
        gates = self._random.choice((1, 1, 2, 3))
        self.gates = self._random.sample(range(plan.gates), min(gates, plan.gates))
        self._harness = harness

    async def send(self) -> None:
        await self._harness.admit(
            self.name,
            self._random.choice(self.gates),
            RESPONSE_S,
            model=self.model,
            priority=self.kind.priority,
            tokens=self.kind.tokens,
        )

    def start(self) -> None:
        depth = 1 if self.kind.pause_s else BATCH_DEPTH * len(self.gates)
        for _ in range(depth):
            self._harness.demand(self._keep_sending())

    async def _keep_sending(self) -> None:
        while True:
            if self.kind.pause_s:
                await asyncio.sleep(self._random.expovariate(1 / self.kind.pause_s))
            try:
                await self.send()
            except Refusal as error:
                self._harness.errors.append(error)


def _model(number: int) -> str:
    return f"model-{number}"


def _kind_of(number: int) -> Kind:
    place = number * 7919 % 1000
    for kind in KINDS:
        if place < kind.per_mille:
            return kind
        place -= kind.per_mille
    raise AssertionError(number)


class _Script(SyncScript):
    """The script, which counts as the scheduler of a `LocalGroup`."""

    members = ()


@contextmanager
def _server() -> Iterator[redis.Redis]:
    with (
        redis_server() as server,
        redis.Redis(port=server.port, socket_timeout=None) as client,
    ):
        yield client


def simulate(plan: Plan, seconds: float) -> Outcome:
    """Run an organisation for a while, after a warm-up."""
    logger.remove()
    with _server() as client:
        outcome: Outcome | None = None

        async def scenario(harness: GroupHarness) -> None:
            nonlocal outcome
            outcome = await _observe(harness, plan, seconds, client)

        run_group(scenario, plan.gates, rate_limit=None, rate_limit_timeout=600)
    assert outcome is not None
    return outcome


async def _observe(
    harness: GroupHarness, plan: Plan, seconds: float, client: redis.Redis
) -> Outcome:
    harness.group.scheduler = _Script(client)  # type: ignore[assignment]
    upstream = Upstream(harness, plan)
    harness.on_response = upstream.respond
    await asyncio.sleep(1)
    apps = [App(number, plan, harness) for number in range(plan.apps)]
    for app in apps:
        app.start()
    await asyncio.sleep(WARM_UP_S)
    began, before, refused = harness.now, _cost(client), upstream.refused
    harness.waits.clear()
    await asyncio.sleep(seconds)
    calls, us = (after - first for after, first in zip(_cost(client), before, strict=True))
    got = _got(harness, apps, began)
    tokens = sum(app.kind.tokens * got[app.name] for app in apps)
    return Outcome(
        seconds,
        _waits_by_class(harness, apps),
        sum(got.values()),
        tokens / (plan.models * plan.tokens_per_minute / 60 * seconds),
        _fairness(plan, apps, got),
        len(harness.errors),
        upstream.refused - refused,
        int(calls),
        us / calls,
        client.info("memory")["used_memory_dataset"],
    )


def _cost(client: redis.Redis) -> tuple[int, float]:
    """The script's calls so far, and the server's CPU in microseconds."""
    calls = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    used = client.info("cpu")
    return calls, 1e6 * (used["used_cpu_user"] + used["used_cpu_sys"])


def _got(harness: GroupHarness, apps: list[App], since: float) -> dict[str, int]:
    got = {app.name: 0 for app in apps}
    for client, _, at in harness.admitted:
        if at >= since:
            got[client] += 1
    return got


def _waits_by_class(harness: GroupHarness, apps: list[App]) -> dict[str, list[float]]:
    waits: dict[str, list[float]] = {name: [] for name in CLASS_NAMES}
    for app in apps:
        waits[app.kind.priority] += harness.waits.get(app.name, [])
    return waits


def _fairness(plan: Plan, apps: list[App], got: dict[str, int]) -> list[float]:
    """Of the apps that always want more, for each model."""
    batch = [app for app in apps if not app.kind.pause_s]
    return [
        jain([got[app.name] for app in batch if app.model == _model(number)])
        for number in range(plan.models)
    ]


def describe(plan: Plan, outcome: Outcome) -> list[str]:
    """What to print about a run."""
    per_s = outcome.calls / outcome.seconds
    lines = [
        f"{plan.gates} gates, {plan.apps:,} apps, {plan.models} models with "
        f"{plan.tokens_per_minute:,} tokens a minute each, {outcome.seconds:g} s:",
        f"  admitted {outcome.admitted / outcome.seconds:.0f}/s, used {outcome.used:.1%}, Jain of "
        f"the batch apps of each model {', '.join(f'{each:.4f}' for each in outcome.apps)}",
        f"  refused by the gates {outcome.errors}, by upstream {outcome.refused}",
        f"  Redis: {per_s:.0f} calls/s, {outcome.redis_us:.0f} us of CPU each, "
        f"{per_s * outcome.redis_us / 1e6:.0%} of a core, {outcome.redis_bytes / 1e6:.1f} MB",
    ]
    for name, waits in outcome.waits.items():
        p50, p95 = _percentiles(waits)
        count = f"{len(waits):,} requests"
        lines.append(f"  {name:<12} waits p50 {p50:.2f} s, p95 {p95:.2f} s, {count}")
    return lines


def _percentiles(values: list[Any]) -> tuple[float, float]:
    if len(values) < 2:
        return 0.0, 0.0
    parts = quantiles(values, n=20)
    return parts[9], parts[18]
