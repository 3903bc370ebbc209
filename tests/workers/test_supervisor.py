"""The supervisor on a virtual clock, with workers that are no processes."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from rustygate.core.clients import hash_key
from rustygate.lifecycle import WorkersFailed
from rustygate.system.shared_counts import SharedCounts
from rustygate.workers.restart_delay import HEALTHY_S
from rustygate.workers.service import WorkerService
from rustygate.workers.shared_certificate import SharedCertificate
from rustygate.workers.supervisor import Supervisor
from tests.support.certificates import Authority
from tests.support.fake_workers import FakeWorkers, Supervised, hold_up, now_s
from tests.support.harness import run_ready_tasks


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> Supervised:
    return Supervised(monkeypatch)


@pytest.fixture
def suspended(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a worker was suspended."""
    times: list[float] = []
    monkeypatch.setattr(WorkerService, "suspend", lambda service: times.append(now_s()))
    return times


def states(running: Supervisor) -> list[str]:
    return [each.state for each in running.statuses()]


def restarts(running: Supervisor) -> list[int]:
    return [each.restarts for each in running.statuses()]


# Start.


def test_gate_has_started_once_all_its_workers_serve(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.start_s = [1, 3, 2]
        starting = asyncio.create_task(running.start())
        await asyncio.sleep(1.5)
        assert states(running) == ["serving", "starting", "starting"]
        await asyncio.sleep(1.4)
        assert not starting.done()
        await starting
        assert now_s() == pytest.approx(1003)
        assert states(running) == ["serving"] * 3
        assert [each.number for each in running.statuses()] == [1, 2, 3]
        assert [told[0][2] for told in workers.told("start")] == [0, 1, 2]
        assert running.pids == [worker.pid for worker in workers.started]
        assert [sock.getsockname()[1] for sock in workers.sockets] == [
            int(running.url.rpartition(":")[2])
        ]

    assert not supervised.run(scenario, 3, starts=False).errors


def test_gate_does_not_start_if_one_worker_ends_before_it_serves(supervised: Supervised) -> None:
    """It is not replaced, and the others end, too."""

    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.start_s = [2]
        starting = asyncio.create_task(running.start())
        await asyncio.sleep(1)
        workers.started[1].end(7)
        with pytest.raises(WorkersFailed):
            await starting
        assert [worker.returncode for worker in workers.started] == [0, 7, 0]

    log = supervised.run(scenario, 3, starts=False)
    assert [error.strip() for error in log.errors] == [
        "worker 2 (pid 101) ended with exit code 7 {}"
    ]


def test_worker_that_ends_while_others_still_start_is_replaced(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.start_s = [0, 5, 0]
        starting = asyncio.create_task(running.start())
        await asyncio.sleep(2)
        workers.started[0].end(3)
        await starting
        assert states(running) == ["serving", "serving"]
        assert restarts(running) == [1, 0]

    log = supervised.run(scenario, starts=False)
    assert len(log.errors) == 1


def test_nothing_is_left_of_a_gate_that_could_not_bind(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    close = SharedCounts.close

    def record(counts: SharedCounts) -> None:
        closed.append(counts.descriptor)
        close(counts)

    monkeypatch.setattr(SharedCounts, "close", record)

    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        with pytest.raises(OSError, match="nowhere"):
            await running.start()
        [descriptor] = closed
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        # Nothing is closed twice.
        await running.stop()
        assert len(closed) == 1
        assert not workers.started

    supervised.run(scenario, starts=False, bind_address="unix:/nowhere/gate.sock")


def test_gate_that_has_not_started_can_be_stopped(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        await running.stop()
        assert not workers.started

    supervised.run(scenario, starts=False)


# Silent workers.


def test_silent_worker_is_suspended_after_a_second_and_killed_after_half_a_minute(
    supervised: Supervised, suspended: list[float]
) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        worker = workers.started[0]
        await asyncio.sleep(5.1)
        last = 1005.0
        worker.is_silent = True
        while worker.returncode is None:
            assert restarts(running) == [0, 0]
            await asyncio.sleep(0.01)
        assert 30 < now_s() - last <= 30.27
        # A check finds it a quarter of a second later at most.
        assert 1 < suspended[0] - last <= 1.27
        assert suspended[-1] - last < 30.01
        await asyncio.sleep(0.2)
        assert (states(running), restarts(running)) == (["serving"] * 2, [1, 0])
        assert workers.started[1].returncode is None

    log = supervised.run(scenario)
    [error] = log.errors
    assert error.startswith(
        "worker 1 (pid 100) was killed because it had not responded for 30 s, "
        "0 exchanges cut off: another starts in 0.1 s"
    )


def test_worker_that_is_silent_for_less_than_half_a_minute_goes_on(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.started[0].is_silent = True
        await asyncio.sleep(29.7)
        assert states(running) == ["silent", "serving"]
        workers.started[0].is_silent = False
        await asyncio.sleep(60)
        assert (states(running), restarts(running)) == (["serving"] * 2, [0, 0])

    assert not supervised.run(scenario).errors


def test_worker_that_has_just_spoken_is_not_suspended(
    supervised: Supervised, suspended: list[float]
) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        await asyncio.sleep(5.1)
        workers.started[0].is_silent = True
        await asyncio.sleep(0.8)
        workers.started[0].is_silent = False
        await asyncio.sleep(5)

    supervised.run(scenario)
    assert not suspended


@pytest.mark.parametrize("start_s", [59.5, 61])
def test_worker_may_take_a_minute_to_start(supervised: Supervised, start_s: float) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.start_s = [start_s]
        if start_s < 60:
            await running.start()
            assert now_s() == 1000 + start_s
        else:
            with pytest.raises(WorkersFailed):
                await running.start()
            assert 60 < now_s() - 1000 <= 60.27

    log = supervised.run(scenario, 1, starts=False)
    text = "worker 1 (pid 100) was killed because it had not responded for 60 s"
    assert [error.startswith(text) for error in log.errors] == [True] * (start_s > 60)


def test_workers_do_not_seem_silent_because_the_supervisor_was_held_up(
    supervised: Supervised, suspended: list[float]
) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        for _ in range(5):
            await asyncio.sleep(1.1)
            hold_up(40)
        await asyncio.sleep(5)
        assert restarts(running) == [0, 0]

    assert not supervised.run(scenario).errors
    assert not suspended


# Replacement.


def test_worker_is_replaced_after_a_delay_that_grows_while_it_ends_soon(
    supervised: Supervised,
) -> None:
    """The others' delays do not."""

    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        for restarted in range(4):
            began, count = now_s(), len(workers.started)
            workers.started[-1].end(1)
            while len(workers.started) == count:  # noqa: ASYNC110 - no event is set
                await asyncio.sleep(0.001)
            assert now_s() - began == pytest.approx(0.1 * 2**restarted, abs=0.002)
            await run_ready_tasks()
            assert restarts(running) == [0, restarted + 1]
        await asyncio.sleep(HEALTHY_S)
        for worker in workers.started[0], workers.started[-1]:
            worker.end(-11)
        await run_ready_tasks()
        assert states(running) == ["ended"] * 2
        await asyncio.sleep(0.15)
        assert states(running) == ["serving"] * 2
        assert restarts(running) == [1, 5]

    log = supervised.run(scenario)
    delays = [re.findall(r"another starts in ([\d.]+) s", error)[0] for error in log.errors]
    assert delays == ["0.1", "0.2", "0.4", "0.8", "0.1", "0.1"]
    assert "worker 1 (pid 100) was killed by SIGSEGV, 0 exchanges cut off" in log.errors[-2]


def test_worker_that_ends_before_it_serves_is_replaced_once_the_gate_has_started(
    supervised: Supervised,
) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.start_s = [5, 0]
        workers.started[0].end(1)
        await asyncio.sleep(0.15)
        workers.started[2].end(2)
        await asyncio.sleep(0.25)
        assert (states(running), restarts(running)) == (["serving"] * 2, [2, 0])

    assert len(supervised.run(scenario).errors) == 2


def test_end_of_a_worker_that_drained_is_no_error(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.started[0].channel.tell("draining")
        await run_ready_tasks()
        assert states(running) == ["draining", "serving"]
        workers.started[0].end(0)
        await asyncio.sleep(1)
        assert (states(running), restarts(running)) == (["serving"] * 2, [1, 0])

    log = supervised.run(scenario)
    assert not log.errors
    assert (
        "worker 1 (pid 100) has drained, 0 exchanges cut off: another starts in 0.1 s" in log.text
    )


@pytest.mark.parametrize(("cut_off", "text"), [(1, "1 exchange "), (2, "2 exchanges ")])
def test_exchanges_that_are_cut_off_are_counted(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch, cut_off: int, text: str
) -> None:
    monkeypatch.setattr(WorkerService, "end", lambda service: cut_off)

    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.started[0].end(1)
        await run_ready_tasks()

    assert f", {text}cut off: " in supervised.run(scenario).errors[0]


# Messages between workers, and reload.


def test_connection_of_one_worker_is_told_to_all(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.started[0].channel.tell("connected", "local", "remote")
        await run_ready_tasks()
        assert workers.told("sibling") == [[("sibling", "local", "remote")]] * 2

    supervised.run(scenario)


def test_room_is_made_by_another_worker_that_serves(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        first, second, third = workers.started
        third.channel.tell("draining")
        await run_ready_tasks()
        for worker in workers.started:
            worker.idle = 1
        assert await first.channel.ask("make_room")
        assert [worker.idle for worker in workers.started] == [1, 0, 1]
        assert not await first.channel.ask("make_room")
        assert await second.channel.ask("make_room")
        assert [worker.idle for worker in workers.started] == [0, -1, 1]

    supervised.run(scenario, 3)


def test_each_worker_is_asked_for_room_until_one_has_any(supervised: Supervised) -> None:
    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        workers.started[2].idle = 1
        assert await workers.started[3].channel.ask("make_room")
        assert workers.told("make_room") == [[("make_room",)]] * 3 + [[]]

    supervised.run(scenario, 4)


def test_reload_is_told_to_all(supervised: Supervised, tmp_path: Path) -> None:
    path = tmp_path / "clients.toml"
    entry = f"key_sha256 = '{hash_key('rg-key-of-a-client')}'\n"
    path.write_text(f"[client.a]\n{entry}")

    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        path.write_text(f"[client.b]\n{entry}")
        changes = running.reload()
        assert changes is not None
        await run_ready_tasks()
        for told in workers.told("clients"):
            [(_, clients)] = told
            assert list(clients.by_name) == ["b"]
        workers.started[0].end(1)
        await asyncio.sleep(1)
        [(_, _, _, clients, pair)] = workers.told("start")[2]
        assert list(clients.by_name) == ["b"]
        assert pair is None
        assert running.certificate is None

    supervised.run(scenario, clients_file=str(path))


def test_certificate_is_told_to_all_and_closed_at_the_end(
    supervised: Supervised, authority: Authority
) -> None:
    cert, key = authority.issue("127.0.0.1").values()
    descriptors: list[int] = []

    async def scenario(running: Supervisor, workers: FakeWorkers) -> None:
        certificate = running.certificate
        assert isinstance(certificate, SharedCertificate)
        assert [told[0][4] for told in workers.told("start")] == [certificate.pair] * 2
        authority.issue("127.0.0.1")
        assert certificate.reload() is None
        await run_ready_tasks()
        assert workers.told("certificate") == [[("certificate", certificate.pair)]] * 2
        assert certificate._copy is not None
        descriptors.extend(int(Path(path).name) for path in certificate._copy.paths)

    supervised.run(scenario, tls_cert_file=cert, tls_key_file=key)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
