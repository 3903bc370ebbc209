"""Random interleavings of arrivals, responses and cancellations, on a virtual clock."""

import asyncio
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rustygate.admission.admission import Admission
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.errors import Refusal
from rustygate.exchange import Exchange
from tests.support.harness import Harness, run_ready_tasks, run_scenario

Arrival = tuple[float, str, float, float | None]


arrivals = st.lists(
    st.tuples(
        st.floats(0, 2),
        st.sampled_from("abc"),
        st.floats(0, 3),
        st.none() | st.floats(0, 4),
    ),
    max_size=30,
)


@given(arrivals, st.sampled_from([0.5, 3, 50]), st.integers(1, 5), st.none() | st.integers(1, 3))
def test_no_interleaving_loses_or_creates_units_or_slots(
    plan: Sequence[Arrival], rate: float, burst: int, slots: int | None
) -> None:
    """Requests stay in flight for a while, and some are cancelled. All is free at the end."""

    async def scenario(harness: Harness) -> None:
        tasks = []
        for pause_s, client, hold_s, cancel_after_s in plan:
            await asyncio.sleep(pause_s)
            task = harness.spawn(client, hold_s)
            tasks.append(task)
            if cancel_after_s is not None:
                asyncio.get_running_loop().call_later(cancel_after_s, task.cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        expected = Exchange | Refusal | asyncio.CancelledError
        assert all(isinstance(outcome, expected) for outcome in outcomes)

    harness = run_scenario(
        scenario, rate_limit=rate, rate_limit_burst=burst, concurrency_limit=slots
    )
    times = harness.times
    for first, begin in enumerate(times):
        for last, end in enumerate(times[first:], first):
            assert last - first + 1 <= burst + rate * (end - begin + 0.002) + 1e-6
    assert all(one <= other for one, other in pairwise(times))


quotas = st.none() | st.builds(Quota, st.integers(1, 600), st.none() | st.integers(0, 600))


events = st.one_of(
    st.none(),
    st.tuples(st.just("response"), st.booleans(), st.builds(RateLimitUpdate, quotas, quotas)),
    st.tuples(st.just("pause"), st.integers(0, 20 * SECOND), st.booleans()),
    st.tuples(st.just("settle"), st.integers(0, 100)),
    st.tuples(st.just("give back")),
)


def apply(admission: Admission, event: tuple[Any, ...] | None) -> None:
    """Apply an event to an admitted attempt."""
    match event:
        case ("response", ok, update):
            admission.record_response(ok, update)
        case ("pause", wait, slow):
            admission.pause(wait, slow=slow)
        case ("settle", tokens):
            admission.settle(tokens)
        case ("give back",):
            admission.give_back()


requests = st.tuples(
    st.floats(0, 2),
    st.sampled_from("abc"),
    st.sampled_from(["interactive", "default", "batch"]),
    st.sampled_from([None, "m", "n"]),
    st.integers(0, 60),
    st.floats(0, 3),
    events,
    st.none() | st.floats(0, 4),
)


@given(
    st.lists(requests, max_size=25),
    st.sampled_from([None, 0.5, 50]),
    st.sampled_from([None, 60, 600]),
    st.none() | st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_no_interleaving_blocks_a_lane_or_leaves_state_behind(
    plan: Sequence[tuple[Any, ...]],
    rate: float | None,
    tokens_per_minute: int | None,
    slots: int | None,
    burst: int,
    limited: bool,
) -> None:
    """Two attempts per request, some cancelled, with any response. The deadline is so far away
    that a refusal means a forgotten waiter."""

    async def send(harness: Harness, request: tuple[Any, ...]) -> None:
        _, client, priority, model, tokens, hold_s, event, _ = request
        exchange = harness.exchange(client, priority=priority, model=model, tokens=tokens)
        for attempt in range(2):
            async with harness.gate.admission(exchange) as admission:
                exchange.attempts = attempt + 1
                await asyncio.sleep(hold_s)
                apply(admission, event)

    async def scenario(harness: Harness) -> None:
        if limited:
            own = {"a": Limits(2.0, 1, 300, 2), "b": Limits(concurrency=1), "x": Limits()}
            harness.gate.limit_clients(own)
        tasks = []
        for request in plan:
            await asyncio.sleep(request[0])
            task = asyncio.create_task(send(harness, request))
            tasks.append(task)
            if request[-1] is not None:
                asyncio.get_running_loop().call_later(request[-1], task.cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
        wait_queues = [*harness.gate.lanes, *filter(None, map(harness.gate.client_budgets, "abc"))]
        for each in wait_queues:
            assert (sum(each.waiting), each.budgets.in_flight) == (0, 0)
            assert getattr(each, "users", 0) == 0

    run_scenario(
        scenario,
        rate_limit=rate,
        rate_limit_burst=burst,
        rate_limit_timeout=1_000_000,
        tokens_per_minute=tokens_per_minute,
        concurrency_limit=slots,
    )


def test_waiter_takes_at_most_four_kilobytes() -> None:
    """With its exchange, its task and its own flow, but without connection and body."""
    waiters = 2000

    async def scenario(harness: Harness) -> None:
        await harness.admit()
        tracemalloc.start()
        tasks = [harness.spawn(f"client-{n}", model="m", tokens=1000 + n) for n in range(waiters)]
        await run_ready_tasks()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert harness.gate.snapshot()["waiters"] == waiters
        assert held / waiters <= 4096
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_scenario(scenario, rate_limit=0.001, rate_limit_burst=1, rate_limit_timeout=10**9)
