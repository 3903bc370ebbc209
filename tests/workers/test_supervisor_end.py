"""The end of a gate with workers, on a virtual clock and without processes."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rustygate.control_plane import ControlPlane
from rustygate.workers.service import WorkerService
from rustygate.workers.supervisor import Supervisor
from tests.support.fake_workers import FakeWorkers, Supervised, now_s
from tests.support.harness import run_ready_tasks


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> Supervised:
    return Supervised(monkeypatch)


def states(running: Supervisor) -> list[str]:
    return [each.state for each in running.statuses()]


def test_draining_tells_all_workers_and_waits_for_them(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        for worker in workers.started:
            worker.is_stuck = True
        began = now_s()
        draining = asyncio.create_task(running.drain())
        await run_ready_tasks()
        assert workers.told("drain") == [[("drain",)]] * 2
        assert running._control.gate.closed
        assert all(sock.fileno() == -1 for sock in workers.sockets)
        await asyncio.sleep(7)
        workers.started[0].end(0)
        await asyncio.sleep(2)
        assert not draining.done()
        workers.started[1].end(0)
        await draining
        assert now_s() - began == pytest.approx(9)
        assert states(running) == ["ended"] * 2
        await asyncio.sleep(60)
        assert len(workers.started) == 2

    assert not supervised.run(scenario).errors


def test_draining_ends_five_seconds_after_the_limit(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.started[0].is_stuck = True
        began = now_s()
        await running.drain()
        assert now_s() - began == pytest.approx(7 + 5)
        assert states(running) == ["serving", "ended"]

    supervised.run(scenario, drain_timeout=7)


def test_stopping_kills_a_worker_that_has_not_ended_within_five_seconds(
    supervised: Supervised,
) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        first, second = workers.started
        first.is_stuck = True
        began = now_s()
        stopping = asyncio.create_task(running.stop())
        await asyncio.sleep(4.9)
        assert workers.told("stop") == [[("stop",)]] * 2
        assert [worker.kills for worker in workers.started] == [0, 0]
        assert running._control.gate.closed
        assert all(sock.fileno() == -1 for sock in workers.sockets)
        await stopping
        assert now_s() - began == pytest.approx(5)
        assert (first.kills, second.kills) == (1, 0)
        assert states(running) == ["ended"] * 2

    supervised.run(scenario)


def test_stopping_waits_another_five_seconds_for_a_process_that_was_killed(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        [worker] = workers.started
        worker.is_stuck = True
        monkeypatch.setattr(worker, "kill", lambda: None)
        began = now_s()
        await running.stop()
        assert now_s() - began == pytest.approx(10)
        worker.end(-9)

    supervised.run(scenario, 1)


@pytest.mark.parametrize("end", [Supervisor.drain, Supervisor.stop])
def test_worker_that_starts_is_killed_at_the_end(
    supervised: Supervised, end: Callable[[Supervisor], Awaitable[None]]
) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.start_s = [50]
        workers.started[0].end(1)
        await asyncio.sleep(1)
        assert states(running) == ["starting", "serving"]
        workers.started[2].is_stuck = True
        began = now_s()
        await end(running)
        assert now_s() == began
        assert [worker.kills for worker in workers.started] == [0, 0, 1]

    assert len(supervised.run(scenario).errors) == 1


def test_worker_that_was_created_too_late_is_killed(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.delay_s = 1.0
        workers.started[0].end(1)
        await asyncio.sleep(0.5)
        began = now_s()
        await running.drain()
        assert now_s() - began == pytest.approx(0.6)
        assert [worker.kills for worker in workers.started] == [0, 0, 1]

    assert len(supervised.run(scenario).errors) == 1


def test_worker_is_not_replaced_once_the_gate_ends(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        for _ in range(7):
            workers.started[-1].end(1)
            await asyncio.sleep(4)
        workers.started[-1].end(1)
        await asyncio.sleep(1)
        count, began = len(workers.started), now_s()
        await running.drain()
        assert now_s() == began
        await asyncio.sleep(60)
        assert len(workers.started) == count

    supervised.run(scenario, 1)


def test_exchanges_in_flight_are_those_of_all_workers(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerService, "in_flight", [1, 2, 3])

    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        assert running.unfinished == 6

    supervised.run(scenario)


def test_gate_ends_only_once(supervised: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[ControlPlane] = []
    close = ControlPlane.close

    async def record(control: ControlPlane) -> None:
        closed.append(control)
        await close(control)

    monkeypatch.setattr(ControlPlane, "close", record)

    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        await running.drain()
        assert not closed
        await running.stop()
        assert closed == [running._control]
        told = workers.told("drain", "stop")
        await running.stop()
        assert workers.told("drain", "stop") == told
        assert len(closed) == 1

    assert not supervised.run(scenario).errors
