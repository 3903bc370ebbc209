"""A worker's process, as the supervisor sees it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import rustygate
from rustygate.config import Settings
from rustygate.control_plane import ControlPlane
from rustygate.core.clients import Clients
from rustygate.core.own_connections import SocketName
from rustygate.workers.service import WorkerService

_PROGRAM = "rustygate.workers"


class WorkerProcess:
    """A process that was started, and its channel.

    Attributes:
        number: which of the workers it is, from 1.
        ready: done once it serves, and cancelled if it ends before.
    """

    def __init__(
        self,
        number: int,
        control: ControlPlane,
        on_connected: Callable[[SocketName, SocketName], None],
    ) -> None:
        """`on_connected`: called with the ends of a connection that it opened to this gate."""
        self.number = number
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self._lost = asyncio.Event()
        self._service = WorkerService(
            control,
            {"ready": self._on_ready, "alive": lambda: None, "connected": on_connected},
            self._lost.set,
        )
        self.tell = self._service.channel.tell
        self._process: asyncio.subprocess.Process

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.number}, {self._service}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def silent_s(self) -> float:
        """How long it has sent nothing."""
        return asyncio.get_running_loop().time() - self._service.channel.heard_at

    @property
    def in_flight(self) -> int:
        """How many exchanges it has in flight."""
        return len(self._service.in_flight)

    async def start(
        self, sockets: Sequence[socket.socket], settings: Settings, clients: Clients | None
    ) -> None:
        """Start it. `ready` is done later."""
        ours, theirs = socket.socketpair()
        descriptors = [theirs.fileno(), *(sock.fileno() for sock in sockets)]
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                # Not from the working directory, where another version may be.
                "-P",
                "-m",
                _PROGRAM,
                *map(str, descriptors),
                pass_fds=descriptors,
                env=os.environ | {"PYTHONPATH": _search_path()},
            )
        await self._service.channel.open(ours)
        self.tell("start", settings, clients)

    def _on_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    async def ended(self) -> tuple[str, int]:
        """Wait for its end. Returns how it ended, and how many exchanges were cut off."""
        code = await self._process.wait()
        # What it told before is in the channel.
        await self._lost.wait()
        self.ready.cancel()
        return _describe(code), self._service.end()

    def suspend(self) -> None:
        """It is silent: others need not wait for it."""
        self._service.suspend()

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            self._process.kill()


def _search_path() -> str:
    """Where the new process finds this package, and what else this one was told to use."""
    package = str(Path(rustygate.__file__).parents[1])
    given = os.environ.get("PYTHONPATH")
    return f"{package}{os.pathsep}{given}" if given else package


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
