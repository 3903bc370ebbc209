"""A worker that is silent: what it holds goes to others after a second, and it comes back.

On a virtual clock. Whatever happens, nothing is left on either side.
"""

import asyncio

import pytest

from rustygate.core.bucket import SECOND
from rustygate.workers.remote_gate import VALID
from rustygate.workers.worker_process import SUSPEND_AFTER_S
from tests.support.harness import run_ready_tasks
from tests.support.remote_gates import (
    ONE_SLOT,
    RemoteGates,
    cancel,
    resume_worker,
    run,
    settle,
    spawn,
    stop_worker,
)


def test_waiters_of_a_silent_worker_do_not_hold_up_others_and_come_back() -> None:
    """They keep their places, and find room even if the queue is full."""

    async def scenario(gates: RemoteGates) -> None:
        first = await gates.enter(gates.exchange(), worker=1)
        early = gates.exchange()
        waiting = spawn(gates.enter(early))
        await run_ready_tasks()
        later = [spawn(gates.enter(gates.exchange(), worker=1)) for _ in range(2)]
        await run_ready_tasks()
        await stop_worker(gates, 2)
        assert gates.gate.snapshot()["waiters"] == 2
        first.leave()
        second = await later[0]
        later += [spawn(gates.enter(gates.exchange(), worker=1)) for _ in range(2)]
        await run_ready_tasks()
        await resume_worker(gates)
        assert gates.gate.snapshot()["waiters"] == 4
        second.leave()
        admission = await waiting
        assert early.queued / SECOND == pytest.approx(2, abs=0.1)
        assert not any(each.done() for each in later[1:])
        admission.leave()
        for each in later[1:]:
            (await each).leave()

    run(scenario, workers=2, queue_limit=3, **ONE_SLOT)


def test_waiter_that_was_suspended_as_soon_as_it_asked_comes_back() -> None:
    async def scenario(gates: RemoteGates) -> None:
        first = await gates.enter(gates.exchange())
        link = gates.workers[0].link
        link.to_supervisor.is_held = True
        waiting = spawn(gates.enter(gates.exchange()))
        await run_ready_tasks()
        link.to_supervisor.release()
        gates.workers[0].service.suspend()
        await run_ready_tasks()
        assert gates.gate.snapshot()["waiters"] == 1
        first.leave()
        (await waiting).leave()

    run(scenario, **ONE_SLOT)


@pytest.mark.parametrize("stopped_s", [0.9, 1.1, 3.0])
def test_grant_that_a_stopped_worker_has_not_seen_is_asked_for_again(stopped_s: float) -> None:
    """A slot that it was granted at once goes to others after a second, and comes back at once if
    nobody wants it."""

    async def scenario(gates: RemoteGates) -> None:
        exchange = gates.exchange()
        gates.workers[0].link.to_worker.is_held = True
        entering = spawn(gates.enter(exchange))
        await run_ready_tasks()
        assert gates.gate.snapshot()["in_flight"] == 1
        await stop_worker(gates, stopped_s)
        if stopped_s > SUSPEND_AFTER_S + 0.25:
            assert gates.gate.snapshot()["in_flight"] == 0
            await gates.admit(gates.exchange("b"), worker=1)
        assert not entering.done()
        await resume_worker(gates)
        (await entering).leave()
        assert exchange.queued / SECOND == pytest.approx(stopped_s, abs=0.01)
        assert gates.gate.snapshot() == {"waiters": 0, "in_flight": 1}
        await run_ready_tasks()
        # It has cost one request, not two.
        await gates.admit(gates.exchange("b"), worker=1)
        assert gates.now_s == pytest.approx(stopped_s, abs=0.01)

    run(scenario, workers=2, rate_limit=0.001, rate_limit_burst=3, concurrency_limit=1)


def test_grant_is_used_if_it_was_held_up_for_less() -> None:
    async def scenario(gates: RemoteGates) -> None:
        gates.workers[0].link.to_worker.is_held = True
        entering = spawn(gates.enter(gates.exchange()))
        await run_ready_tasks()
        gates.workers[0].link.hold()
        await asyncio.sleep(VALID / SECOND - 0.01)
        gates.workers[0].link.release()
        await run_ready_tasks()
        assert entering.done()
        assert len(gates.workers[0].service.in_flight) == 1
        entering.result().leave()

    run(scenario, **ONE_SLOT)


def test_request_that_went_upstream_before_its_worker_was_stopped_counts() -> None:
    """What the supervisor took back, because it could not know, is charged again."""

    async def scenario(gates: RemoteGates) -> None:
        admission = await gates.enter(gates.exchange())
        await stop_worker(gates, 2)
        assert gates.gate.snapshot()["in_flight"] == 0
        await resume_worker(gates)
        assert gates.gate.snapshot()["in_flight"] == 1
        admission.leave()
        await gates.admit(gates.exchange())
        # The budget was full again; in 2 s it would not have been.
        assert gates.now_s == pytest.approx(12, abs=0.1)

    run(scenario, rate_limit=0.1, rate_limit_burst=1, concurrency_limit=1)


@pytest.mark.parametrize("message", ["respond", "leave", "release", "give_back"])
def test_request_that_ended_while_its_worker_was_silent_counts(message: str) -> None:
    """Its worker handled the response before it read that the request was taken back."""

    async def scenario(gates: RemoteGates) -> None:
        admission = await gates.enter(gates.exchange())
        await stop_worker(gates, 2)
        if message == "respond":
            admission.record_response(True)
        elif message != "leave":
            getattr(admission, message)()
        if message == "leave":
            admission.leave()
        await resume_worker(gates)
        assert gates.gate.snapshot()["in_flight"] == int(message in ("respond", "give_back"))
        if message != "leave":
            admission.leave()
        await gates.admit(gates.exchange())
        assert gates.now_s == pytest.approx(2 if message == "give_back" else 12, abs=0.1)

    run(scenario, rate_limit=0.1, rate_limit_burst=1, concurrency_limit=1)


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
def test_grant_and_its_withdrawal_that_arrive_together_count_once(leaves: bool) -> None:
    """The worker was busy, not stopped: it said that it runs before it read either."""

    async def scenario(gates: RemoteGates) -> None:
        first = await gates.enter(gates.exchange(), worker=1)
        waiting = spawn(gates.enter(gates.exchange()))
        await run_ready_tasks()
        worker = gates.workers[0]
        worker.link.hold()
        await asyncio.sleep(0.9)
        first.leave()
        await asyncio.sleep(SUSPEND_AFTER_S - 0.9 + 0.25)
        worker.service.suspend()
        await run_ready_tasks()
        assert gates.gate.snapshot() == {"waiters": 0, "in_flight": 0}
        worker.gate.tell_alive()
        worker.link.release()
        if leaves:
            await cancel(waiting)
        await run_ready_tasks()
        assert gates.gate.snapshot() == {"waiters": 0, "in_flight": int(not leaves)}
        if not leaves:
            (await waiting).leave()

    run(scenario, workers=2, **ONE_SLOT)


def test_worker_that_was_stopped_for_less_than_a_second_keeps_what_it_was_granted() -> None:
    """Nobody else got it, so it need not wait behind others."""

    async def scenario(gates: RemoteGates) -> None:
        first, early = await gates.enter(gates.exchange(), worker=1), gates.exchange()
        waiting = spawn(gates.enter(early))
        await run_ready_tasks()
        later = spawn(gates.enter(gates.exchange("b"), worker=1))
        await run_ready_tasks()
        link = gates.workers[0].link
        link.hold()
        first.leave()
        await asyncio.sleep(0.9)
        link.release()
        await run_ready_tasks()
        assert waiting.done()
        assert not later.done()
        assert early.queued / SECOND == pytest.approx(0.9, abs=0.01)
        waiting.result().leave()
        (await later).leave()

    run(scenario, workers=2, **ONE_SLOT)


def test_exchange_that_was_known_to_be_in_flight_keeps_its_slot() -> None:
    async def scenario(gates: RemoteGates) -> None:
        admission = await gates.enter(gates.exchange())
        await asyncio.sleep(0.25)
        gates.workers[0].gate.tell_alive()
        await run_ready_tasks()
        await stop_worker(gates, 2)
        assert gates.gate.snapshot()["in_flight"] == 1
        await resume_worker(gates)
        assert gates.gate.snapshot()["in_flight"] == 1
        admission.leave()

    run(scenario, **ONE_SLOT)


def test_client_that_leaves_a_stopped_worker_costs_nothing() -> None:
    async def scenario(gates: RemoteGates) -> None:
        first = await gates.enter(gates.exchange(), worker=1)
        leaving = gates.exchange()
        waiting = spawn(gates.enter(leaving))
        await run_ready_tasks()
        await stop_worker(gates, 2)
        await cancel(waiting)
        await settle(gates, leaving)
        await resume_worker(gates)
        first.leave()

    run(scenario, workers=2, **ONE_SLOT)
