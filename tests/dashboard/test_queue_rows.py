"""The queue on the page: the next waiters in the order in which they are then admitted."""

import asyncio
from random import Random

import pytest

from tests.support.gate_state import Watched
from tests.support.harness import (
    Harness,
    rate_limit,
    run_ready_tasks,
    run_scenario,
    set_rate_limit,
)


@pytest.mark.parametrize("seed", range(20))
def test_queue_is_the_order_of_the_admissions(seed: int) -> None:
    random = Random(seed)

    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        for model in "xy":
            set_rate_limit(harness, rate_limit(random.choice([20, 100, 1000])), model)
        await asyncio.sleep(1)
        tasks, admitted = [], []

        async def request() -> None:
            fields = {
                "model": random.choice("xyz"),
                "priority": random.choice(["interactive", "default", "batch"]),
                "weight": random.choice([1, 1, 3]),
                "tokens": random.randint(1, 200),
            }
            exchange = harness.exchange(random.choice("abcdefgh"), **fields)
            async with harness.gate.admission(exchange) as admission:
                admitted.append((exchange.id, harness.gate.now()))
                admission.record_response(ok=True)

        for _ in range(40):
            tasks.append(asyncio.create_task(request()))
            await asyncio.sleep(random.choice([0, 0, 0.01, 0.1]))
        await run_ready_tasks()
        queue, before, now = watched.state()["queue"], len(admitted), harness.gate.now()
        assert len(queue) == min(20, harness.gate.snapshot()["waiters"]) > 5
        await asyncio.gather(*tasks)
        came = admitted[before : before + len(queue)]
        assert [row["id"] for row in queue] == [identifier for identifier, _ in came]
        expected = [row["expected_s"] for row in queue]
        assert expected == pytest.approx([(at - now) / 1e9 for _, at in came], abs=0.002)

    run_scenario(
        scenario,
        rate_limit=random.choice([1, 5]),
        rate_limit_burst=1,
        rate_limit_timeout=3600,
        tokens_per_minute=random.choice([None, 6000]),
    )


def test_row_of_a_waiter() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        harness.spawn("first")
        waiting = harness.spawn("b", model="m", tokens=30, priority="batch")
        await asyncio.sleep(0.25)
        [row] = watched.state()["queue"]
        identifier = row.pop("id")
        assert row == {
            "client": "b",
            "priority": "batch",
            "model": "m",
            "cost": 30,
            "waited_s": pytest.approx(0.25, abs=0.001),
            "expected_s": pytest.approx(0.75, abs=0.001),
            "blocked_by": "requests",
        }
        assert watched.state()["longest_wait_s"] == pytest.approx(0.25, abs=0.001)
        assert (await waiting).id == identifier

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)


def test_wait_of_a_retry_includes_its_earlier_attempts() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        harness.spawn("first")
        harness.spawn("b", attempts=1, queued=5_000_000_000)
        await asyncio.sleep(0.25)
        [row] = watched.state()["queue"]
        assert row["waited_s"] == pytest.approx(5.25, abs=0.001)
        assert watched.state()["longest_wait_s"] == pytest.approx(5.25, abs=0.001)
        await asyncio.sleep(1)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)


def test_without_a_free_slot_the_instant_is_unknown() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        harness.spawn("first", hold_s=3)
        harness.spawn("b")
        await asyncio.sleep(1)
        [row] = watched.state()["queue"]
        assert (row["expected_s"], row["blocked_by"]) == (None, "slots")
        await asyncio.sleep(3)

    run_scenario(scenario, rate_limit=100, concurrency_limit=1)


def test_model_and_client_are_cut_and_stay_text() -> None:
    async def scenario(harness: Harness) -> None:
        watched = Watched(harness.gate)
        harness.spawn("first")
        harness.spawn("<b>" * 5000, model="\ud800" * 300)
        await asyncio.sleep(0.1)
        [row] = watched.state()["queue"]
        assert row["client"] == ("<b>" * 67)[:200]
        assert row["model"] == "?" * 200
        await asyncio.sleep(1)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)
