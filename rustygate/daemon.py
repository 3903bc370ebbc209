"""The life cycle of a gate: start, reload, drain, stop.

The command line runs one `Daemon` until a signal arrives. Tests run daemons with the same options
as in production.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from loguru import logger

from rustygate.access.admin import AdminGuard
from rustygate.access.budget_checks import unkept_budgets
from rustygate.access.client_auth import ClientAuth
from rustygate.admission.client_budgets import Spending
from rustygate.admission.gate import Gate
from rustygate.admission.levels_file import LevelsFile
from rustygate.app import make_application, make_runner
from rustygate.config import Settings
from rustygate.core.clients import ClientChanges, ClientsError, compare_clients
from rustygate.core.price_list import PriceList
from rustygate.dashboard.histories import Histories
from rustygate.dashboard.pages import Dashboard
from rustygate.dashboard.state import StateBuilder
from rustygate.dashboard.usage_view import UsageView
from rustygate.downstream.connections import ConnectionLimiter, wait_for_heads
from rustygate.downstream.listener import Listener
from rustygate.proxy import Proxy
from rustygate.system.data_dir import DataDir, data_dir_warning
from rustygate.system.tls import ServerCertificate
from rustygate.telemetry.labels import ExchangeLabels
from rustygate.telemetry.ledger import Ledger
from rustygate.telemetry.metrics import Metrics
from rustygate.telemetry.usage.memory_store import MemoryUsageStore
from rustygate.telemetry.usage.opening import open_usage_store, usage_place
from rustygate.telemetry.usage.prices import load_prices
from rustygate.telemetry.usage.recorder import UsageRecorder
from rustygate.telemetry.usage.spending import load_spending
from rustygate.telemetry.usage.store import UsageStore
from rustygate.upstream.client import UpstreamClient

if TYPE_CHECKING:
    from rustygate.admission.group.store import Store
    from rustygate.telemetry.tracing.spans import Tracing


class Daemon:
    """A running gate: `start` it, `drain` it for a graceful end, and `stop` it.

    As an async context manager it starts and stops.

    Attributes:
        usage: the usage record, after `start`; `usage_place` is where it is, in words.
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
        self._tracing = tracing
        self._listener = Listener(settings, sockets)

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
        return self._listener.url

    async def start(self) -> None:
        """Bind and serve.

        Raises OSError if the address is not available, DataDirInUse if another gate uses DATA_DIR,
        and ClientsError if the clients file is invalid.
        """
        settings = self._settings
        prices = load_prices(settings)
        self._data_dir = _open_data_dir(settings)
        store = await open_usage_store(settings, self._data_dir)
        self.usage_place = usage_place(settings, store)
        self._auth = await self._load_clients(prices, store)
        self._gate = Gate(settings, await _group_store(settings))
        self._upstream = UpstreamClient(settings)
        self._spending = _open_spending(settings, prices, self._gate)
        self._labels = ExchangeLabels(self._gate.lanes)
        self._metrics = metrics = Metrics(self._gate, self._labels, self._spending)
        admin = AdminGuard(settings, metrics.count_refusal)
        self.usage = UsageRecorder(store, prices)
        self._ledger = Ledger(metrics, self.usage, self._spending, self._tracing)
        self._apply_clients()
        if self._spending.reads_usage:
            await load_spending(self._spending, self.usage)
        self._spending.start()
        self._levels = _open_levels(self._data_dir, self._gate)
        self._proxy = Proxy(
            settings,
            self._gate,
            self._upstream,
            self._ledger,
            self._auth,
            self._spending,
            self._tracing,
        )
        self._histories = Histories(self._gate, metrics)
        self._usage_view = UsageView(self.usage)
        state = StateBuilder(
            self._gate,
            metrics,
            self._ledger,
            self._histories,
            self._usage_view,
            lambda: self._auth.clients,
            self._spending.left,
        )
        self._dashboard = Dashboard(
            state.build, self.usage.rows_by, self._spending.rows, settings.connection_limit
        )
        application = make_application(
            self._proxy, self._gate, admin, metrics, self._dashboard.pages
        )
        limiter = ConnectionLimiter(settings.connection_limit)
        self._runner = make_runner(application, limiter)
        await self._runner.setup()
        assert self._runner.server is not None
        self._histories.start()
        try:
            await self._listener.open(self._runner.server, limiter.refuse_plain_http)
        except OSError:
            await self.stop()
            raise

    async def _load_clients(self, prices: PriceList, store: UsageStore) -> ClientAuth:
        settings = self._settings
        if isinstance(store, MemoryUsageStore):
            # DATA_DIR or the database in it may not have been usable.
            settings = replace(settings, data_dir=None)
        try:
            return ClientAuth(settings.clients_file, partial(unkept_budgets, settings, prices))
        except ClientsError:
            await store.close()
            if self._data_dir is not None:
                self._data_dir.close()
            raise

    def reload(self) -> ClientChanges | None:
        """Read the clients file again; returns what has changed, or None if there is no file.

        Raises ClientsError and changes nothing if the file is invalid.
        """
        before = self._auth.clients
        self._auth.reload()
        self._apply_clients()
        if self._settings.clients_file is None:
            return None
        return compare_clients(before, self._auth.clients)

    def _apply_clients(self) -> None:
        limits = self._auth.limits
        self._gate.limit_clients(limits, self._auth.weights, self._auth.version)
        self._spending.set_limits(self._auth.spending_limits)
        # After a restart, the usage record must show what each of these clients has spent.
        self._labels.reserve_clients(
            name for name, spending in self._auth.spending_limits.items() if spending
        )
        self._metrics.announce_clients(limits)

    @property
    def certificate(self) -> ServerCertificate | None:
        """The certificate that it serves HTTPS with, if it does."""
        return self._listener.certificate

    async def drain(self) -> None:
        """Stop listening, refuse the waiters, and wait up to DRAIN_TIMEOUT for the exchanges in
        flight."""
        self._gate.close()
        await self._listener.close_gracefully()
        limit_s = self._settings.drain_timeout
        assert self._runner.server is not None
        await asyncio.gather(
            wait_for_heads(self._runner.server, limit_s), self._proxy.finish(limit_s)
        )

    async def stop(self) -> None:
        """Close everything and abort the exchanges that still run."""
        self._gate.close()
        self._listener.close()
        self._listener.abort_handshakes()
        await self._proxy.finish(0)
        self._dashboard.close()
        await self._usage_view.close()
        self._histories.stop()
        await self._spending.close()
        await self._gate.leave_group()
        await self._runner.cleanup()
        await self._upstream.close()
        self._ledger.close()
        if self._levels is not None:
            await self._levels.close()
            self._levels = None
        await self.usage.close()
        if self._data_dir is not None:
            self._data_dir.close()
        if self._tracing is not None:
            await self._tracing.stop()

    @property
    def unfinished(self) -> int:
        """The exchanges that draining waits for: all but the waiters, which are refused."""
        return self._proxy.running - self._gate.snapshot()["waiters"]

    @property
    def viewers(self) -> int:
        """The number of viewers of the live page."""
        return self._dashboard.events.viewers

    def snapshot(self) -> dict[str, int]:
        """The live numbers: waiters, exchanges in flight, bytes of buffered request bodies."""
        return self._proxy.snapshot()


def _open_spending(settings: Settings, prices: PriceList, gate: Gate) -> Spending:
    """The budgets of clients: the gate's own, or those of its group."""
    member = gate.member
    if member is None:
        return Spending(prices)
    from rustygate.admission.group.spending import GroupSpending

    return GroupSpending.of(settings, prices, lambda: member.members)


def _open_levels(data_dir: DataDir | None, gate: Gate) -> LevelsFile | None:
    """Restore the levels from the gate's directory, if it has one, and save them there."""
    if data_dir is None:
        return None
    levels = LevelsFile(data_dir.path, gate)
    levels.load()
    levels.start()
    return levels


def _open_data_dir(settings: Settings) -> DataDir | None:
    """The directory of the gate's data, unless there is none or its group keeps the data."""
    if settings.data_dir is None or settings.redis_url is not None:
        return None
    try:
        return DataDir(settings.data_dir)
    except OSError as error:
        logger.warning("{}", data_dir_warning(settings.data_dir, error.strerror))
        return None


async def _group_store(settings: Settings) -> "Store | None":
    """The store of the gate's group, if it is in one."""
    if settings.redis_url is None:
        return None
    # The client library is an extra that a single gate does not need.
    from rustygate.admission.group.redis_store import RedisStore

    store = RedisStore.of(settings)
    await store.open()
    return store
