"""Workers without processes: a supervisor starts these on a virtual clock, and the test says what
they do."""

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from rustygate.plan import virtual_clock
from rustygate.workers import worker_process
from rustygate.workers.channel import Channel
from rustygate.workers.supervisor import Supervisor
from rustygate.workers.worker import ALIVE_INTERVAL_S
from tests.support.channels import Link
from tests.support.gate import Log, captured_log
from tests.support.harness import DEFAULTS

# More than any scenario takes on its virtual clock.
_LIMIT_S = 3600.0


class FakeWorker:
    """A worker, its process, and its end of the channel.

    Attributes:
        told: the messages of the supervisor, in order.
        is_silent: whether it sends nothing.
        is_stuck: whether it does not end when the supervisor says so.
        idle: how many idle connections it has.
    """

    def __init__(self, pid: int, start_s: float = 0.0) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.kills = 0
        self.told: list[tuple[Any, ...]] = []
        self.is_silent = self.is_stuck = False
        self.idle = 0
        self._start_s = start_s
        self._loop = asyncio.get_running_loop()
        self._has_ended = asyncio.Event()
        names = ("clients", "certificate", "sibling")
        self.channel = Channel(
            {
                "start": self._on_start,
                "drain": lambda: self._on_end("drain"),
                "stop": lambda: self._on_end("stop"),
                **{name: self._remember(name) for name in names},
            },
            {"make_room": self._make_room},
            lambda: None,
        )

    def connect(self, supervisor: Channel) -> None:
        self.link = Link(supervisor, self.channel)

    def _remember(self, name: str) -> Callable[..., None]:
        return lambda *values: self.told.append((name, *values))

    def _on_start(self, *values: object) -> None:
        self.told.append(("start", *values))
        self._loop.call_later(self._start_s, self.become_ready)

    def become_ready(self) -> None:
        if self.returncode is None and not self.is_silent:
            self.channel.tell("ready")
            self._tell_alive()

    def _tell_alive(self) -> None:
        if self.returncode is None:
            if not self.is_silent:
                self.channel.tell("alive")
            self._loop.call_later(ALIVE_INTERVAL_S, self._tell_alive)

    def _on_end(self, how: str) -> None:
        self.told.append((how,))
        if not self.is_stuck:
            self.end(0)

    async def _make_room(self) -> bool:
        self.told.append(("make_room",))
        if self.is_silent:
            await asyncio.Event().wait()
        self.idle -= 1
        return self.idle >= 0

    # The process.

    def end(self, code: int) -> None:
        """It ends; what it has sent arrives."""
        self.exit(code)
        self.link.cut()

    def exit(self, code: int) -> None:
        """Its process ends, and its channel does not know yet."""
        self.returncode = code
        self._has_ended.set()

    def kill(self) -> None:
        self.kills += 1
        self.end(-signal.SIGKILL)

    async def wait(self) -> int:
        await self._has_ended.wait()
        assert self.returncode is not None
        return self.returncode


class FakeWorkers:
    """Those that were started, in order.

    Attributes:
        start_s: how long each of the next ones takes to start; the last is for all others.
        delay_s: how long the system takes to create a process.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[FakeWorker] = []
        self.sockets: Sequence[socket.socket] = ()
        self.start_s = [0.0]
        self.delay_s = 0.0
        monkeypatch.setattr(worker_process, "_run", self._run)
        monkeypatch.setattr(Channel, "open", self._open)

    async def _run(
        self, counts: int, sockets: Sequence[socket.socket]
    ) -> tuple[FakeWorker, FakeWorker]:
        self.sockets = sockets
        await asyncio.sleep(self.delay_s)
        start_s = self.start_s.pop(0) if len(self.start_s) > 1 else self.start_s[0]
        worker = FakeWorker(100 + len(self.started), start_s)
        self.started.append(worker)
        return worker, worker

    @staticmethod
    async def _open(channel: Channel, worker: FakeWorker) -> None:
        worker.connect(channel)

    def told(self, *names: str) -> list[list[tuple[Any, ...]]]:
        """The messages of these names to each."""
        return [[each for each in worker.told if each[0] in names] for worker in self.started]


Scenario = Callable[[Supervisor, FakeWorkers], Awaitable[None]]


class Supervised:
    """Runs scenarios with a supervisor of fake workers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def run(
        self, scenario: Scenario, workers: int = 2, starts: bool = True, **settings: Any
    ) -> Log:
        """Run a scenario with a gate that has started, or not; then stop it. Returns what was
        logged. At the end no task is left."""

        async def main() -> None:
            fakes = FakeWorkers(self._monkeypatch)
            running = Supervisor(replace(DEFAULTS, port=0, **settings), workers)
            async with asyncio.timeout(_LIMIT_S):
                if starts:
                    await running.start()
                await scenario(running, fakes)
                await running.stop()
            await asyncio.sleep(1)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert all(worker.returncode is not None for worker in fakes.started)

        with captured_log() as log:
            virtual_clock.run(main)
        return log


def now_s() -> float:
    return asyncio.get_running_loop().time()


def hold_up(seconds: float) -> None:
    """Stop this process for a time."""
    loop = cast(virtual_clock.VirtualClockLoop, asyncio.get_running_loop())
    loop._now += seconds
