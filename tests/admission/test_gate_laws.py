"""The gate's laws under any sequence of events: no unit is lost or created, and no request waits
without a reason."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rustygate.admission import dispatcher
from rustygate.admission.admission import Admission
from rustygate.admission.dispatcher import TIMER_SLACK
from rustygate.admission.gate import Gate
from rustygate.admission.waiter import AnyQueue, LaneQueue
from rustygate.config import Settings
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.clients import Limits
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.core.scheduler import Scheduler
from rustygate.core.scopes import ClientScope, Flow, LaneScope
from rustygate.errors import Draining
from rustygate.exchange import Exchange
from rustygate.plan.virtual_clock import VirtualClockLoop
from tests.support.harness import (
    Harness,
    rate_limit,
    run_ready_tasks,
    run_scenario,
    set_rate_limit,
)

# No request reaches its deadline here.
FAR_NS = 10**15

# A timer is set a little later than the instant it waits for.
LATE_NS = 10_000


@dataclass(eq=False)
class Request:
    """A client's request, its present attempt, and the outcome of that once it is admitted."""

    exchange: Exchange
    admission: Admission
    task: "asyncio.Task[None] | None" = None
    in_flight: bool = False
    taken: bool = False
    granted_at: int = 0
    outcome: "asyncio.Future[Callable[[Admission], bool]] | None" = None

    @property
    def waits(self) -> bool:
        return self.task is not None and not self.in_flight and not self.task.done()


@dataclass
class Ledger:
    """A second account of the gate's own buckets, to compare them with."""

    budgets: Budgets
    granted: list[Request] = field(default_factory=list)


def own_budgets(settings: Settings) -> Budgets:
    requests = tokens = None
    if settings.rate_limit is not None:
        requests = TokenBucket.from_rate(settings.rate_limit, settings.rate_limit_burst)
    if settings.tokens_per_minute is not None:
        tokens = TokenBucket.per_minute(settings.tokens_per_minute)
    return Budgets(requests, tokens)


CLIENTS, MODELS = "abc", ("m", "n", None)
quotas = st.none() | st.builds(
    Quota, st.sampled_from([1, 30, 60, 600]), st.none() | st.integers(0, 60)
)
client_limits = st.builds(
    Limits,
    st.sampled_from([None, 0.5, 5.0]),
    st.just(1) | st.just(3),
    st.sampled_from([None, 300]),
    st.sampled_from([None, 1, 2]),
)


@hypothesis_settings(max_examples=60, stateful_step_count=40)
class GateMachine(RuleBasedStateMachine):
    """Arrivals, responses, retries, cancellations and changes of limits, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualClockLoop)
        self.requests: list[Request] = []

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        self.runner.run(main)

    @initialize(
        rate=st.sampled_from([None, 0.5, 5.0, 50.0]),
        burst=st.integers(1, 3),
        tokens=st.sampled_from([None, 60, 600]),
        slots=st.none() | st.integers(1, 3),
    )
    def begin(self, rate: float | None, burst: int, tokens: int | None, slots: int | None) -> None:
        settings = Settings(
            openai_api_key="sk-test",
            rate_limit=rate,
            rate_limit_burst=burst,
            tokens_per_minute=tokens,
            concurrency_limit=slots,
        )

        async def start() -> None:
            self.gate = self.make_gate(settings)
            await self.rest()

        self.ledger = Ledger(own_budgets(settings))
        self.run(start())

    def make_gate(self, settings: Settings) -> Gate:
        return Gate(settings)

    async def rest(self) -> None:
        """Until everything that does not need time is done."""
        await run_ready_tasks()

    # Events.

    @rule(
        client=st.sampled_from(CLIENTS),
        priority=st.sampled_from(["interactive", "default", "batch"]),
        model=st.sampled_from(MODELS),
        tokens=st.integers(0, 60),
        count=st.integers(1, 4),
    )
    def arrive(
        self, client: str, priority: str, model: str | None, tokens: int, count: int
    ) -> None:
        async def spawn() -> None:
            for _ in range(count):
                exchange = Exchange(client, "POST", "/v1/x", self.gate.now() + FAR_NS)
                exchange.priority, exchange.model, exchange.tokens = priority, model, tokens
                request = Request(exchange, self.gate.admission(exchange))
                request.task = asyncio.create_task(self.pass_through(request))
                self.requests.append(request)
                # Each request arrives before the next one.
                await asyncio.sleep(0)
            await self.rest()

        self.run(spawn())

    async def pass_through(self, request: Request) -> None:
        again = True
        while again:
            async with request.admission:
                request.outcome = asyncio.get_running_loop().create_future()
                request.in_flight = True
                self.take_granted()
                request.granted_at = request.granted_at or self.gate.now()
                self.ledger.granted.append(request)
                try:
                    again = (await request.outcome)(request.admission)
                finally:
                    request.in_flight = False
            request.exchange.attempts += 1
            if again:
                request.admission = self.gate.admission(request.exchange)
                request.taken = False

    def take_granted(self) -> None:
        """Charge the ledger for what the gate has granted, also to those that do not run yet: a
        response can grant a request before it is settled."""
        for request in self.requests:
            if not request.taken and (request.in_flight or request.admission.granted):
                request.taken = True
                self.ledger.budgets.take(self.gate.now(), request.exchange.tokens)

    def finish(self, index: int, outcome: Callable[[Admission], bool]) -> None:
        """Apply an outcome to a request in flight, which retries if the outcome returns True."""
        in_flight = [request for request in self.requests if request.in_flight]
        request = in_flight[index % len(in_flight)]

        async def step() -> None:
            assert request.outcome is not None
            request.outcome.set_result(outcome)
            await self.rest()

        self.run(step())

    def any_in_flight(self) -> bool:
        return any(request.in_flight for request in self.requests)

    @precondition(any_in_flight)
    @rule(
        index=st.integers(0, 9),
        ok=st.booleans(),
        update=st.builds(RateLimitUpdate, quotas, quotas),
        used=st.none() | st.integers(0, 90),
    )
    def respond(self, index: int, ok: bool, update: RateLimitUpdate, used: int | None) -> None:
        def outcome(admission: Admission) -> bool:
            admission.record_response(ok, update)
            if used is not None:
                self.take_granted()
                self.ledger.budgets.settle(self.gate.now(), admission.tokens, used)
                admission.settle(used)
            return False

        self.finish(index, outcome)

    @precondition(any_in_flight)
    @rule(index=st.integers(0, 9), wait_s=st.integers(0, 20), slow=st.booleans())
    def rate_limit_and_retry(self, index: int, wait_s: int, slow: bool) -> None:
        def outcome(admission: Admission) -> bool:
            admission.record_response(False)
            admission.pause(wait_s * SECOND, slow=slow)
            return True

        self.finish(index, outcome)

    @precondition(any_in_flight)
    @rule(index=st.integers(0, 9), again=st.booleans())
    def fail_to_connect(self, index: int, again: bool) -> None:
        def outcome(admission: Admission) -> bool:
            self.take_granted()
            self.ledger.budgets.give_back(admission.tokens)
            admission.give_back()
            return again

        self.finish(index, outcome)

    @precondition(lambda self: self.requests)
    @rule(index=st.integers(0, 99))
    def cancel(self, index: int) -> None:
        async def step() -> None:
            task = self.requests[index % len(self.requests)].task
            assert task is not None
            task.cancel()
            await self.rest()

        self.run(step())

    @rule(limits=st.dictionaries(st.sampled_from(CLIENTS), client_limits))
    def change_limits(self, limits: dict[str, Limits]) -> None:
        async def step() -> None:
            self.gate.limit_clients(limits)
            await self.rest()

        self.run(step())

    @rule(seconds=st.sampled_from([0.001, 0.3, 1.0, 2.5, 30.0]))
    def advance_clock(self, seconds: float) -> None:
        async def step() -> None:
            await asyncio.sleep(seconds)
            await self.rest()

        self.run(step())

    # Invariants.

    @invariant()
    def counts_match_the_requests(self) -> None:
        waiting = [request for request in self.requests if request.waits]
        in_flight = [request for request in self.requests if request.in_flight]
        assert self.gate.snapshot() == {"waiters": len(waiting), "in_flight": len(in_flight)}
        for queue in self.scopes():
            held = [each for each in in_flight if queue in each.admission.scopes]
            queued = [each for each in waiting if queue in each.admission.scopes]
            assert (sum(queue.waiting), sum(queue.waiting_tokens)) == (
                len(queued),
                sum(each.exchange.tokens for each in queued),
            )
            if isinstance(queue, LaneQueue):
                assert queue.users == len(held) + len(queued)
            assert queue.budgets.in_flight == len(held)

    @invariant()
    def own_buckets_match_the_ledger(self) -> None:
        now, own, ledger = self.gate.now(), self.gate.dispatcher.budgets, self.ledger.budgets
        for bucket, expected in ((own.requests, ledger.requests), (own.tokens, ledger.tokens)):
            if bucket is not None and expected is not None:
                difference = max(now, bucket.full_at) - max(now, expected.full_at)
                assert abs(difference) <= TIMER_SLACK + LATE_NS

    @invariant()
    def no_request_waits_without_a_reason(self) -> None:
        """Each exceeds a budget, or shares one with a request that has such a reason."""
        waiting = {request for request in self.requests if request.waits}
        blocked = {request for request in waiting if self.exceeds_a_budget(request)}
        if any(self.exceeds_own_budgets(request) for request in blocked):
            return
        while True:
            shared = {each for request in blocked for each in request.admission.scopes}
            more = {
                request
                for request in waiting - blocked
                if shared.intersection(request.admission.scopes)
            }
            if not more:
                break
            blocked |= more
        assert waiting == blocked

    def exceeds_own_budgets(self, request: Request) -> bool:
        return (
            self.gate.dispatcher.budgets.wait(self.gate.now() - LATE_NS, request.exchange.tokens)
            != 0
        )

    def exceeds_a_budget(self, request: Request) -> bool:
        now, tokens = self.gate.now() - LATE_NS, request.exchange.tokens
        return self.exceeds_own_budgets(request) or any(
            each.budgets.wait(now, tokens) != 0 for each in request.admission.scopes
        )

    @invariant()
    def flows_are_first_in_first_out(self) -> None:
        """Requests of one flow that need the same budgets are admitted in order of arrival."""
        first_grants: dict[object, list[Request]] = {}
        seen: set[int] = set()
        for request in self.ledger.granted:
            if id(request) not in seen:
                seen.add(id(request))
                each = request.exchange
                key = (each.client, each.priority, request.admission.scopes)
                first_grants.setdefault(key, []).append(request)
        for flow in first_grants.values():
            assert all(self.may_precede(one, other) for one, other in pairwise(flow))

    def may_precede(self, one: Request, other: Request) -> bool:
        return one.exchange.arrived <= other.exchange.arrived

    def scopes(self) -> "list[AnyQueue]":
        clients = filter(None, map(self.gate.client_budgets, CLIENTS))
        return [*self.gate.lanes, *clients]

    def teardown(self) -> None:
        """Close the gate: waiters are refused, and requests in flight can finish."""

        async def close() -> None:
            waiting = [request for request in self.requests if request.waits]
            self.gate.close()
            await self.rest()
            for request in waiting:
                assert request.task is not None
                assert isinstance(request.task.exception(), Draining)
            for request in self.requests:
                if request.in_flight and request.outcome is not None:
                    request.outcome.set_result(lambda admission: False)
            await self.rest()
            assert self.gate.snapshot() == {"waiters": 0, "in_flight": 0}

        if hasattr(self, "gate"):
            self.run(close())
        self.runner.close()


TestGateMachine = GateMachine.TestCase


class Fifo(Scheduler[Any]):
    """A deliberately unfair scheduler: all requests are in one flow."""

    def flow(
        self,
        lane: LaneScope[Any],
        priority: str,
        client: Hashable,
        weight: float = 1.0,
        scope: ClientScope[Any] | None = None,
    ) -> Flow[Any]:
        return super().flow(lane, "default", "all")


@pytest.mark.parametrize("limit", ["own", "lane"])
@pytest.mark.parametrize(
    ("gates", "scheduler", "expected"), [(1, Scheduler, 50), (3, Scheduler, 50), (1, Fifo, 0)]
)
def test_flood_leaves_an_equal_flow_its_half_unless_the_queue_is_first_in_first_out(
    monkeypatch: pytest.MonkeyPatch,
    gates: int,
    scheduler: type[Scheduler[Any]],
    expected: int,
    limit: str,
) -> None:
    monkeypatch.setattr(dispatcher, "Scheduler", scheduler)

    async def scenario(harness: Harness) -> None:
        if limit == "lane":
            set_rate_limit(harness, rate_limit(600, 0))
            await harness.until_told()
        tasks = [harness.spawn(client, model="m") for client in "f" * 150 + "l" * 150]
        await run_ready_tasks()
        await asyncio.gather(*tasks)

    rate = {"own": 10, "lane": None}[limit]
    order = run_scenario(
        scenario, gates, rate_limit=rate, rate_limit_burst=1, rate_limit_timeout=60
    ).order
    assert order[:100].count("l") == pytest.approx(expected, abs=2)
