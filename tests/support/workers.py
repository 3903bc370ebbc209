"""A gate whose data planes reach its control plane as workers do, all on the test's event loop."""

import asyncio
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rustygate.access.client_auth import ClientAuth
from rustygate.config import Settings
from rustygate.core.clients import ClientChanges
from rustygate.daemon import Daemon
from rustygate.data_plane import DataPlane
from rustygate.downstream.listener import BACKLOG, Listener
from rustygate.workers.channel import Channel
from rustygate.workers.remote_control import RemoteControl
from rustygate.workers.service import WorkerService
from rustygate.workers.worker import ALIVE_INTERVAL_S
from tests.support.waiting import until

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing

CLOSE_LIMIT_S = 5.0


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
        self._planes: list[DataPlane] = []
        self._auths: list[ClientAuth] = []
        self._remotes: list[RemoteControl] = []
        self._channels: list[Channel] = []
        self._services: list[WorkerService] = []
        self._lost: list[asyncio.Event] = []

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
        for sock in self._listener.sockets:
            sock.listen(BACKLOG)
        for _ in range(self._count):
            await self._start_plane()
        self._data = self._planes[0]
        self._alive = asyncio.create_task(self._tell_alive())

    async def _tell_alive(self) -> None:
        """As workers do all the time."""
        while True:
            for remote in self._remotes:
                remote.gate.tell_alive()
            await asyncio.sleep(ALIVE_INTERVAL_S)

    async def _start_plane(self) -> None:
        lost = asyncio.Event()
        service = WorkerService(self._control, {"alive": lambda: None}, lost.set)
        remote: RemoteControl
        channel = Channel({}, {}, lambda: remote.gate.close())
        remote = RemoteControl(channel)
        ours, theirs = socket.socketpair()
        await service.channel.open(ours)
        await channel.open(theirs)
        auth = ClientAuth(None)
        auth.replace(self._control.auth.in_force)
        remote.spending.set_limits(auth.spending_limits)
        sockets = [sock.dup() for sock in self._listener.sockets]
        plane = DataPlane(
            self._settings, sockets, remote, auth, self._tracing, shares_sockets=True
        )
        self._planes.append(plane)
        self._auths.append(auth)
        self._remotes.append(remote)
        self._channels.append(channel)
        self._services.append(service)
        self._lost.append(lost)
        await plane.start()

    def reload(self) -> ClientChanges | None:
        changes = super().reload()
        for auth, remote in zip(self._auths, self._remotes, strict=True):
            auth.replace(self._control.auth.in_force)
            remote.spending.set_limits(auth.spending_limits)
        return changes

    async def drain(self) -> None:
        self._control.gate.close()
        self._listener.close()
        await asyncio.gather(*(plane.drain() for plane in self._planes))

    async def stop(self) -> None:
        self._control.gate.close()
        self._listener.close()
        if not self._planes:
            return
        self._alive.cancel()
        for plane, channel, service, lost in zip(
            self._planes, self._channels, self._services, self._lost, strict=True
        ):
            await plane.stop()
            await channel.close(CLOSE_LIMIT_S)
            # What was told is read before the end.
            await until(lost.is_set)
            assert service.end() == 0
        for each in (
            self._planes,
            self._auths,
            self._remotes,
            self._channels,
            self._services,
            self._lost,
        ):
            each.clear()
        await self._control.close()

    @property
    def unfinished(self) -> int:
        running = sum(plane.running for plane in self._planes)
        return running - self._control.gate.snapshot()["waiters"]

    @property
    def viewers(self) -> int:
        return sum(plane.viewers for plane in self._planes)

    def snapshot(self) -> dict[str, int]:
        held = sum(plane.snapshot()["held_bytes"] for plane in self._planes)
        return self._control.gate.snapshot() | {"held_bytes": held}
