"""The supervisor of a gate with several processes.

It binds the address, owns the control plane, and starts workers that accept connections from the
same sockets. A worker that ends is replaced; if it keeps ending soon, the delay grows. One that is
silent is first suspended, because a stopped process may resume and a busy machine recover, and
killed only if it stays silent for long.
"""

import asyncio
import socket
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from loguru import logger

from rustygate.config import Settings
from rustygate.control_plane import ControlPlane
from rustygate.core.clients import ClientChanges
from rustygate.core.plural import counted
from rustygate.downstream.listener import Listener
from rustygate.lifecycle import GateLifecycle, WorkersFailed
from rustygate.system.background import repeat, start_task
from rustygate.system.shared_counts import SharedCounts
from rustygate.system.tls import ServerCertificate
from rustygate.telemetry.worker_metrics import WorkerStatus
from rustygate.workers.restart_delay import RestartDelay
from rustygate.workers.shared_certificate import SharedCertificate
from rustygate.workers.worker_process import SUSPEND_AFTER_S, WorkerProcess

# How often workers are checked; how long one may be silent before it is killed, and how long it
# may take to start.
_CHECK_INTERVAL_S = 0.25
END_AFTER_S = 30.0
_START_LIMIT_S = 60.0

# How much longer than DRAIN_TIMEOUT workers may take to drain, and how long to stop.
_GRACE_S = 5.0


class Supervisor(GateLifecycle):
    """A running gate of several processes.

    Args:
        workers: how many processes serve clients.
        end_after_s: how long one may be silent before it is killed.
    """

    def __init__(
        self,
        settings: Settings,
        workers: int,
        sockets: Sequence[socket.socket] = (),
        end_after_s: float = END_AFTER_S,
    ) -> None:
        super().__init__(ControlPlane(settings, self.statuses))
        self._settings = settings
        self._count = workers
        self._counts: SharedCounts
        self._end_after_s = end_after_s
        self._listener = Listener(settings, sockets)
        self._certificate: SharedCertificate | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._restarts: Counter[int] = Counter()
        self._delays: defaultdict[int, RestartDelay] = defaultdict(RestartDelay)
        self._keeping: list[asyncio.Task[None]] = []
        self._checking: list[asyncio.Task[None]] = []
        self._ending = asyncio.Event()
        self._is_open = self._is_serving = False

    @property
    def url(self) -> str:
        return self._listener.url

    async def start(self) -> None:
        """Returns when all workers serve. Also raises WorkersFailed."""
        await self._control.open()
        self._is_open = True
        self._counts = SharedCounts.create(self._count)
        try:
            await self._listener.bind()
            self._certificate = self._load_certificate()
            await self._start_workers()
        except BaseException:
            await self.stop()
            raise
        self._is_serving = True

    def _load_certificate(self) -> SharedCertificate | None:
        settings = self._settings
        if settings.tls_cert_file is None or settings.tls_key_file is None:
            return None
        return SharedCertificate(settings.tls_cert_file, settings.tls_key_file, self._tell_all)

    async def _start_workers(self) -> None:
        for number in range(1, self._count + 1):
            await self._start_worker(number)
            self._keeping.append(_repeat(f"replacing worker {number}", self._replace, number))
            self._checking.append(_repeat(f"checking worker {number}", self._check, number))
        if not all(await asyncio.gather(*(each.ready for each in self._workers.values()))):
            raise WorkersFailed

    async def _start_worker(self, number: int) -> None:
        worker = WorkerProcess(
            number,
            self._control,
            self._counts,
            partial(self._tell_all, "sibling"),
            self._make_room,
        )
        await worker.start(self._listener.sockets, self._settings, self._certificate)
        self._workers[number] = worker
        if self._ending.is_set():
            # It was started too late to end with the others.
            worker.kill()

    # Checking and replacing workers.

    async def _replace(self, number: int) -> bool:
        """Wait for the end of a worker, and replace it, unless the gate ends."""
        worker = self._workers[number]
        cut_off = await worker.ended()
        if self._ending.is_set():
            return False
        if not self._is_serving and not await worker.ready:
            logger.error("{}", worker.end)
            return False
        delay_s = self._delays[number].next_s(worker.age_s)
        _log_end(worker, cut_off, delay_s)
        if await self._ends_within(delay_s):
            return False
        self._restarts[number] += 1
        await self._start_worker(number)
        return True

    async def _ends_within(self, seconds: float) -> bool:
        """Wait, unless the gate ends before."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        return self._ending.is_set()

    async def _check(self, number: int) -> bool:
        loop = asyncio.get_running_loop()
        due = loop.time() + _CHECK_INTERVAL_S
        await asyncio.sleep(_CHECK_INTERVAL_S)
        # If this process was held up itself, it has not read yet what the worker sent.
        if loop.time() - due <= _CHECK_INTERVAL_S:
            self._end_or_suspend(self._workers[number])
        return True

    def _end_or_suspend(self, worker: WorkerProcess) -> None:
        silent_s = worker.silent_s
        limit_s = self._end_after_s if worker.ready.done() else _START_LIMIT_S
        if silent_s > limit_s:
            worker.kill(f"it had not responded for {limit_s:g} s")
        elif silent_s > SUSPEND_AFTER_S:
            worker.suspend()

    async def _make_room(self, number: int) -> bool:
        """Make a worker other than this one close an idle connection; returns whether one had
        any."""
        for worker in list(self._workers.values()):
            if worker.number != number and worker.state == "serving" and await worker.make_room():
                return True
        return False

    def _tell_all(self, *message: object) -> None:
        for worker in self._workers.values():
            worker.tell(*message)

    # Reload, and the end.

    def reload(self) -> ClientChanges | None:
        changes = super().reload()
        self._tell_all("clients", self._control.auth.in_force)
        return changes

    @property
    def certificate(self) -> ServerCertificate | None:
        return self._certificate

    async def drain(self) -> None:
        self._ending.set()
        self._control.gate.close()
        self._listener.close()
        self._tell_to_end("drain")
        await self._all_ended(self._settings.drain_timeout + _GRACE_S)

    async def stop(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._ending.set()
        for checking in self._checking:
            checking.cancel()
        self._control.gate.close()
        self._listener.close()
        self._tell_to_end("stop")
        await self._all_ended(_GRACE_S)
        for worker in self._workers.values():
            worker.kill()
        await self._all_ended(_GRACE_S)
        self._counts.close()
        if self._certificate is not None:
            self._certificate.close()
        await self._control.close()

    def _tell_to_end(self, how: str) -> None:
        self._tell_all(how)
        for worker in self._workers.values():
            if not worker.ready.done():
                # It has no clients yet, and may take a while to start.
                worker.kill()

    async def _all_ended(self, limit_s: float) -> None:
        if self._keeping:
            await asyncio.wait(self._keeping, timeout=limit_s)

    # What is known of it.

    @property
    def unfinished(self) -> int:
        return sum(worker.in_flight for worker in self._workers.values())

    @property
    def pids(self) -> list[int]:
        """The processes of the workers."""
        return [worker.pid for worker in self._workers.values()]

    def statuses(self) -> list[WorkerStatus]:
        """The workers now, for the live page and the metrics."""
        return [worker.status(self._restarts[worker.number]) for worker in self._workers.values()]


def _repeat(what: str, step: Callable[[int], Awaitable[bool]], number: int) -> asyncio.Task[None]:
    """Repeat a step for a worker, in a task of its own."""
    return start_task(what, repeat(what, partial(step, number)))


def _log_end(worker: WorkerProcess, cut_off: int, delay_s: float) -> None:
    logger.log(
        "INFO" if worker.is_draining else "ERROR",
        "{}, {} cut off: another starts in {:g} s",
        worker.end,
        counted(cut_off, "exchange"),
        delay_s,
    )
