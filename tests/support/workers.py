"""A gate whose data planes reach its control plane as workers do, all on the test's event loop."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from rustygate.access.client_auth import ClientAuth
from rustygate.config import Settings
from rustygate.control_plane import ControlPlane
from rustygate.core.clients import ClientChanges, Clients
from rustygate.daemon import Daemon
from rustygate.data_plane import DataPlane, Siblings
from rustygate.downstream.listener import Listener
from rustygate.system.shared_counts import SharedCounts
from rustygate.workers.channel import Channel
from rustygate.workers.remote_control import RemoteControl
from rustygate.workers.service import WorkerService
from rustygate.workers.worker import ALIVE_INTERVAL_S
from tests.support.waiting import until

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing

CLOSE_LIMIT_S = 5.0


class ChannelledWorker:
    """A data plane, both ends of its channel, and what the supervisor does for it.

    Attributes:
        plane: the data plane, after `start`.
    """

    plane: DataPlane

    def __init__(
        self, control: ControlPlane, make_room: Callable[["ChannelledWorker"], Awaitable[bool]]
    ) -> None:
        """`make_room`: asks the others to close an idle connection."""
        self._control = control
        self._auth = ClientAuth(None)
        self._lost = asyncio.Event()
        self._service = WorkerService(
            control,
            {"alive": lambda: None},
            self._lost.set,
            {"make_room": lambda: make_room(self)},
        )
        self._channel = Channel(
            {}, {"make_room": self._make_room}, lambda: self.remote.gate.close()
        )
        self.remote = RemoteControl(self._channel)

    async def start(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        counts: SharedCounts,
        number: int,
        tracing: "Tracing | None",
    ) -> None:
        ours, theirs = socket.socketpair()
        await self._service.channel.open(ours)
        await self._channel.open(theirs)
        self.set_clients(self._control.auth.in_force)
        siblings = Siblings(counts.of(number), self.remote.make_room)
        self.plane = DataPlane(settings, sockets, self.remote, self._auth, tracing, siblings)
        await self.plane.start()

    async def _make_room(self) -> bool:
        return self.plane.make_room()

    async def make_room(self) -> bool:
        """Ask it to close an idle connection."""
        found: bool = await self._service.channel.ask("make_room")
        return found

    def set_clients(self, clients: Clients | None) -> None:
        self._auth.replace(clients)
        self.remote.spending.set_limits(self._auth.spending_limits)

    async def stop(self) -> None:
        await self.plane.stop()
        await self._channel.close(CLOSE_LIMIT_S)
        # What was told is read before the end.
        await until(self._lost.is_set)
        assert self._service.end() == 0


class ChannelledDaemon(Daemon):
    """A `Daemon` with this many data planes."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket] = (),
        tracing: "Tracing | None" = None,
        *,
        workers: int,
    ) -> None:
        super().__init__(settings, sockets, tracing)
        self._listener = Listener(settings, sockets)
        self._count = workers
        self._workers: list[ChannelledWorker] = []

    @property
    def planes(self) -> list[DataPlane]:
        return [worker.plane for worker in self._workers]

    @property
    def url(self) -> str:
        return self._listener.url

    async def start(self) -> None:
        await self._control.open()
        try:
            await self._listener.bind()
        except OSError:
            await self._control.close()
            raise
        counts = SharedCounts.create(self._count)
        for number in range(self._count):
            await self._start_worker(counts, number)
        counts.close()
        self._data = self._workers[0].plane
        self._alive = asyncio.create_task(self._tell_alive())

    async def _tell_alive(self) -> None:
        """As workers do all the time."""
        while True:
            for worker in self._workers:
                worker.remote.gate.tell_alive()
            await asyncio.sleep(ALIVE_INTERVAL_S)

    async def _start_worker(self, counts: SharedCounts, number: int) -> None:
        sockets = [sock.dup() for sock in self._listener.sockets]
        worker = ChannelledWorker(self._control, self._make_room)
        await worker.start(self._settings, sockets, counts, number, self._tracing)
        self._workers.append(worker)

    async def _make_room(self, asking: ChannelledWorker) -> bool:
        for worker in self._workers:
            if worker is not asking and await worker.make_room():
                return True
        return False

    def reload(self) -> ClientChanges | None:
        changes = super().reload()
        for worker in self._workers:
            worker.set_clients(self._control.auth.in_force)
        return changes

    async def drain(self) -> None:
        self._control.gate.close()
        self._listener.close()
        await asyncio.gather(*(plane.drain() for plane in self.planes))

    async def stop(self) -> None:
        self._control.gate.close()
        self._listener.close()
        if not self._workers:
            return
        self._alive.cancel()
        for worker in self._workers:
            await worker.stop()
        self._workers.clear()
        await self._control.close()

    @property
    def unfinished(self) -> int:
        running = sum(plane.running for plane in self.planes)
        return running - self._control.gate.snapshot()["waiters"]

    @property
    def viewers(self) -> int:
        return sum(plane.viewers for plane in self.planes)

    def snapshot(self) -> dict[str, int]:
        held = sum(plane.snapshot()["held_bytes"] for plane in self.planes)
        return self._control.gate.snapshot() | {"held_bytes": held}
