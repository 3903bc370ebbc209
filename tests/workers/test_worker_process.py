"""A worker's process as the supervisor sees it, without a process."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import rustygate
from rustygate.control_plane import ControlPlane
from rustygate.plan import virtual_clock
from rustygate.system.shared_counts import SharedCounts
from rustygate.workers import worker_process
from rustygate.workers.service import WorkerService
from rustygate.workers.shared_certificate import SharedCertificate
from rustygate.workers.worker_process import WorkerProcess
from tests.support.fake_workers import FakeWorker, FakeWorkers
from tests.support.gate import captured_log
from tests.support.harness import DEFAULTS, run_ready_tasks

PLACES = 3
NUMBER = 2


class Made:
    """A process that has not started, and the worker that will be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        control = ControlPlane(DEFAULTS)
        for name in ("tally", "spending", "gate"):
            setattr(control, name, SimpleNamespace(count_retry=None, count_upstream_429=None))
        control.tally.count_refusal = None  # type: ignore[method-assign,assignment]
        control.auth = cast(Any, SimpleNamespace(in_force="the clients"))
        self.fakes = FakeWorkers(monkeypatch)
        self.counts = SharedCounts.create(PLACES)
        self.connected: list[tuple[object, object]] = []
        self.asking: list[int] = []
        self.process = WorkerProcess(
            NUMBER,
            control,
            self.counts,
            lambda local, remote: self.connected.append((local, remote)),
            self._make_room,
        )

    async def _make_room(self, number: int) -> bool:
        self.asking.append(number)
        return True

    @property
    def state(self) -> str:
        return self.process.state

    async def start(self, start_s: float = 0.0) -> FakeWorker:
        self.fakes.start_s = [start_s]
        await self.process.start([], DEFAULTS, None)
        await run_ready_tasks()
        return self.fakes.started[-1]


Scenario = Callable[[Made], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a scenario on a virtual clock; nothing may be logged as an error."""

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            made = Made(monkeypatch)
            async with asyncio.timeout(3600):
                await scenario(made)
            made.counts.close()

        with captured_log() as log:
            virtual_clock.run(main)
        assert not log.errors

    return run


def test_worker_is_told_its_place_and_what_is_in_force(run: Run) -> None:
    async def scenario(made: Made) -> None:
        certificate = cast(SharedCertificate, SimpleNamespace(pair=(b"certificate", b"key")))
        await made.process.start([], DEFAULTS, certificate)
        await run_ready_tasks()
        [worker] = made.fakes.started
        pair = (b"certificate", b"key")
        assert worker.told == [("start", DEFAULTS, NUMBER - 1, "the clients", pair)]

    run(scenario)


def test_states_of_a_worker_from_its_start_to_its_end(run: Run) -> None:
    async def scenario(made: Made) -> None:
        process = made.process
        assert (process.pid, process.state) == (0, "starting")
        await asyncio.sleep(5)
        worker = await made.start(start_s=2)
        assert (process.pid, process.state) == (worker.pid, "starting")
        await asyncio.sleep(2.1)
        assert made.state == "serving"
        assert process.ready.result() is True
        assert process.age_s == pytest.approx(7.1)
        # A second message is no error.
        worker.channel.tell("ready")
        worker.is_silent = True
        await asyncio.sleep(0.95)
        assert process.silent_s == pytest.approx(0.95)
        assert made.state == "serving"
        await asyncio.sleep(0.1)
        assert made.state == "silent"
        worker.channel.tell("draining")
        await run_ready_tasks()
        assert (made.state, process.silent_s) == ("draining", 0)
        worker.end(0)
        assert made.state == "ended"

    run(scenario)


def test_worker_that_ended_leaves_its_counts_to_others(run: Run) -> None:
    async def scenario(made: Made) -> None:
        worker = await made.start()
        for place in range(PLACES):
            counts = made.counts.of(place)
            counts.connections.own = counts.body_bytes.own = counts.viewers.own = 4 + place
        status = made.process.status(restarts=7)
        assert (status.number, status.pid, status.state) == (NUMBER, worker.pid, "serving")
        assert (status.connections, status.in_flight, status.restarts) == (5, 0, 7)
        worker.end(0)
        assert await made.process.ended() == 0
        for place, number in enumerate((4, 0, 6)):
            counts = made.counts.of(place)
            assert [counts.connections.own, counts.body_bytes.own, counts.viewers.own] == (
                [number] * 3
            )

    run(scenario)


def test_what_a_worker_sent_before_its_end_is_read_before_that_counts(run: Run) -> None:
    async def scenario(made: Made) -> None:
        worker = await made.start()
        worker.link.to_supervisor.is_held = True
        worker.channel.tell("connected", "local", "remote")
        await run_ready_tasks()
        worker.exit(0)
        ended = asyncio.ensure_future(made.process.ended())
        await asyncio.sleep(5)
        assert not ended.done()
        worker.link.release()
        worker.link.cut()
        assert await ended == 0
        assert made.connected == [("local", "remote")]

    run(scenario)


@pytest.mark.parametrize(("start_s", "is_ready"), [(0, True), (9, False)])
def test_worker_that_ends_before_it_serves_is_never_ready(
    run: Run, start_s: float, is_ready: bool
) -> None:
    async def scenario(made: Made) -> None:
        worker = await made.start(start_s)
        worker.end(1)
        await made.process.ended()
        assert made.process.ready.result() is is_ready

    run(scenario)


@pytest.mark.parametrize(
    ("code", "drains", "text"),
    [
        (0, False, "ended with exit code 0"),
        (0, True, "has drained"),
        (1, False, "ended with exit code 1"),
        (1, True, "ended with exit code 1"),
        (-9, True, "was killed by SIGKILL"),
        (-11, False, "was killed by SIGSEGV"),
        (-77, False, "was killed by signal 77"),
    ],
)
def test_end_is_described(run: Run, code: int, drains: bool, text: str) -> None:
    async def scenario(made: Made) -> None:
        worker = await made.start()
        if drains:
            worker.channel.tell("draining")
            await run_ready_tasks()
        worker.end(code)
        assert made.process.end == ""
        await made.process.ended()
        assert made.process.end == f"worker 2 (pid {worker.pid}) {text}"

    run(scenario)


def test_reason_of_a_kill_is_described(run: Run) -> None:
    async def scenario(made: Made) -> None:
        # Before it has a process, there is nothing to kill.
        made.process.kill("it is early")
        worker = await made.start()
        made.process.kill("it is red")
        await made.process.ended()
        assert made.process.end.endswith(" was killed because it is red")
        made.process.kill()
        assert worker.kills == 1

    run(scenario)


def test_worker_that_the_system_cannot_start_has_ended(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    async def scenario(made: Made) -> None:
        monkeypatch.setattr(worker_process, "_run", fail)
        await made.process.start([], DEFAULTS, None)
        assert (made.process.pid, made.process.state) == (0, "ended")
        assert await made.process.ended() == 0
        assert made.process.ready.result() is False
        assert made.process.end == "worker 2 cannot start (Cannot allocate memory)"

    run(scenario)


@pytest.mark.parametrize(("idle", "found"), [(0, False), (1, True)])
def test_worker_is_asked_for_room(run: Run, idle: int, found: bool) -> None:
    async def scenario(made: Made) -> None:
        worker = await made.start()
        worker.idle = idle
        assert await made.process.make_room() is found
        assert await worker.channel.ask("make_room") is True
        assert made.asking == [NUMBER]

    run(scenario)


def test_worker_that_does_not_answer_has_no_room(run: Run) -> None:
    async def scenario(made: Made) -> None:
        worker = await made.start()
        worker.is_silent = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert not await made.process.make_room()
        assert loop.time() - began == pytest.approx(0.5)
        worker.end(0)
        assert not await made.process.make_room()
        assert loop.time() - began == pytest.approx(0.5)

    run(scenario)


def test_suspension_is_left_to_the_service(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    suspended: list[WorkerService] = []
    monkeypatch.setattr(WorkerService, "suspend", lambda service: suspended.append(service))

    async def scenario(made: Made) -> None:
        made.process.suspend()
        assert suspended == [made.process._service]
        assert repr(made.process) == "<WorkerProcess 2, <WorkerService 0 attempts>>"

    run(scenario)


# The program.


async def test_program_gets_its_descriptors_and_no_signal_while_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The descriptors are its end of the channel, the counts and the sockets."""
    calls: list[tuple[Sequence[str], dict[str, Any]]] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    started = object()

    async def execute(*arguments: str, **options: Any) -> object:
        calls.append((arguments, options))
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert blocked == before | {signal.SIGINT, signal.SIGHUP, signal.SIGTERM}
        with socket.socket(fileno=os.dup(int(arguments[4]))) as theirs:
            theirs.send(b"hello")
        return started

    monkeypatch.setattr(asyncio, "create_subprocess_exec", execute)
    with socket.socket() as first, socket.socket() as second:
        ours, process = await worker_process._run(77, [first, second])
        [(arguments, options)] = calls
        numbers = [int(each) for each in arguments[4:]]
        assert arguments[:4] == (sys.executable, "-P", "-m", "rustygate.workers")
        assert numbers[1:] == [77, first.fileno(), second.fileno()]
        assert list(options["pass_fds"]) == numbers
    assert process is started
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    with ours:
        assert ours.recv(9) == b"hello"
        # The other end is open in the new process only.
        assert ours.recv(9) == b""
    assert numbers[0] not in (ours.fileno(), -1)


async def test_nothing_is_left_of_a_program_that_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = [socket.socketpair()]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    async def fail(*arguments: str, **options: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail)
    monkeypatch.setattr(socket, "socketpair", lambda: pairs[0])
    with pytest.raises(FileNotFoundError):
        await worker_process._run(1, [])
    assert [each.fileno() for each in pairs[0]] == [-1, -1]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("given", [None, "", "/elsewhere", "/a:/b"])
async def test_program_finds_this_package_first(
    monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    environs: list[dict[str, str]] = []

    async def execute(*arguments: str, **options: Any) -> None:
        environs.append(options["env"])

    monkeypatch.setattr(asyncio, "create_subprocess_exec", execute)
    monkeypatch.setenv("OTHER", "kept")
    if given is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", given)
    await worker_process._execute([])
    here = str(Path(rustygate.__file__).parents[1])
    assert environs[0]["PYTHONPATH"] == (f"{here}:{given}" if given else here)
    assert environs[0]["OTHER"] == "kept"
