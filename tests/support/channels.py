"""Both ends of a worker's channel on one event loop, without sockets: for a virtual clock, and to
hold messages up."""

import asyncio
from typing import Any

from rustygate.workers.channel import Answerer, Channel, Handler


class Pipe(asyncio.Transport):
    """Carries what one end writes to the other, in the next turn of the event loop.

    Attributes:
        writes: everything that was written, each write by itself.
        is_held: whether it keeps what is written for later.
    """

    def __init__(self, to: asyncio.Protocol | None = None) -> None:
        super().__init__()
        self._to = to
        self._loop = asyncio.get_running_loop()
        self._kept: list[bytes] = []
        self.writes: list[bytes] = []
        self.is_held = False

    def write(self, data: Any) -> None:
        self.writes.append(data)
        self._kept.append(data)
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        if not self.is_held:
            kept, self._kept = self._kept, []
            for data in kept:
                if self._to is not None:
                    self._to.data_received(data)

    def release(self) -> None:
        """Deliver what was held."""
        self.is_held = False
        self._deliver()

    def close(self) -> None:
        """The other end has gone."""
        self._to = None


class Link:
    """Two channels that are connected: the supervisor's and a worker's."""

    def __init__(self, supervisor: Channel, worker: Channel) -> None:
        self._supervisor, self._worker = supervisor, worker
        self.to_worker, self.to_supervisor = Pipe(worker), Pipe(supervisor)
        supervisor.connection_made(self.to_worker)
        worker.connection_made(self.to_supervisor)

    def hold(self) -> None:
        """Nothing arrives any more, as if the worker's process was stopped."""
        self.to_worker.is_held = self.to_supervisor.is_held = True

    def release(self) -> None:
        """What was held arrives."""
        self.to_worker.release()
        self.to_supervisor.release()

    def cut(self) -> None:
        """The worker is gone."""
        self.to_supervisor.close()
        self.to_worker.close()
        self._supervisor.connection_lost(None)


def make_channel(
    handlers: dict[str, Handler] | None = None, answerers: dict[str, Answerer] | None = None
) -> Channel:
    """A channel that need not know that it is lost."""
    return Channel(handlers or {}, answerers or {}, lambda: None)
