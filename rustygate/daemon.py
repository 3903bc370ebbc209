"""A gate in one process.

The command line runs one `Daemon` until a signal arrives. Tests run daemons with the same options
as in production. With WORKERS, it runs a `Supervisor` instead.
"""

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rustygate.config import Settings
from rustygate.control_plane import ControlPlane
from rustygate.data_plane import DataPlane
from rustygate.lifecycle import GateLifecycle
from rustygate.system.tls import ServerCertificate

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing


class Daemon(GateLifecycle):
    """A running gate."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket] = (),
        tracing: "Tracing | None" = None,
    ) -> None:
        """If there are inherited `sockets`, it listens on them instead of the address in the
        settings."""
        super().__init__(ControlPlane(settings))
        self._settings = settings
        self._sockets = sockets
        self._tracing = tracing
        self._data: DataPlane | None = None

    @property
    def url(self) -> str:
        return self._plane.url

    async def start(self) -> None:
        control = self._control
        await control.open()
        self._data = DataPlane(self._settings, self._sockets, control, control.auth, self._tracing)
        try:
            await self._data.start()
        except OSError:
            await self.stop()
            raise

    @property
    def _plane(self) -> DataPlane:
        assert self._data is not None
        return self._data

    @property
    def certificate(self) -> ServerCertificate | None:
        return self._plane.certificate

    async def drain(self) -> None:
        await self._plane.drain()

    async def stop(self) -> None:
        if self._data is not None:
            try:
                await self._data.stop()
            finally:
                await self._control.close()

    @property
    def unfinished(self) -> int:
        return self._plane.running - self._control.gate.snapshot()["waiters"]

    @property
    def viewers(self) -> int:
        """The number of viewers of the live page."""
        return self._plane.viewers

    def snapshot(self) -> dict[str, int]:
        """The live numbers: waiters, exchanges in flight, bytes of buffered request bodies."""
        return self._plane.snapshot()
