"""A worker's attempts at the supervisor's gate, in every order, on a virtual clock.

Whatever happens, nothing is left on either side: no waiter, no slot, no reservation.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rustygate.admission.admission import Admission
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.errors import (
    BudgetExceeded,
    Draining,
    InternalError,
    QueueFull,
    QueueTimeout,
    RequestTooLarge,
)
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock
from tests.support.gate import captured_log
from tests.support.harness import run_ready_tasks
from tests.support.remote_gates import (
    BUDGET,
    LIMIT_S,
    ONE_EACH_SECOND,
    ONE_SLOT,
    RemoteGates,
    cancel,
    run,
    settle,
    spawn,
    stop_worker,
)

# Entering and leaving.


def test_workers_share_one_rate_and_one_order() -> None:
    async def scenario(gates: RemoteGates) -> None:
        await asyncio.gather(
            *(
                gates.admit(gates.exchange(client), worker=worker)
                for client in "ab"
                for worker in range(3)
            )
        )

    gates = run(scenario, workers=3, **ONE_EACH_SECOND)
    assert gates.order == "aababb" or gates.order == "ababab"
    assert [time for _, time in gates.admitted] == pytest.approx(range(6), abs=0.01)


def test_admission_reports_how_long_it_waited() -> None:
    async def scenario(gates: RemoteGates) -> None:
        first, second = gates.exchange(), gates.exchange()
        await gates.admit(first)
        await gates.admit(second)
        assert first.queued == 0
        assert second.queued / SECOND == pytest.approx(1, abs=0.01)

    run(scenario, **ONE_EACH_SECOND)


def test_slot_is_free_when_a_worker_leaves_or_releases() -> None:
    async def scenario(gates: RemoteGates) -> None:
        first = await gates.enter(gates.exchange())
        assert gates.gate.snapshot() == {"waiters": 0, "in_flight": 1}
        assert gates.workers[0].gate.snapshot() == {"waiters": 0, "in_flight": 1}
        waiting = [spawn(gates.enter(gates.exchange(), worker)) for worker in (0, 1)]
        await run_ready_tasks()
        assert gates.gate.snapshot() == {"waiters": 2, "in_flight": 1}
        assert repr(gates.workers[0].gate) == "<RemoteGate 1 waiting, 1 in flight>"
        assert repr(gates.workers[1].service) == "<WorkerService 1 attempts>"
        first.release()
        second = await waiting[0]
        assert len(gates.workers[0].service.in_flight) == 2
        second.leave()
        third = await waiting[1]
        first.leave()
        third.leave()

    run(scenario, workers=2, **ONE_SLOT)


def test_context_leaves_at_its_end() -> None:
    async def scenario(gates: RemoteGates) -> None:
        async with gates.admission(gates.exchange()):
            await run_ready_tasks()
            assert gates.gate.snapshot()["in_flight"] == 1

    run(scenario, **ONE_SLOT)


def test_settled_and_returned_tokens_are_there_for_others() -> None:
    """A minute has 600 tokens."""

    async def scenario(gates: RemoteGates) -> None:
        for act in ("settle", "give_back", "waive"):
            admission = await gates.enter(gates.exchange(tokens=600))
            getattr(admission, act)(*([0] if act == "settle" else []))
            admission.leave()
        await gates.admit(gates.exchange(tokens=600))
        assert gates.now_s == 0
        await gates.admit(gates.exchange(tokens=60))
        assert gates.now_s == pytest.approx(6, abs=0.1)

    run(scenario, rate_limit=None, tokens_per_minute=600)


def test_what_upstream_reports_limits_all_workers() -> None:
    async def scenario(gates: RemoteGates) -> None:
        admission = await gates.enter(gates.exchange(model="m"))
        admission.record_response(True, RateLimitUpdate(Quota(60, 0), None))
        admission.leave()
        await run_ready_tasks()
        await gates.admit(gates.exchange(model="m"), worker=1)
        assert 0.5 <= gates.now_s <= 1.1
        await gates.admit(gates.exchange(model="other"), worker=1)
        paused = await gates.enter(gates.exchange(model="other"))
        paused.record_response(False, None, refused=True)
        paused.pause(5 * SECOND)
        paused.leave()
        await run_ready_tasks()
        began = gates.now_s
        await gates.admit(gates.exchange(model="other"), worker=1)
        assert gates.now_s - began == pytest.approx(5, abs=0.1)

    run(scenario, workers=2, rate_limit=None)


def test_charge_enters_without_waiting() -> None:
    async def scenario(gates: RemoteGates) -> None:
        first = await gates.enter(gates.exchange())
        turn = gates.admission(gates.exchange())
        turn.charge()
        await run_ready_tasks()
        assert gates.gate.snapshot()["in_flight"] == 2
        assert gates.workers[0].gate.snapshot()["in_flight"] == 2
        first.leave()
        turn.leave()

    run(scenario, **ONE_SLOT)


def test_turns_of_a_websocket_stay_in_order_and_apart_from_others() -> None:
    """The lane of the first turn is paused; the second turn would be admitted."""

    async def scenario(gates: RemoteGates) -> None:
        pausing = await gates.enter(gates.exchange(model="paused"))
        pausing.pause(3 * SECOND)
        pausing.leave()
        gate, order = gates.workers[0].gate, []
        queues = gate.turn_queue(), gate.turn_queue()

        async def turn(name: str, queue: Any, model: str) -> None:
            async with gate.turn_admission(gates.exchange(model=model), queue):
                order.append(name)

        await asyncio.gather(
            turn("first", queues[0], "paused"),
            turn("second", queues[0], "open"),
            turn("other", queues[1], "open"),
        )
        assert order == ["other", "first", "second"]
        await turn("third", queues[0], "open")

    run(scenario, rate_limit=None)


def test_attempt_that_need_not_wait_for_those_in_the_queue_is_admitted_at_once() -> None:
    async def scenario(gates: RemoteGates) -> None:
        gates.gate.limit_clients({"slow": Limits(concurrency=1)})
        first = await gates.enter(gates.exchange("slow"))
        waiting = spawn(gates.enter(gates.exchange("slow")))
        await run_ready_tasks()
        freed: list[str] = []
        free = gates.workers[0].gate.admission(gates.exchange(), lambda: freed.append("free"))
        async with free:
            assert not freed
        first.leave()
        (await waiting).leave()

    run(scenario, rate_limit=None)


def test_what_a_waiter_does_not_need_is_freed_once_it_waits() -> None:
    async def scenario(gates: RemoteGates) -> None:
        freed: list[str] = []
        gate = gates.workers[0].gate
        first = gate.admission(gates.exchange(), lambda: freed.append("first"))
        await first.enter()
        second = gate.admission(gates.exchange(), lambda: freed.append("second"))
        waiting = spawn(second.enter())
        await run_ready_tasks()
        assert freed == ["second"]
        first.leave()
        (await waiting).leave()

    run(scenario, **ONE_SLOT)


# Refusals.


def test_refusals_come_with_the_time_that_was_waited() -> None:
    async def scenario(gates: RemoteGates) -> None:
        first = await gates.enter(gates.exchange())
        late = gates.exchange(deadline=gates.gate.now() + SECOND)
        waiting = spawn(gates.enter(late))
        await run_ready_tasks()
        with pytest.raises(QueueFull):
            await gates.enter(gates.exchange())
        with pytest.raises(QueueTimeout):
            await waiting
        assert late.queued / SECOND == pytest.approx(1, abs=0.01)
        first.leave()

    run(scenario, queue_limit=1, **ONE_SLOT)


def test_refusal_on_arrival_is_raised() -> None:
    async def scenario(gates: RemoteGates) -> None:
        exchange = gates.exchange(tokens=700, min_tokens=700)
        with pytest.raises(RequestTooLarge):
            await gates.enter(exchange)

    run(scenario, tokens_per_minute=600)


def test_defect_of_the_supervisor_is_logged_and_refuses_the_exchange(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: Admission) -> bool:
        raise RuntimeError

    async def main() -> str:
        gates = RemoteGates()
        exchange = gates.exchange()
        monkeypatch.setattr(Admission, "enter_at_once", fail)
        with pytest.raises(InternalError):
            await gates.enter(exchange)
        await run_ready_tasks()
        gates.check_nothing_is_left()
        return exchange.id

    with captured_log() as log:
        failed = virtual_clock.run(main)
    [error] = log.errors
    assert f"exchange {failed} failed" in error
    assert "RuntimeError" in error


def test_closed_gate_refuses_waiters_and_newcomers() -> None:
    async def scenario(gates: RemoteGates) -> None:
        first = await gates.enter(gates.exchange())
        waiting = spawn(gates.enter(gates.exchange()))
        await run_ready_tasks()
        gates.gate.close()
        with pytest.raises(Draining):
            await waiting
        with pytest.raises(Draining):
            await gates.enter(gates.exchange())
        gates.workers[0].gate.close()
        with pytest.raises(Draining):
            await gates.enter(gates.exchange())
        assert gates.workers[0].gate.closed
        first.leave()

    run(scenario, **ONE_SLOT)


def test_worker_that_drains_alone_refuses_its_waiters() -> None:
    async def scenario(gates: RemoteGates) -> None:
        first, refused = await gates.enter(gates.exchange()), gates.exchange()
        waiting = [spawn(gates.enter(refused)), spawn(gates.enter(gates.exchange(), worker=1))]
        await asyncio.sleep(2)
        gates.workers[0].gate.close()
        with pytest.raises(Draining):
            await waiting[0]
        assert refused.queued / SECOND == pytest.approx(2)
        with pytest.raises(Draining):
            await gates.enter(gates.exchange())
        await run_ready_tasks()
        assert gates.gate.snapshot() == {"waiters": 1, "in_flight": 1}
        first.leave()
        (await waiting[1]).leave()

    run(scenario, workers=2, **ONE_SLOT)


# Clients that leave.


@pytest.mark.parametrize("turns", range(6))
def test_cancelled_attempt_leaves_nothing(turns: int) -> None:
    """However far the question and its answer have got, with a slot free or not."""

    async def scenario(gates: RemoteGates) -> None:
        for holder in (None, gates.exchange()):
            held = holder and await gates.enter(holder)
            waiting = spawn(gates.admission(gates.exchange(model="m")).enter())
            for _ in range(turns):
                await asyncio.sleep(0)
            if not waiting.done():
                await cancel(waiting)
            else:
                waiting.result().leave()
            if held:
                held.leave()
            await run_ready_tasks()
            await gates.admit(gates.exchange())
            await run_ready_tasks()
            gates.check_nothing_is_left()
        assert gates.now_s == 0

    run(scenario, **ONE_SLOT)


@pytest.mark.parametrize("limits", [ONE_SLOT, ONE_EACH_SECOND], ids=["slot", "rate"])
def test_grant_that_is_on_its_way_to_a_client_that_left_goes_to_the_next(
    limits: dict[str, Any],
) -> None:
    async def scenario(gates: RemoteGates) -> None:
        first = await gates.enter(gates.exchange())
        leaving = spawn(gates.enter(gates.exchange()))
        await run_ready_tasks()
        staying = spawn(gates.enter(gates.exchange("b"), worker=1))
        await run_ready_tasks()
        gates.workers[0].link.to_worker.is_held = True
        first.leave()
        await asyncio.sleep(1.001)
        assert gates.gate.snapshot()["waiters"] == 1
        await cancel(leaving)
        (await staying).leave()
        assert gates.now_s == pytest.approx(1.001, abs=0.01)
        gates.workers[0].link.release()

    run(scenario, workers=2, **limits)


def test_cancelled_wait_is_counted() -> None:
    async def scenario(gates: RemoteGates) -> None:
        first, leaving = await gates.enter(gates.exchange()), gates.exchange()
        waiting = spawn(gates.enter(leaving))
        await asyncio.sleep(2)
        await cancel(waiting)
        assert leaving.queued / SECOND == pytest.approx(2)
        first.leave()

    run(scenario, **ONE_SLOT)


@pytest.mark.parametrize("is_granted", [True, False])
def test_wait_is_counted_once_if_the_client_leaves_as_it_ends(is_granted: bool) -> None:
    async def scenario(gates: RemoteGates) -> None:
        first, leaving = await gates.enter(gates.exchange()), gates.exchange()
        waiting = spawn(gates.enter(leaving))
        await asyncio.sleep(2)
        if is_granted:
            first.leave()
        else:
            gates.gate.close()
        [admission] = gates.workers[0].gate._waiting.values()
        while not (admission._decision and admission._decision.done()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        await cancel(waiting)
        assert leaving.queued / SECOND == pytest.approx(2)
        if not is_granted:
            first.leave()

    run(scenario, **ONE_SLOT)


def test_enter_and_withdraw_that_arrive_together_leave_nothing() -> None:
    async def scenario(gates: RemoteGates) -> None:
        first = await gates.enter(gates.exchange())
        gates.workers[0].link.to_supervisor.is_held = True
        gate = gates.workers[0].gate
        both = [
            spawn(gates.admission(gates.exchange(model="m")).enter()),
            spawn(gate.turn_admission(gates.exchange(model="m"), gate.turn_queue()).enter()),
        ]
        await run_ready_tasks()
        for task in both:
            await cancel(task)
        await run_ready_tasks()
        gates.workers[0].link.to_supervisor.release()
        first.leave()

    run(scenario, **ONE_SLOT)


# A worker that ends, and a supervisor that does.


async def reserve(gates: RemoteGates, tokens: int = 100) -> Exchange:
    exchange = gates.exchange("limited", tokens=tokens, model="m")
    await gates.workers[0].control.spending.reserve(exchange)
    return exchange


def left(gates: RemoteGates) -> float:
    return gates.spending.left("limited")["tokens_per_day"]


def test_lost_worker_frees_everything_and_its_exchanges_are_settled() -> None:
    async def scenario(gates: RemoteGates) -> None:
        in_flight = await reserve(gates)
        admission = await gates.enter(in_flight)
        waiter, unsent = await reserve(gates, 200), await reserve(gates, 300)
        waiting = spawn(gates.enter(waiter))
        unbudgeted = spawn(gates.enter(gates.exchange("free")))
        await run_ready_tasks()
        other = spawn(gates.enter(gates.exchange("other"), worker=1))
        await run_ready_tasks()
        assert left(gates) == BUDGET - 600
        assert gates.workers[0].end() == 4
        (await other).leave()
        assert gates.now_s == 0
        gates.workers[0].gate.close()
        for task in (waiting, unbudgeted):
            with pytest.raises(Draining):
                await task
        admission.leave()
        settled = {exchange.id: exchange for exchange in gates.tally.settled}
        assert len(gates.tally.settled) == len(settled) == 4
        assert {each.outcome for each in settled.values()} == {"aborted"}
        assert {each.reason for each in settled.values()} == {"internal_error"}
        assert all(each.settled is not None for each in settled.values())
        # Only what may have reached upstream is charged.
        assert settled[in_flight.id].connected
        assert not settled[waiter.id].connected
        assert not settled[unsent.id].connected
        assert left(gates) == BUDGET - 100

    run(scenario, workers=2, **ONE_SLOT)


def test_worker_that_is_lost_while_it_is_suspended_is_settled_too() -> None:
    async def scenario(gates: RemoteGates) -> None:
        sent = await reserve(gates)
        admission = await gates.enter(sent)
        waiter = gates.exchange("free")
        waiting = spawn(gates.enter(waiter))
        await run_ready_tasks()
        await stop_worker(gates, 2)
        assert gates.gate.snapshot() == {"waiters": 0, "in_flight": 0}
        assert left(gates) == BUDGET - 100
        assert gates.workers[0].end() == 2
        assert [each.id for each in gates.tally.settled if each.connected] == [sent.id]
        assert left(gates) == BUDGET - 100
        gates.workers[0].gate.close()
        with pytest.raises(Draining):
            await waiting
        admission.leave()

    with_logged_lines(scenario, 2)


def with_logged_lines(scenario: Callable[[RemoteGates], Awaitable[None]], count: int) -> None:
    """Run a scenario, and check how many exchanges it logs."""

    async def main() -> None:
        gates = RemoteGates(1, **ONE_SLOT)
        async with asyncio.timeout(LIMIT_S):
            await scenario(gates)
        await run_ready_tasks()
        gates.check_nothing_is_left()

    with captured_log() as log:
        virtual_clock.run(main)
    assert [line["outcome"] for line in log.exchanges] == ["aborted"] * count


def test_lost_worker_without_exchanges_logs_none() -> None:
    async def scenario(gates: RemoteGates) -> None:
        await settle(gates, await reserve(gates))
        assert gates.workers[0].end() == 0

    with_logged_lines(scenario, 0)


def test_lost_supervisor_refuses_the_waiters() -> None:
    async def scenario(gates: RemoteGates) -> None:
        worker = gates.workers[0]
        first = await gates.enter(gates.exchange())
        waiting = spawn(gates.enter(gates.exchange()))
        question = spawn(worker.control.spending.reserve(gates.exchange("limited")))
        await asyncio.sleep(0)
        worker.link.hold()
        await run_ready_tasks()
        worker.channel.connection_lost(None)
        for task in (waiting, question):
            with pytest.raises(Draining):
                await task
        with pytest.raises(Draining):
            await worker.control.metrics_text()
        assert worker.gate.closed
        assert await worker.control.readiness() == {"status": "draining"}
        assert worker.gate.snapshot() == {"waiters": 0, "in_flight": 1}
        first.leave()
        worker.link.cut()
        worker.service.end()

    run(scenario, **ONE_SLOT)


# Budgets of clients, and counting.


def test_budget_is_reserved_and_settled_over_the_channel() -> None:
    async def scenario(gates: RemoteGates) -> None:
        control = gates.workers[0].control
        control.spending.set_limits(gates.spending_limits)
        assert control.spending.has_budgets("limited")
        assert not control.spending.has_budgets("free")
        exchange = await reserve(gates, 400)
        assert exchange.budget_left == "tokens_per_day=600"
        shown = gates.exchange("limited")
        await control.spending.show_left(shown)
        assert shown.budget_left == "tokens_per_day=600"
        too_much = gates.exchange("limited", tokens=601)
        with pytest.raises(BudgetExceeded) as raised:
            await control.spending.reserve(too_much)
        assert raised.value.headers()["Retry-After"]
        assert too_much.budget_left == "tokens_per_day=600"
        exchange.tokens_in, exchange.tokens_out = 10, 20
        await settle(gates, exchange)
        assert left(gates) == BUDGET - 30
        assert gates.tally.settled[0].outcome == "ok"
        assert gates.tally.settled[0].id == exchange.id

    run(scenario)


def test_counts_arrive() -> None:
    async def scenario(gates: RemoteGates) -> None:
        tally = gates.workers[0].control.tally
        tally.count_retry("429")
        tally.count_upstream_429("m", "pause")  # type: ignore[arg-type]
        tally.count_refusal("admin_only")
        await run_ready_tasks()
        assert gates.tally.counted == [
            ("retry", "429"),
            ("429", "m", "pause"),
            ("refusal", "admin_only"),
        ]

    run(scenario)


def test_messages_about_unknown_attempts_are_ignored() -> None:
    async def scenario(gates: RemoteGates) -> None:
        worker = gates.workers[0]
        for message in (
            ("withdraw", 7),
            ("respond", 7, True, None, False),
            ("pause", 7, 1, False, False),
            ("settle", 7, 1),
            ("give_back", 7),
            ("waive", 7),
            ("release", 7),
            ("leave", 7),
        ):
            worker.channel.tell(*message)
        worker.service.channel.tell("admitted", 7, 0, 0)
        worker.service.channel.tell("suspended", 7)
        worker.service.channel.tell("refused", 7, 0, "Draining", {"message": "x"})

    run(scenario)
