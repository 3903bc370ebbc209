"""The life cycle of a gate: start, reload, drain, stop.

The command line runs one `Daemon` until a signal arrives. Tests run daemons with the same options
as in production. With WORKERS, it runs a `Supervisor` instead, which has the same methods.
"""

import socket
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rustygate.config import Settings
from rustygate.control_plane import ControlPlane
from rustygate.core.clients import ClientChanges
from rustygate.data_plane import DataPlane
from rustygate.system.tls import ServerCertificate
from rustygate.telemetry.usage.recorder import UsageRecorder

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing


class Daemon:
    """A running gate: `start` it, `drain` it for a graceful end, and `stop` it.

    As an async context manager it starts and stops.
    """

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket] = (),
        tracing: "Tracing | None" = None,
    ) -> None:
        """If there are inherited `sockets`, it listens on them instead of the address in the
        settings."""
        self._settings = settings
        self._sockets = sockets
        self._tracing = tracing
        self._control = ControlPlane(settings)
        self._data: DataPlane | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The address that it listens on, after `start`."""
        return self._plane.url

    async def start(self) -> None:
        """Bind and serve.

        Raises OSError if the address is not available, DataDirInUse if another gate uses DATA_DIR,
        and ClientsError if the clients file is invalid.
        """
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

    def reload(self) -> ClientChanges | None:
        """Read the clients file again; returns what has changed, or None if there is no file.

        Raises ClientsError and changes nothing if the file is invalid.
        """
        return self._control.reload()

    @property
    def certificate(self) -> ServerCertificate | None:
        """The certificate that it serves HTTPS with, if it does."""
        return self._plane.certificate

    async def drain(self) -> None:
        """Stop listening, refuse the waiters, and wait up to DRAIN_TIMEOUT for the exchanges in
        flight."""
        await self._plane.drain()

    async def stop(self) -> None:
        """Close everything and abort the exchanges that still run."""
        if self._data is not None:
            await self._data.stop()
            await self._control.close()

    @property
    def usage(self) -> UsageRecorder:
        """The usage record, after `start`."""
        return self._control.usage

    @property
    def usage_place(self) -> str:
        """Where the usage record is, in words."""
        return self._control.usage_place

    @property
    def unfinished(self) -> int:
        """The exchanges that draining waits for: all but the waiters, which are refused."""
        return self._plane.running - self._control.gate.snapshot()["waiters"]

    @property
    def viewers(self) -> int:
        """The number of viewers of the live page."""
        return self._plane.viewers

    def snapshot(self) -> dict[str, int]:
        """The live numbers: waiters, exchanges in flight, bytes of buffered request bodies."""
        return self._plane.snapshot()
