"""A worker's process, as the supervisor sees it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from loguru import logger

import rustygate
from rustygate.config import Settings
from rustygate.control_plane import ControlPlane
from rustygate.core.own_connections import SocketName
from rustygate.system.shared_counts import SharedCounts
from rustygate.telemetry.worker_metrics import State, WorkerStatus
from rustygate.workers.channel import ChannelLost
from rustygate.workers.service import WorkerService
from rustygate.workers.shared_certificate import SharedCertificate

_PROGRAM = "rustygate.workers"

# A worker starts with these signals blocked, as they would end it before it can act on them. A
# terminal and programs such as `timeout` send them to all processes at once.
_BLOCKED_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)

# How long a worker may be silent before its waiters no longer hold up others.
SUSPEND_AFTER_S = 1.0

# How long a worker may take to look for an idle connection.
_ROOM_LIMIT_S = 0.5


class WorkerProcess:
    """A process that was started, and its channel.

    Attributes:
        number: which of the workers it is, from 1.
        ready: true once it serves, and false if it ends before.
        is_draining: whether a signal of its own told it to drain.
        end: how it ended, in words, after `ended`.
    """

    def __init__(
        self,
        number: int,
        control: ControlPlane,
        counts: SharedCounts,
        on_connected: Callable[[SocketName, SocketName], None],
        make_room: Callable[[int], Awaitable[bool]],
    ) -> None:
        """What it asks of the others.

        Args:
            on_connected: called with the ends of a connection that it opened to this gate.
            make_room: called with its number, to let others close an idle connection.
        """
        self.number = number
        self._place = number - 1
        self._shared_counts = counts
        self._counts = counts.of(self._place)
        self._control = control
        self.is_draining = False
        self.end = ""
        self._killed_because = ""
        loop = asyncio.get_running_loop()
        self._created_at = loop.time()
        self.ready: asyncio.Future[bool] = loop.create_future()
        self._lost = asyncio.Event()
        self._service = WorkerService(
            control,
            {
                "ready": self._on_ready,
                "alive": lambda: None,
                "connected": on_connected,
                "draining": self._on_draining,
            },
            self._lost.set,
            {"make_room": partial(make_room, number)},
        )
        self.tell = self._service.channel.tell
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.number}, {self._service}>"

    @property
    def pid(self) -> int:
        """Its process id; 0 before it starts."""
        return 0 if self._process is None else self._process.pid

    @property
    def age_s(self) -> float:
        """How long ago it was created, just before its start."""
        return asyncio.get_running_loop().time() - self._created_at

    @property
    def silent_s(self) -> float:
        """How long it has sent nothing."""
        return asyncio.get_running_loop().time() - self._service.channel.heard_at

    @property
    def state(self) -> State:
        if self._lost.is_set():
            return "ended"
        if self.is_draining:
            return "draining"
        if not self.ready.done():
            return "starting"
        return "silent" if self.silent_s > SUSPEND_AFTER_S else "serving"

    def status(self, restarts: int) -> WorkerStatus:
        """What the live page shows of it; `restarts`: how many processes it replaced."""
        return WorkerStatus(
            self.number,
            self.pid,
            self.state,
            self.in_flight,
            self._counts.connections.own,
            restarts,
        )

    @property
    def in_flight(self) -> int:
        """How many exchanges it has in flight."""
        return len(self._service.in_flight)

    async def start(
        self,
        sockets: Sequence[socket.socket],
        settings: Settings,
        certificate: SharedCertificate | None,
    ) -> None:
        """Start it. `ready` completes later; if the system cannot start it, the worker counts as
        ended."""
        try:
            channel, self._process = await _run(self._shared_counts.descriptor, sockets)
        except OSError as error:
            self.end = f"worker {self.number} cannot start ({error.strerror})"
            self._lost.set()
            return
        await self._service.channel.open(channel)
        # The clients and the certificate of this moment: it has not heard of a reload until now.
        clients, pair = self._control.auth.in_force, certificate and certificate.pair
        self.tell("start", settings, self._place, clients, pair)
        logger.debug("worker {} started (pid {})", self.number, self.pid)

    def _on_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(True)

    def _on_draining(self) -> None:
        self.is_draining = True

    async def ended(self) -> int:
        """Wait for its end. Returns how many exchanges were cut off."""
        if self._process is not None:
            code = await self._process.wait()
            self.end = f"worker {self.number} (pid {self.pid}) {self._describe(code)}"
        # What it sent before its end is still in the channel.
        await self._lost.wait()
        self._counts.clear()
        if not self.ready.done():
            self.ready.set_result(False)
        return self._service.end()

    def _describe(self, code: int) -> str:
        if self.is_draining and code == 0:
            return "has drained"
        if self._killed_because:
            return f"was killed because {self._killed_because}"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    async def make_room(self) -> bool:
        """Let it close an idle connection; returns whether it has one."""
        try:
            async with asyncio.timeout(_ROOM_LIMIT_S):
                found: bool = await self._service.channel.ask("make_room")
        except (TimeoutError, ChannelLost):
            return False
        return found

    def suspend(self) -> None:
        """It is silent: others need not wait for it."""
        self._service.suspend()

    def kill(self, reason: str = "") -> None:
        """End it at once; `reason`: why."""
        self._killed_because = reason
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


async def _run(
    counts: int, sockets: Sequence[socket.socket]
) -> tuple[socket.socket, asyncio.subprocess.Process]:
    """Run the worker's program, with sockets to listen on. Returns this end of its channel."""
    ours, theirs = socket.socketpair()
    with theirs:
        descriptors = [theirs.fileno(), counts, *(sock.fileno() for sock in sockets)]
        try:
            return ours, await _execute(descriptors)
        except BaseException:
            ours.close()
            raise


async def _execute(descriptors: Sequence[int]) -> asyncio.subprocess.Process:
    with _signals_blocked():
        return await asyncio.create_subprocess_exec(
            sys.executable,
            # Not from the working directory, where another version may be.
            "-P",
            "-m",
            _PROGRAM,
            *map(str, descriptors),
            pass_fds=descriptors,
            env=os.environ | {"PYTHONPATH": _search_path()},
        )


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that starts meanwhile inherits it; this one gets its signals afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _search_path() -> str:
    """Where the new process finds modules: this package, then what this process was given."""
    package = str(Path(rustygate.__file__).parents[1])
    given = os.environ.get("PYTHONPATH")
    return f"{package}{os.pathsep}{given}" if given else package
