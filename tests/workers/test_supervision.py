"""How a supervisor looks after its workers: those that hang, cannot start, or drain."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rustygate.config import Settings
from rustygate.lifecycle import WorkersFailed
from rustygate.system import background
from rustygate.telemetry.worker_metrics import WorkerStatus
from rustygate.workers import restart_delay, worker_process
from rustygate.workers.service import WorkerService
from rustygate.workers.supervisor import Supervisor
from rustygate.workers.worker_process import WorkerProcess
from tests.support.gate import captured_log
from tests.support.http import get
from tests.support.waiting import soon, until

# Workers take a second or so to start, on a busy machine several.
LIMIT_S = 30.0


@asynccontextmanager
async def supervisor(workers: int, **options: Any) -> AsyncIterator[Supervisor]:
    settings = Settings(openai_api_key="sk-test", port=0)
    async with Supervisor(settings, workers, **options) as running:
        yield running


async def until_status(running: Supervisor, number: int, **expected: object) -> WorkerStatus:
    """Wait until a worker is as expected; returns its status."""

    def found() -> bool:
        status = running.statuses()[number - 1]
        return all(getattr(status, name) == value for name, value in expected.items())

    await until(found, LIMIT_S)
    return running.statuses()[number - 1]


async def test_worker_that_hangs_is_killed_and_replaced() -> None:
    with captured_log() as log:
        # Later than they are shown to be silent; a busy machine delays the other as well.
        async with supervisor(2, end_after_s=5) as running:
            first, second = running.statuses()
            os.kill(first.pid, signal.SIGSTOP)
            await until_status(running, 1, state="silent", restarts=0)
            replaced = await until_status(running, 1, state="serving", restarts=1)
            assert replaced.pid != first.pid
            await until_status(running, 2, state="serving", restarts=0, pid=second.pid)
    [error] = log.errors
    assert f"worker 1 (pid {first.pid}) was killed because it had not responded for 5 s" in error


async def test_worker_is_replaced_in_spite_of_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the checks that find that it hangs, of the end of its exchanges, and of the new start."""
    failing: list[str] = []
    for kind, name in (
        (WorkerProcess, "kill"),
        (WorkerService, "end"),
        (WorkerProcess, "start"),
    ):
        works = getattr(kind, name)

        def fail_once(*arguments: Any, name: str = name, works: Callable[..., Any] = works) -> Any:
            if name in failing:
                failing.remove(name)
                raise RuntimeError
            return works(*arguments)

        monkeypatch.setattr(kind, name, fail_once)
    monkeypatch.setattr(background, "RETRY_S", 0.1)
    with captured_log() as log:
        async with supervisor(1, end_after_s=1.2) as running:
            failing += ["kill", "end", "start"]
            [first] = running.statuses()
            os.kill(first.pid, signal.SIGSTOP)
            # On a busy machine, the next one may be thought to hang as well.
            await until(lambda: first.pid not in running.pids)
            await until_status(running, 1, state="serving")
            assert not failing
    failures = [error for error in log.errors if "RuntimeError" in error]
    assert [error.partition(" failed, next try in 0.1 s")[0] for error in failures] == [
        "checking worker 1",
        "replacing worker 1",
        "replacing worker 1",
    ]


async def test_drained_worker_is_replaced_without_an_error() -> None:
    with captured_log() as log:
        async with supervisor(2) as running:
            first, _ = running.statuses()
            os.kill(first.pid, signal.SIGTERM)
            await until_status(running, 1, state="serving", restarts=1)
    assert f"worker 1 (pid {first.pid}) has drained, 0 exchanges cut off" in log.text
    assert not log.errors


async def test_connections_of_a_worker_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine, a worker may take longer to answer.
    monkeypatch.setattr(worker_process, "_ROOM_LIMIT_S", LIMIT_S)

    async def make_room(running: Supervisor, number: int) -> None:
        """Retry: a worker that was silent for a second counts as having no idle connection."""
        async with asyncio.timeout(LIMIT_S):
            while not await running._make_room(number):  # noqa: ASYNC110 - no event is set
                await asyncio.sleep(0.01)

    async with supervisor(2) as running:
        idle = [await idle_connection(running)]
        # Each worker has one, and one of them two.
        while len(idle) < 3 or not all(connections(running)):
            idle.append(await idle_connection(running))
        first, second = running.statuses()
        assert first.connections + second.connections == len(idle)
        # A worker that asks for room has no idle one itself.
        await make_room(running, 1)
        await until(lambda: connections(running) == [first.connections, second.connections - 1])
        await make_room(running, 2)
        await until(
            lambda: connections(running) == [first.connections - 1, second.connections - 1]
        )
        os.kill(first.pid, signal.SIGKILL)
        replaced = await until_status(running, 1, state="serving", restarts=1)
        assert replaced.connections == 0
        assert connections(running)[1] == second.connections - 1
        for writer in idle:
            writer.close()
        await until(lambda: not any(connections(running)))
        assert not await running._make_room(1)


def connections(running: Supervisor) -> list[int]:
    return [each.connections for each in running.statuses()]


async def idle_connection(running: Supervisor) -> asyncio.StreamWriter:
    """A connection between two requests."""
    port = int(running.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get("/health"))
    assert await reader.read(12) == b"HTTP/1.1 200"
    return writer


async def test_gate_whose_workers_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with captured_log() as log, pytest.raises(WorkersFailed):
        async with supervisor(2):
            pass
    assert "worker 1 cannot start (No such file or directory)" in log.errors[0]


async def test_worker_that_cannot_be_replaced_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = sys.executable
    with captured_log() as log:
        async with supervisor(1) as running:
            monkeypatch.setattr(sys, "executable", "/nonexistent/python")
            os.kill(running.pids[0], signal.SIGKILL)
            failed = await until_status(running, 1, state="ended", restarts=2)
            assert failed.pid == 0
            monkeypatch.setattr(sys, "executable", python)
            await until_status(running, 1, state="serving")
    text = "worker 1 cannot start (No such file or directory), 0 exchanges cut off: another starts"
    assert text in log.text


@pytest.mark.parametrize("end", [Supervisor.drain, Supervisor.stop])
async def test_gate_that_ends_does_not_wait_for_a_worker_that_is_starting(
    end: Callable[[Supervisor], Awaitable[None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rustygate.workers.supervisor._GRACE_S", 3600)
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 3600\n")
    slow.chmod(0o700)
    with captured_log() as log:
        async with supervisor(1) as running:
            [first] = running.pids
            monkeypatch.setattr(sys, "executable", str(slow))
            os.kill(first, signal.SIGKILL)
            await until_status(running, 1, state="starting", restarts=1)
            async with soon():
                await end(running)
            assert running.statuses()[0].state == "ended"
    assert len(log.errors) == 1


async def test_gate_that_stops_tells_its_workers_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rustygate.workers.supervisor._GRACE_S", 3600)
    async with supervisor(2) as running:
        async with soon():
            await running.stop()
        assert [each.state for each in running.statuses()] == ["ended", "ended"]


async def test_gate_that_stops_kills_a_worker_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async with supervisor(1) as running:
        os.kill(running.pids[0], signal.SIGSTOP)
        monkeypatch.setattr("rustygate.workers.supervisor._GRACE_S", 0.5)
        await running.stop()
        await until_status(running, 1, state="ended")


async def test_gate_that_stops_replaces_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for none that is due to start later."""
    monkeypatch.setattr(restart_delay, "FIRST_S", 3600)
    with captured_log() as log:
        async with supervisor(1) as running:
            os.kill(running.pids[0], signal.SIGKILL)
            await until(lambda: "another starts in 3600 s" in log.text)
            async with soon():
                await running.drain()
            assert running.statuses()[0].state == "ended"
            assert running.statuses()[0].restarts == 0
