"""What serves clients: the listener, the web application, and the connections to upstream."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rustygate.access.admin import AdminGuard
from rustygate.access.client_auth import ClientAuth
from rustygate.app import make_application, make_runner
from rustygate.config import Settings
from rustygate.control import Control
from rustygate.core.own_connections import OwnConnections
from rustygate.dashboard.pages import Dashboard
from rustygate.downstream.connections import (
    ConnectionLimiter,
    drain_connections,
    wait_for_heads,
)
from rustygate.downstream.listener import Listener
from rustygate.downstream.request_body import BodyBufferBudget
from rustygate.proxy import Proxy
from rustygate.system.lockstep import Lockstep
from rustygate.system.shared_counts import Counts, lone_counts
from rustygate.system.tls import ServerCertificate
from rustygate.telemetry.ledger import Ledger
from rustygate.upstream.client import UpstreamClient

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing

# For how long siblings are not asked again once none had an idle connection. Otherwise each of
# many new connections would wait for their answer before being rejected.
ASK_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Siblings:
    """The other processes that serve a gate's clients.

    Attributes:
        counts: what this process uses of the limits that they share.
        make_room: asks them to close an idle connection; returns whether one had any.
    """

    counts: Counts
    make_room: Callable[[], Awaitable[bool]]


class DataPlane:
    """Serves clients from `start` to `stop`."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        control: Control,
        auth: ClientAuth,
        tracing: "Tracing | None" = None,
        siblings: Siblings | None = None,
    ) -> None:
        """If there are inherited `sockets`, it listens on them instead of the address in the
        settings. It may share them and some limits with `siblings`."""
        self._settings = settings
        self._tracing = tracing
        self._siblings = siblings
        self._ask_again_at = 0.0
        counts = lone_counts() if siblings is None else siblings.counts
        self._listener = Listener(settings, sockets, counts.processes)
        lockstep = Lockstep()
        self._upstream = UpstreamClient(settings, lockstep)
        self._ledger = Ledger(control.tally, tracing)
        self._gate = control.gate
        self._proxy = Proxy(
            settings,
            control.gate,
            self._upstream,
            self._ledger,
            auth,
            control.spending,
            BodyBufferBudget(settings.queue_bytes, counts.body_bytes),
            tracing,
        )
        self._dashboard = Dashboard(control, settings.connection_limit, counts.viewers)
        admin = AdminGuard(settings, control.tally.count_refusal)
        application = make_application(self._proxy, control, admin, self._dashboard.pages)
        self._limiter = ConnectionLimiter(settings.connection_limit, counts.connections)
        self._runner = make_runner(application, self._limiter, lockstep)

    async def start(self) -> None:
        """Accept connections. Raises OSError if the address is not available."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        self._limiter.all_connections = lambda: server.connections
        await self._listener.open(
            server,
            self._limiter.refuse_plain_http,
            None if self._siblings is None else self._wait_for_room,
        )

    async def _wait_for_room(self) -> None:
        """If this process cannot admit a connection, let another one make room."""
        assert self._siblings is not None
        loop = asyncio.get_running_loop()
        if self._limiter.has_room() or loop.time() < self._ask_again_at:
            return
        if not await self._siblings.make_room():
            self._ask_again_at = loop.time() + ASK_PAUSE_S

    def make_room(self) -> bool:
        """Close the connection that has been idle longest; returns whether there is one."""
        return self._limiter.make_room()

    @property
    def own_connections(self) -> OwnConnections:
        """The open connections to upstream."""
        return self._upstream.own_connections

    @property
    def url(self) -> str:
        """The address that it listens on, after `start`."""
        return self._listener.url

    @property
    def certificate(self) -> ServerCertificate | None:
        """The certificate that it serves HTTPS with, if it does."""
        return self._listener.certificate

    async def drain(self) -> None:
        """Stop listening, refuse the waiters, and wait up to DRAIN_TIMEOUT for the exchanges in
        flight."""
        server, limit_s = self._runner.server, self._settings.drain_timeout
        assert server is not None
        self._gate.close()
        self._listener.close()
        drain_connections(server)
        await asyncio.gather(wait_for_heads(server, limit_s), self._proxy.running.finish(limit_s))

    async def stop(self) -> None:
        """Close all connections and abort the exchanges that still run."""
        self._gate.close()
        self._listener.close()
        self._listener.abort_handshakes()
        await self._proxy.running.finish(0)
        self._dashboard.close()
        await self._runner.cleanup()
        await self._upstream.close()
        self._ledger.close()
        if self._tracing is not None:
            await self._tracing.stop()

    @property
    def connections(self) -> int:
        """The open connections from clients."""
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    @property
    def running(self) -> int:
        """The exchanges that have not ended, waiters included."""
        return len(self._proxy.running)

    @property
    def viewers(self) -> int:
        """The number of viewers of the live page."""
        return self._dashboard.events.viewers

    def snapshot(self) -> dict[str, int]:
        """The live numbers: waiters, exchanges in flight, bytes of buffered request bodies."""
        return self._proxy.snapshot()
