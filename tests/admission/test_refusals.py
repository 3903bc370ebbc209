"""Refusals on arrival, at the deadline, and when the gate closes, on a virtual clock."""

import asyncio
from math import ceil
from typing import Any

import pytest

from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from rustygate.errors import Draining, QueueFull, QueueTimeout, RequestTooLarge
from tests.support.harness import (
    Harness,
    one_and_three,
    rate_limit,
    run_ready_tasks,
    run_scenario,
    set_rate_limit,
)


def test_request_that_cannot_be_admitted_in_time_is_refused_on_arrival() -> None:
    async def scenario(harness: Harness) -> None:
        tasks = [harness.spawn() for _ in range(3)]
        await run_ready_tasks()
        with pytest.raises(QueueTimeout) as caught:
            await harness.admit()
        assert harness.gate.now() == harness.began
        assert caught.value.retry_after_ms == 3000
        await asyncio.gather(*tasks)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=2.5)


@one_and_three
def test_refusal_on_arrival_counts_only_work_that_goes_before(gates: int) -> None:
    """A light client is not refused because of a flood that it would overtake."""

    async def scenario(harness: Harness) -> None:
        flood = [harness.spawn("flood") for _ in range(100)]
        await run_ready_tasks()
        assert (await harness.admit("light")).queued <= 3 * SECOND
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    run_scenario(scenario, gates, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=200)


@pytest.mark.parametrize("owner", ["gate", "client"])
def test_refusal_on_arrival_uses_the_present_level_of_the_budgets(owner: str) -> None:
    """Waiters ahead that need only a slot do not add the refill time of units that are there."""

    async def scenario(harness: Harness) -> None:
        if owner == "client":
            limits = Limits(requests_per_second=0.1, burst=100, concurrency=1)
            harness.gate.limit_clients({"a": limits})
        tasks = [harness.spawn("a", 1) for _ in range(20)]
        await run_ready_tasks()
        assert (await harness.admit("a")).queued == pytest.approx(20 * SECOND, rel=0.01)
        await asyncio.gather(*tasks)

    if owner == "gate":
        run_scenario(scenario, rate_limit=0.1, rate_limit_burst=100, concurrency_limit=1)
    else:
        run_scenario(scenario, rate_limit=None)


def test_waiter_is_refused_at_its_deadline() -> None:
    async def scenario(harness: Harness) -> None:
        holder = harness.spawn("a", 60)
        await run_ready_tasks()
        with pytest.raises(QueueTimeout):
            await harness.admit()
        assert harness.gate.now() - harness.began == pytest.approx(30 * SECOND, rel=0.001)
        await holder

    run_scenario(scenario, rate_limit=None, concurrency_limit=1)


def test_full_queue_refuses() -> None:
    async def scenario(harness: Harness) -> None:
        tasks = [harness.spawn() for _ in range(6)]
        await run_ready_tasks()
        with pytest.raises(QueueFull, match=r"full \(5 requests are waiting\); try again in 6 s"):
            await harness.admit()
        await asyncio.gather(*tasks)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1, queue_limit=5)


def test_closing_refuses_waiters_and_newcomers_but_not_requests_in_flight() -> None:
    async def scenario(harness: Harness) -> None:
        holder = harness.spawn("a", 5)
        await run_ready_tasks()
        waiters = [harness.spawn() for _ in range(3)]
        await run_ready_tasks()
        harness.gate.close()
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Draining] * 3
        with pytest.raises(Draining):
            await harness.admit()
        await holder

    run_scenario(scenario, rate_limit=None, concurrency_limit=1)


@pytest.mark.parametrize("where", ["gate", "lane", "client"])
def test_cost_above_the_capacity_is_refused_at_once(where: str) -> None:
    async def scenario(harness: Harness) -> None:
        if where == "lane":
            set_rate_limit(harness, rate_limit(60, 60, tokens=True))
        elif where == "client":
            harness.gate.limit_clients({"a": Limits(tokens_per_minute=60)})
        await run_ready_tasks()
        with pytest.raises(RequestTooLarge, match=r"costs 61 tokens.* 60 tokens"):
            await harness.admit(model="m", tokens=61, min_tokens=61)
        assert (await harness.admit(model="m", tokens=60, min_tokens=60)).queued == 0

    limit = 60 if where == "gate" else None
    run_scenario(scenario, rate_limit=None, tokens_per_minute=limit)


def test_refusal_on_arrival_counts_the_wait_for_a_lane() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(60, 0))
        await run_ready_tasks()
        tasks = [harness.spawn(model="m") for _ in range(10)]
        await run_ready_tasks()
        deadline = harness.gate.now() + 5 * SECOND
        with pytest.raises(QueueTimeout) as caught:
            await harness.admit(model="m", deadline=deadline)
        assert caught.value.retry_after_ms == pytest.approx(11_000, rel=0.1)
        await asyncio.gather(*tasks)

    run_scenario(scenario, rate_limit=None)


@pytest.mark.parametrize("elapsed_s", [0, 61])
def test_learned_limit_refuses_larger_requests_while_it_is_recent(elapsed_s: int) -> None:
    """After a minute the limit may have been raised, and only a request can show that."""

    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, rate_limit(100, 100, tokens=True))
        await run_ready_tasks()
        await asyncio.sleep(elapsed_s)
        attempt = harness.admit(model="m", tokens=500, min_tokens=500)
        if elapsed_s:
            assert (await attempt).queued == 0
        else:
            with pytest.raises(RequestTooLarge):
                await attempt

    run_scenario(scenario, rate_limit=None)


def test_full_queue_accepts_retries() -> None:
    async def scenario(harness: Harness) -> None:
        tasks = [harness.spawn() for _ in range(3)]
        await run_ready_tasks()
        assert (await harness.admit(attempts=1)).queued
        await asyncio.gather(*tasks)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1, queue_limit=2)


@pytest.mark.parametrize(
    ("client", "request_fields", "message"),
    [
        ({}, {}, "Limit 30 requests/min reached; no requests are ahead"),
        ({}, {"model": "gpt-4o"}, "Limit 1 request/min reached for gpt-4o; no requests are ahead"),
        (
            {},
            {"model": "paused"},
            "Upstream limits requests for paused at the moment; no requests are ahead",
        ),
        (
            {"a": Limits(tokens_per_minute=7_000_000)},
            {"tokens": 7_000_000},
            "Limit 7000000 tokens/min reached for client a; no requests are ahead",
        ),
    ],
    ids=["own limit", "lane", "paused lane", "client"],
)
def test_refusal_names_the_limit_that_is_reached(
    client: dict[str, Limits], request_fields: dict[str, Any], message: str
) -> None:
    async def scenario(harness: Harness) -> None:
        harness.gate.limit_clients(client)
        set_rate_limit(harness, rate_limit(1, 0), "gpt-4o")
        await run_ready_tasks()
        async with harness.gate.admission(harness.exchange("x", model="paused")) as admission:
            admission.pause(50 * SECOND)
        for _ in range(8):
            await harness.admit("a", tokens=request_fields.get("tokens", 0))
        with pytest.raises(QueueTimeout, match=message) as caught:
            await harness.admit("a", **request_fields, deadline=harness.gate.now())
        seconds = ceil(caught.value.retry_after_ms / 1000)
        assert f"this request may wait only 0.0 s; try again in {seconds} s." in str(caught.value)

    run_scenario(scenario, rate_limit=0.5, rate_limit_burst=10, rate_limit_timeout=1000)


def test_refusal_at_the_deadline_names_the_slots_in_use() -> None:
    async def scenario(harness: Harness) -> None:
        holder = harness.spawn("a", 60)
        await run_ready_tasks()
        waiters = [harness.spawn("b")]
        await asyncio.sleep(1)
        waiters.append(harness.spawn("c"))
        refusals = await asyncio.gather(*waiters, return_exceptions=True)
        limit = (
            "The request was not admitted before its deadline. Limit 1 request in flight reached"
        )
        assert [str(refusal) for refusal in refusals] == [
            f"{limit}; 1 other request is waiting; try again in 1 s.",
            f"{limit}; no other requests are waiting; try again in 1 s.",
        ]
        await run_ready_tasks()
        newcomer = harness.gate.admission(harness.exchange("d"))
        assert harness.gate.dispatcher.predict(newcomer).ahead == 0
        await holder

    run_scenario(scenario, rate_limit=None, concurrency_limit=1)


def test_refusal_at_the_deadline_names_the_client_whose_slots_are_in_use() -> None:
    async def scenario(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits(concurrency=2)})
        holders = [harness.spawn("a", 60) for _ in range(2)]
        await run_ready_tasks()
        with pytest.raises(QueueTimeout, match="2 requests in flight reached for client a; no "):
            await harness.admit("a")
        await asyncio.gather(*holders)

    run_scenario(scenario, rate_limit=None, concurrency_limit=5)


@pytest.mark.parametrize("owner", ["lane", "client"])
def test_refusal_shows_at_most_100_characters_of_a_name(owner: str) -> None:
    name = "n" * 150

    async def scenario(harness: Harness) -> None:
        if owner == "client":
            harness.gate.limit_clients({name: Limits(requests_per_second=0.01, burst=1)})
        else:
            set_rate_limit(harness, rate_limit(1, 1), model=name)
        await run_ready_tasks()
        await harness.admit(name, model=name)
        with pytest.raises(QueueTimeout) as caught:
            await harness.admit(name, model=name)
        assert str(caught.value).count("n" * 100) == 1
        assert "n" * 101 not in str(caught.value)

    run_scenario(scenario, rate_limit=None, rate_limit_timeout=2)
