"""A worker: the data plane of a gate in a process of its own.

It ends when its supervisor says so or is gone. SIGTERM drains this worker alone, and its
supervisor replaces it.
"""

import asyncio
import signal
import socket
from collections.abc import Sequence

from loguru import logger

from rustygate.access.client_auth import ClientAuth
from rustygate.config import Settings
from rustygate.core.clients import Clients
from rustygate.core.own_connections import SocketName
from rustygate.data_plane import DataPlane, Siblings
from rustygate.system.garbage_collector import tune_garbage_collector
from rustygate.system.shared_counts import SharedCounts
from rustygate.telemetry import log
from rustygate.telemetry.tracing import configure_tracing
from rustygate.workers.channel import Channel
from rustygate.workers.remote_control import RemoteControl
from rustygate.workers.shared_certificate import CertificateCopy, Pair

# How often a worker reports that it runs.
ALIVE_INTERVAL_S = 0.25

# How long the last messages may take to reach the supervisor.
_CLOSE_LIMIT_S = 5.0


class Worker:
    """Serves clients from a supervisor's message `start` until it is told to drain or stop.

    Args:
        sockets: those that it accepts connections from.
        counts: of all workers.
    """

    def __init__(self, sockets: Sequence[socket.socket], counts: SharedCounts) -> None:
        self._sockets = sockets
        self._counts = counts
        self._ports = {sock.getsockname()[1] for sock in sockets if sock.family != socket.AF_UNIX}
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[tuple[Settings, int]]
        self._started = self._loop.create_future()
        self._draining, self._stopping = asyncio.Event(), asyncio.Event()
        self._auth = ClientAuth(None)
        self._data: DataPlane | None = None
        self._certificate: CertificateCopy | None = None
        self.channel = Channel(
            {
                "start": self._on_start,
                "clients": self._on_clients,
                "certificate": self._on_certificate,
                "drain": self._draining.set,
                "stop": self._stop,
                "sibling": self._on_sibling,
            },
            {"make_room": self._make_room},
            self._on_lost,
        )
        self._control = RemoteControl(self.channel)
        self._alive_timer: asyncio.TimerHandle | None = None

    async def run(self, sock: socket.socket) -> None:
        """Serve; `sock` is its end of the channel."""
        await self.channel.open(sock)
        stopped = self._loop.create_task(self._stopping.wait())
        serving = self._loop.create_task(self._serve())
        await asyncio.wait((serving, stopped), return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        stopped.cancel()
        await asyncio.wait((serving, stopped))
        if self._data is not None:
            await self._data.stop()
        if self._alive_timer is not None:
            self._alive_timer.cancel()
        await self.channel.close(_CLOSE_LIMIT_S)
        if not serving.cancelled():
            serving.result()

    async def _serve(self) -> None:
        settings, number = await self._started
        log.configure(settings.rust_log, settings.log_format)
        self._data = DataPlane(
            settings,
            self._sockets,
            self._control,
            self._auth,
            configure_tracing(settings),
            Siblings(self._counts.of(number), self._control.make_room),
        )
        self._data.own_connections.on_added = self._on_connected
        await self._data.start()
        self._loop.add_signal_handler(signal.SIGTERM, self._drain_alone)
        # It may have come while this process started.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        tune_garbage_collector()
        self._tell_alive()
        self.channel.tell("ready")
        await self._draining.wait()
        await self._data.drain()

    def _drain_alone(self) -> None:
        self.channel.tell("draining")
        self._draining.set()

    def _tell_alive(self) -> None:
        self._control.gate.tell_alive()
        self._alive_timer = self._loop.call_later(ALIVE_INTERVAL_S, self._tell_alive)

    def _on_connected(self, local: SocketName, remote: SocketName) -> None:
        """Report a connection to upstream that leads to this gate: another worker may get it."""
        if isinstance(remote, tuple) and remote[1] in self._ports:
            self.channel.tell("connected", local, remote)

    # Messages and questions of the supervisor.

    def _on_sibling(self, local: SocketName, remote: SocketName) -> None:
        if self._data is not None:
            self._data.own_connections.add_sibling(local, remote)

    async def _make_room(self) -> bool:
        """Another worker has no room for a connection, and none that is idle."""
        return self._data is not None and self._data.make_room()

    def _on_start(
        self, settings: Settings, number: int, clients: Clients | None, pair: Pair | None
    ) -> None:
        if pair is not None:
            self._certificate = CertificateCopy()
            self._certificate.write(pair)
            settings = self._certificate.in_settings(settings)
        self._started.set_result((settings, number))
        self._on_clients(clients)

    def _on_clients(self, clients: Clients | None) -> None:
        self._auth.replace(clients)
        self._control.spending.set_limits(self._auth.spending_limits)

    def _on_certificate(self, pair: Pair | None) -> None:
        if self._certificate is not None and pair is not None:
            self._certificate.write(pair)
        # A worker that starts reads it later.
        certificate = self._data and self._data.certificate
        problem = certificate and certificate.reload()
        if problem is not None:
            logger.error("reload failed, previous TLS certificate stays in force: {}", problem)

    def _stop(self) -> None:
        self._stopping.set()

    def _on_lost(self) -> None:
        """The supervisor has gone: exchanges in flight may finish."""
        self._control.gate.close()
        if not self._started.done():
            self._stopping.set()
        elif not self._draining.is_set() and not self._stopping.is_set():
            logger.error("the supervisor has ended: this worker drains")
            self._draining.set()
