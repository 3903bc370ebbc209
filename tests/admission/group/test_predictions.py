"""Waits are predicted from what waits in the whole group, as of the last reply."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from rustygate.admission.admission import Admission
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from rustygate.errors import QueueTimeout
from rustygate.exchange import Exchange
from tests.support.group import GroupHarness, run_group
from tests.support.harness import rate_limit


def predicted(harness: GroupHarness, client: str, gate: int, **fields: Any) -> float:
    gates = harness.gates
    exchange = Exchange(client, "POST", "/v1/x", deadline=gates[gate].now(), **fields)
    return gates[gate].dispatcher.predict(gates[gate].admission(exchange)).wait / SECOND


@pytest.mark.parametrize(("client", "gate"), [("one", 0), ("two", 1), ("all", 2), ("new", 2)])
def test_wait_is_predicted_within_30_percent(client: str, gate: int) -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for name, gates in {"one": [0], "two": [0, 1], "all": [0, 1, 2]}.items():
            for place in gates:
                for _ in range(60 // len(gates)):
                    harness.spawn(name, place)
        await asyncio.sleep(1)
        expected = predicted(harness, client, gate)
        exchange = await harness.admit(client, gate)
        # Short waits are predicted to within a turn of each other client.
        assert exchange.queued / SECOND == pytest.approx(expected, rel=0.3, abs=0.35)

    run_group(scenario, rate_limit=10, rate_limit_burst=2)


def test_waiters_are_expected_when_the_group_will_admit_them() -> None:
    """With those of the other gate in between."""

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        others = [harness.spawn("a", 0) for _ in range(100)]
        tasks = [harness.spawn("b", 1) for _ in range(30)]
        began = harness.gates[1].now()
        await asyncio.sleep(1)
        now = harness.gates[1].now()
        expected = [each.at for each in harness.gates[1].upcoming(100, now)]
        assert len(expected) > 20
        await asyncio.gather(*tasks, *others)
        last = [began + task.result().queued for task in tasks][-len(expected) :]
        for at, admitted in zip(expected, last, strict=True):
            assert at is not None
            assert at - now == pytest.approx(admitted - now, rel=0.3, abs=SECOND)
        assert last[-1] - now > 4 * SECOND

    run_group(scenario, gates=2, rate_limit=10, rate_limit_burst=2)


def test_burst_that_was_just_used_shortens_no_wait() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        tasks = [harness.spawn(f"c{number}", 0) for number in range(140)]
        await asyncio.sleep(0.5)
        assert predicted(harness, "new", 1) == pytest.approx(9.6, abs=1)
        await asyncio.gather(*tasks)

    run_group(scenario, gates=2, rate_limit=10, rate_limit_burst=40)


def test_backlog_that_grows_at_other_gates_is_predicted_before_the_next_grant() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for gate in (2, 0, 1):
            for _ in range(20):
                harness.spawn("all", gate)
            await asyncio.sleep(0.05)
        before = harness.count("all")
        await asyncio.sleep(0.2)
        assert harness.count("all") == before
        expected = predicted(harness, "all", 2)
        exchange = await harness.admit("all", 2)
        assert exchange.queued / SECOND == pytest.approx(expected, rel=0.1)

    run_group(scenario, rate_limit=1, rate_limit_burst=1)


def test_request_behind_the_backlog_of_another_gate_is_refused_on_arrival() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for _ in range(400):
            harness.spawn("a", 0)
        harness.spawn("a", 1)
        await asyncio.sleep(1)
        with pytest.raises(QueueTimeout) as refusal:
            await harness.admit("a", 1, deadline=harness.gates[1].now() + 10 * SECOND)
        assert refusal.value.retry_after_ms == pytest.approx(39_000, rel=0.1)
        # Another client does not wait behind it.
        await harness.admit("b", 1, deadline=harness.gates[1].now() + 10 * SECOND)

    run_group(scenario, gates=2, rate_limit=10, rate_limit_burst=2)


def test_request_behind_its_clients_own_limits_is_refused_on_arrival() -> None:
    """What the client has waiting at another gate counts."""

    async def scenario(harness: GroupHarness) -> None:
        for gate in harness.gates:
            limits = {"a": Limits(requests_per_second=1, burst=1)}
            gate.limit_clients(limits, {"a": 1.0}, version=1)
        await asyncio.sleep(1)
        for _ in range(41):
            harness.spawn("a", 0)
        harness.spawn("a", 1)
        await asyncio.sleep(1)
        began = harness.now
        with pytest.raises(QueueTimeout) as refusal:
            await harness.admit("a", 1, deadline=harness.gates[1].now() + 10 * SECOND)
        assert harness.now == began
        assert refusal.value.retry_after_ms == pytest.approx(40_000, rel=0.1)

    run_group(scenario, gates=2, rate_limit=100, rate_limit_burst=10)


def test_request_behind_a_backlog_for_its_model_is_refused_on_arrival() -> None:
    """What its client has waiting for the model at another gate counts."""

    def respond(admission: Admission) -> None:
        admission.record_response(ok=True, update=rate_limit(60, 0))

    async def scenario(harness: GroupHarness) -> None:
        harness.on_response = respond
        await asyncio.sleep(1)
        await harness.admit("a", 0, model="m")
        for _ in range(41):
            harness.spawn("a", 0, model="m")
        await asyncio.sleep(1)
        began = harness.now
        with pytest.raises(QueueTimeout):
            await harness.admit("a", 1, model="m", deadline=harness.gates[1].now() + 10 * SECOND)
        assert harness.now - began < 0.05

    run_group(scenario, gates=2, rate_limit=1000, rate_limit_burst=100)


def test_backlog_that_was_served_meanwhile_refuses_nobody() -> None:
    """What waited at another gate was reported with the last request of the client here."""

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        harness.flood("heavy", 0, 500)
        for _ in range(300):
            harness.spawn("a", 0)
        await asyncio.sleep(1)
        await harness.admit("a", 1)
        await asyncio.sleep(70)
        assert harness.count("a") == 301
        exchange = await harness.admit("a", 1, deadline=harness.gates[1].now() + 10 * SECOND)
        assert exchange.queued <= 0.5 * SECOND

    run_group(scenario, gates=2, rate_limit=10, rate_limit_burst=2)


@pytest.mark.parametrize("deadline_s", [10, 60])
def test_first_request_at_a_gate_is_refused_when_the_group_tells_what_waits(
    deadline_s: int,
) -> None:
    """Its gate hears of its client's requests at another gate with the reply to its report."""

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for _ in range(402):
            harness.spawn("a", 0)
        await asyncio.sleep(1)
        began = harness.now
        task = harness.spawn("a", 1, deadline=harness.gates[1].now() + deadline_s * SECOND)
        with suppress(QueueTimeout):
            await task
        if deadline_s == 60:
            assert task.result().queued / SECOND == pytest.approx(39, rel=0.1)
            return
        assert harness.now - began < 0.05
        refusal = task.exception()
        assert isinstance(refusal, QueueTimeout)
        assert refusal.retry_after_ms == pytest.approx(39_000, rel=0.02)
        message = str(refusal).replace("391", "390").replace("389", "390")
        assert message.startswith("Limit 600 requests/min reached; 390 requests are ahead, and")
        # It no longer waits at either.
        await asyncio.sleep(0.1)
        assert harness.gates[1].snapshot()["waiters"] == 0
        waiting = harness.group.scheduler.waiting, harness.gates[0].snapshot()["waiters"]
        assert abs(waiting[0] - waiting[1]) <= 1  # one may be granted, and not due yet

    run_group(scenario, gates=2, rate_limit=10, rate_limit_burst=2)


def test_only_new_requests_that_are_too_late_are_refused() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for _ in range(102):
            harness.spawn("a", 0)
        await asyncio.sleep(1)
        deadline = harness.gates[1].now() + 10 * SECOND
        tasks = [harness.spawn("a", 1, deadline=deadline) for _ in range(20)]
        other = harness.spawn("b", 1, deadline=deadline)
        await asyncio.sleep(0.05)
        # 90 are ahead of the first one, and 100 fit in. A refusal makes room for nobody else.
        assert 8 <= sum(not task.done() for task in tasks) <= 11
        await asyncio.sleep(11)
        assert other.exception() is None
        refused = [task for task in tasks if task.exception()]
        assert all("reached" in str(task.exception()) for task in refused)

    run_group(scenario, gates=2, rate_limit=10, rate_limit_burst=2)


def test_refusal_at_the_deadline_counts_the_waiters_of_other_gates() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for _ in range(30):
            harness.spawn("a", 0, hold_s=100)
        await asyncio.sleep(1)
        task = harness.spawn("b", 1, deadline=harness.gates[1].now() + SECOND)
        await asyncio.sleep(2)
        assert "; 28 other requests are waiting; " in str(task.exception())

    run_group(scenario, gates=2, rate_limit=None, concurrency_limit=2)
