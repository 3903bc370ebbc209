"""The life cycle of a gate: start, reload, drain, stop; of one process or several."""

from abc import ABC, abstractmethod
from typing import Self

from rustygate.control_plane import ControlPlane
from rustygate.core.clients import ClientChanges
from rustygate.system.tls import ServerCertificate
from rustygate.telemetry.usage.recorder import UsageRecorder


class WorkersFailed(Exception):
    """The workers of a gate did not start; they have logged why."""


class GateLifecycle(ABC):
    """A running gate: `start` it, `drain` it for a graceful end, and `stop` it.

    As an async context manager it starts and stops.
    """

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @abstractmethod
    async def start(self) -> None:
        """Bind and serve.

        Raises OSError if the address is not available, DataDirInUse if another gate uses DATA_DIR,
        ClientsError if the clients file is invalid, and WorkersFailed if not all workers start.
        """

    def reload(self) -> ClientChanges | None:
        """Read the clients file again; returns what has changed, or None if there is no file.

        Raises ClientsError and changes nothing if the file is invalid.
        """
        return self._control.reload()

    @abstractmethod
    async def drain(self) -> None:
        """Stop listening, refuse the waiters, and wait up to DRAIN_TIMEOUT for the exchanges in
        flight."""

    @abstractmethod
    async def stop(self) -> None:
        """Close everything and abort the exchanges that still run."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The address that it listens on, after `start`."""

    @property
    @abstractmethod
    def certificate(self) -> ServerCertificate | None:
        """The certificate that it serves HTTPS with, if it does."""

    @property
    @abstractmethod
    def unfinished(self) -> int:
        """The exchanges that draining waits for: all but the waiters, which are refused."""

    @property
    def usage(self) -> UsageRecorder:
        """The usage record, after `start`."""
        return self._control.usage

    @property
    def usage_place(self) -> str:
        """Where the usage record is, in words."""
        return self._control.usage_place
