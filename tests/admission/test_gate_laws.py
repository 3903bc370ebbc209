"""The gate's laws, whatever comes: nothing is lost or made, nobody waits without a reason."""

import asyncio
from collections.abc import Callable, Coroutine
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

from rustygate.admission import wait_queues
from rustygate.admission.admission import Admission
from rustygate.admission.dispatcher import TIMER_SLACK
from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.backlog import Size
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.clients import Limits
from rustygate.core.fairqueue import FairQueue
from rustygate.core.flow import Flow
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.errors import Draining
from rustygate.exchange import Exchange
from rustygate.plan.virtual_clock import VirtualClockLoop
from tests.support.harness import Harness, play, settle, teach, told

# Deadlines are no matter here.
FAR_NS = 10**15

# A timer is set a little later than what it waits for.
LATE_NS = 10_000


@dataclass(eq=False)
class Request:
    """A client's request: its attempt at the gate, and what it does once it is admitted."""

    exchange: Exchange
    admission: Admission
    task: "asyncio.Task[None] | None" = None
    in_flight: bool = False
    outcome: "asyncio.Future[Callable[[Admission], bool]] | None" = None

    @property
    def waits(self) -> bool:
        return self.task is not None and not self.in_flight and not self.task.done()


@dataclass
class Ledger:
    """What the gate's own buckets must come to, kept beside."""

    budgets: Budgets
    granted: list[Request] = field(default_factory=list)


def own_budgets(given: Settings) -> Budgets:
    requests = tokens = None
    if given.rate_limit is not None:
        requests = TokenBucket.from_rate(given.rate_limit, given.rate_limit_burst)
    if given.tokens_per_minute is not None:
        tokens = TokenBucket.per_minute(given.tokens_per_minute)
    return Budgets(requests, tokens)


CLIENTS, MODELS = "abc", ("m", "n", None)
quotas = st.none() | st.builds(
    Quota, st.sampled_from([1, 30, 60, 600]), st.none() | st.integers(0, 60), st.none()
)
own_limits = st.builds(
    Limits,
    st.sampled_from([None, 0.5, 5.0]),
    st.just(1) | st.just(3),
    st.sampled_from([None, 300]),
    st.sampled_from([None, 1, 2]),
)


@hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
class GateMachine(RuleBasedStateMachine):
    """Arrivals, answers, retries, leavers and limits that change, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualClockLoop)
        self.requests: list[Request] = []

    def run(self, what: Coroutine[Any, Any, None]) -> None:
        self.runner.run(what)

    @initialize(
        rate=st.sampled_from([None, 0.5, 5.0, 50.0]),
        burst=st.integers(1, 3),
        tokens=st.sampled_from([None, 60, 600]),
        slots=st.none() | st.integers(1, 3),
    )
    def begin(self, rate: float | None, burst: int, tokens: int | None, slots: int | None) -> None:
        given = Settings(
            openai_api_key="sk-test",
            rate_limit=rate,
            rate_limit_burst=burst,
            tokens_per_minute=tokens,
            concurrency_limit=slots,
        )

        async def start() -> None:
            self.gate = Gate(given)
            self.gate.start()

        self.ledger = Ledger(own_budgets(given))
        self.run(start())

    # What happens.

    @rule(
        client=st.sampled_from(CLIENTS),
        priority=st.sampled_from(["interactive", "default", "batch"]),
        model=st.sampled_from(MODELS),
        tokens=st.integers(0, 60),
        count=st.integers(1, 4),
    )
    def come(self, client: str, priority: str, model: str | None, tokens: int, count: int) -> None:
        async def some() -> None:
            for _ in range(count):
                exchange = Exchange(client, "POST", "/v1/x", self.gate.now() + FAR_NS)
                exchange.priority, exchange.model, exchange.tokens = priority, model, tokens
                request = Request(exchange, self.gate.admission(exchange))
                request.task = asyncio.create_task(self.pass_through(request))
                self.requests.append(request)
                # A request is there before the next one comes.
                await asyncio.sleep(0)
            await settle()

        self.run(some())

    async def pass_through(self, request: Request) -> None:
        again = True
        while again:
            async with request.admission:
                request.outcome = asyncio.get_running_loop().create_future()
                request.in_flight = True
                self.ledger.budgets.take(self.gate.now(), request.exchange.tokens)
                self.ledger.granted.append(request)
                try:
                    again = (await request.outcome)(request.admission)
                finally:
                    request.in_flight = False
            request.exchange.attempts += 1
            if again:
                request.admission = self.gate.admission(request.exchange)

    def finish(self, place: int, outcome: Callable[[Admission], bool]) -> None:
        """One of those in flight has its outcome, and asks again if that says so."""
        flying = [request for request in self.requests if request.in_flight]
        request = flying[place % len(flying)]

        async def one() -> None:
            assert request.outcome is not None
            request.outcome.set_result(outcome)
            await settle()

        self.run(one())

    def in_flight(self) -> bool:
        return any(request.in_flight for request in self.requests)

    @precondition(in_flight)
    @rule(
        place=st.integers(0, 9),
        ok=st.booleans(),
        news=st.builds(RateLimitUpdate, quotas, quotas),
        used=st.none() | st.integers(0, 90),
    )
    def be_answered(self, place: int, ok: bool, news: RateLimitUpdate, used: int | None) -> None:
        def outcome(admission: Admission) -> bool:
            admission.record_response(ok, news)
            if used is not None:
                self.ledger.budgets.settle(self.gate.now(), admission.tokens, used)
                admission.settle(used)
            return False

        self.finish(place, outcome)

    @precondition(in_flight)
    @rule(place=st.integers(0, 9), wait_s=st.integers(0, 20), slow=st.booleans())
    def be_refused_and_try_again(self, place: int, wait_s: int, slow: bool) -> None:
        def outcome(admission: Admission) -> bool:
            admission.record_response(False)
            admission.pause(wait_s * SECOND, slow=slow)
            return True

        self.finish(place, outcome)

    @precondition(in_flight)
    @rule(place=st.integers(0, 9), again=st.booleans())
    def fail_to_connect(self, place: int, again: bool) -> None:
        def outcome(admission: Admission) -> bool:
            self.ledger.budgets.give_back(admission.tokens)
            admission.give_back()
            return again

        self.finish(place, outcome)

    @precondition(lambda self: self.requests)
    @rule(place=st.integers(0, 99))
    def leave(self, place: int) -> None:
        async def one() -> None:
            task = self.requests[place % len(self.requests)].task
            assert task is not None
            task.cancel()
            await settle()

        self.run(one())

    @rule(limits=st.dictionaries(st.sampled_from(CLIENTS), own_limits))
    def read_limits_again(self, limits: dict[str, Limits]) -> None:
        async def one() -> None:
            self.gate.limit_clients(limits)
            await settle()

        self.run(one())

    @rule(seconds=st.sampled_from([0.001, 0.3, 1.0, 2.5, 30.0]))
    def let_time_pass(self, seconds: float) -> None:
        async def one() -> None:
            await asyncio.sleep(seconds)
            await settle()

        self.run(one())

    # What holds all the time.

    @invariant()
    def nothing_is_lost_or_made(self) -> None:
        waiting = [request for request in self.requests if request.waits]
        flying = [request for request in self.requests if request.in_flight]
        assert self.gate.snapshot() == {"waiters": len(waiting), "in_flight": len(flying)}
        for line in self.lines():
            held = [each for each in flying if line in each.admission.wait_queues]
            queued = [each for each in waiting if line in each.admission.wait_queues]
            assert (line.waiting, line.waiting_tokens) == (
                len(queued),
                sum(each.exchange.tokens for each in queued),
            )
            if line in list(self.gate.lanes):
                assert line.users == len(held) + len(queued)
            assert line.budgets.in_flight == len(held)

    @invariant()
    def own_buckets_hold_what_was_not_taken(self) -> None:
        now, own, ledger = self.gate.now(), self.gate.dispatcher.budgets, self.ledger.budgets
        for bucket, kept in ((own.requests, ledger.requests), (own.tokens, ledger.tokens)):
            if bucket is not None and kept is not None:
                off = max(now, bucket.full_at) - max(now, kept.full_at)
                assert abs(off) <= TIMER_SLACK + LATE_NS

    @invariant()
    def nobody_waits_without_a_reason(self) -> None:
        """Each lacks room in a budget, or shares one with somebody who has such a reason."""
        waiting = {request for request in self.requests if request.waits}
        held_up = {request for request in waiting if self.lacks_room(request)}
        if any(self.lacks_own(request) for request in held_up):
            return
        while True:
            lines = {line for request in held_up for line in request.admission.wait_queues}
            more = {
                request
                for request in waiting - held_up
                if lines.intersection(request.admission.wait_queues)
            }
            if not more:
                break
            held_up |= more
        assert waiting == held_up

    def lacks_own(self, request: Request) -> bool:
        return (
            self.gate.dispatcher.budgets.wait(self.gate.now() - LATE_NS, request.exchange.tokens)
            != 0
        )

    def lacks_room(self, request: Request) -> bool:
        now, tokens = self.gate.now() - LATE_NS, request.exchange.tokens
        lines = request.admission.wait_queues
        return self.lacks_own(request) or any(
            line.budgets.wait(now, tokens) != 0 for line in lines
        )

    @invariant()
    def flows_are_first_in_first_out(self) -> None:
        """Those of one flow that need the same budgets and came first are admitted first."""
        firsts: dict[object, list[Request]] = {}
        seen: set[int] = set()
        for request in self.ledger.granted:
            if id(request) not in seen:
                seen.add(id(request))
                each = request.exchange
                key = (each.client, each.priority, request.admission.wait_queues)
                firsts.setdefault(key, []).append(request)
        for flow in firsts.values():
            assert all(
                one.exchange.arrived <= other.exchange.arrived for one, other in pairwise(flow)
            )

    def lines(self) -> "list[wait_queues.WaitQueue]":
        clients = filter(None, map(self.gate.client_queue, CLIENTS))
        return [*self.gate.lanes, *clients]

    def teardown(self) -> None:
        """At the end the gate is closed: who waits is refused, who is in flight may finish."""

        async def end() -> None:
            waiting = [request for request in self.requests if request.waits]
            self.gate.close()
            await settle()
            for request in waiting:
                assert request.task is not None
                assert isinstance(request.task.exception(), Draining)
            for request in self.requests:
                if request.in_flight and request.outcome is not None:
                    request.outcome.set_result(lambda admission: False)
            await settle()
            assert self.gate.snapshot() == {"waiters": 0, "in_flight": 0}

        if hasattr(self, "gate"):
            self.run(end())
        self.runner.close()


TestGateMachine = GateMachine.TestCase


ALL, ONE = Flow("all"), Size()


class Fifo(FairQueue[Any]):
    """What the gate's queue must not be: all flows are one."""

    def push(self, item: Any, flow: Flow, size: Size = ONE, **rank: Any) -> None:
        super().push(item, ALL, size, **rank)

    def remove(self, item: Any, flow: Flow) -> bool:
        return super().remove(item, ALL)

    def refund(self, flow: Flow, cost: int = 1) -> None:
        super().refund(ALL, cost)


@pytest.mark.parametrize("limit", ["own", "lane"])
@pytest.mark.parametrize(("queue", "late"), [(FairQueue, 50), (Fifo, 0)])
def test_flood_leaves_an_equal_flow_its_half_unless_the_queue_is_first_in_first_out(
    monkeypatch: pytest.MonkeyPatch, queue: type[FairQueue[Any]], late: int, limit: str
) -> None:
    monkeypatch.setattr(wait_queues, "FairQueue", queue)

    async def scene(harness: Harness) -> None:
        if limit == "lane":
            teach(harness, told(600, 0))
            await settle()
        tasks = [harness.spawn(client, model="m") for client in "f" * 150 + "l" * 150]
        await settle()
        await asyncio.gather(*tasks)

    rate = {"own": 10, "lane": None}[limit]
    order = play(scene, rate_limit=rate, rate_limit_burst=1, rate_limit_timeout=60).order
    assert order[:100].count("l") == pytest.approx(late, abs=2)
