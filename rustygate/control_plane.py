"""What a gate has once, however many processes serve its clients: budgets and their queue, the
usage record, metrics, and the state that the live page shows.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from loguru import logger

from rustygate.access.budget_checks import unkept_budgets
from rustygate.access.client_auth import ClientAuth
from rustygate.admission.client_budgets import Spending
from rustygate.admission.gate import Gate
from rustygate.admission.levels_file import LevelsFile
from rustygate.config import Settings
from rustygate.core.clients import ClientChanges, ClientsError, compare_clients
from rustygate.core.price_list import PriceList
from rustygate.core.usage_rows import UsageQuery
from rustygate.dashboard.histories import Histories
from rustygate.dashboard.state import StateBuilder
from rustygate.dashboard.usage_report import usage_report
from rustygate.dashboard.usage_view import UsageView
from rustygate.system.data_dir import DataDir, data_dir_warning
from rustygate.telemetry.labels import ExchangeLabels
from rustygate.telemetry.metrics import Metrics
from rustygate.telemetry.tally import Tally
from rustygate.telemetry.usage.memory_store import MemoryUsageStore
from rustygate.telemetry.usage.opening import open_usage_store, usage_place
from rustygate.telemetry.usage.prices import load_prices
from rustygate.telemetry.usage.recorder import UsageRecorder
from rustygate.telemetry.usage.spending import load_spending
from rustygate.telemetry.usage.store import UsageStore
from rustygate.telemetry.worker_metrics import Workers, one_process

if TYPE_CHECKING:
    from rustygate.admission.group.store import Store


class ControlPlane:
    """The parts of a gate that exist once: `open` them, and `close` them.

    Attributes, after `open`:
        auth: the clients in force.
        gate, spending, tally: what admits, budgets and counts exchanges.
        usage: the usage record; `usage_place` is where it is, in words.
    """

    def __init__(self, settings: Settings, workers: Workers = one_process) -> None:
        """`workers`: the processes that serve its clients, if there are several."""
        self._settings = settings
        self._workers = workers

    async def open(self) -> None:
        """Read what is kept in files, and join the group.

        Raises DataDirInUse if another gate uses DATA_DIR, and ClientsError if the clients file is
        invalid.
        """
        settings = self._settings
        prices = load_prices(settings)
        self._data_dir = _open_data_dir(settings)
        store = await open_usage_store(settings, self._data_dir)
        self.usage_place = usage_place(settings, store)
        self.auth = await self._load_clients(prices, store)
        self.gate = Gate(settings, await _group_store(settings))
        self.spending = _open_spending(settings, prices, self.gate)
        self._labels = ExchangeLabels(self.gate.lanes)
        self._metrics = Metrics(self.gate, self._labels, self.spending, self._workers)
        self.usage = UsageRecorder(store, prices)
        self.tally = Tally(self._metrics, self.usage, self.spending)
        self._apply_clients()
        self._loading = None
        if self.spending.reads_usage:
            self._loading = await load_spending(self.spending, self.usage)
        self.spending.start()
        self._levels = _open_levels(self._data_dir, self.gate, self.spending)
        self._histories = Histories(self.gate, self._metrics)
        self._usage_view = UsageView(self.usage)
        self._state = StateBuilder(
            self.gate,
            self._metrics,
            self.tally.recent,
            self._histories,
            self._usage_view,
            lambda: self.auth.clients,
            self.spending.left,
            self._workers,
        )
        self._histories.start()

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
        before = self.auth.clients
        self.auth.reload()
        self._apply_clients()
        if self._settings.clients_file is None:
            return None
        return compare_clients(before, self.auth.clients)

    def _apply_clients(self) -> None:
        limits = self.auth.limits
        self.gate.limit_clients(limits, self.auth.weights, self.auth.version)
        self.spending.set_limits(self.auth.spending_limits)
        # After a restart, the usage record must show what each of these clients has spent.
        self._labels.reserve_clients(
            name for name, spending in self.auth.spending_limits.items() if spending
        )
        self._metrics.announce_clients(limits)

    async def close(self) -> None:
        """Write everything, and leave the group. If a part fails, the others still close."""
        async with AsyncExitStack() as closed_in_reverse:
            if self._data_dir is not None:
                closed_in_reverse.callback(self._data_dir.close)
            closed_in_reverse.push_async_callback(self.usage.close)
            if self._levels is not None:
                closed_in_reverse.push_async_callback(self._levels.close)
                self._levels = None
            closed_in_reverse.callback(self.tally.close)
            closed_in_reverse.push_async_callback(self.gate.leave_group)
            closed_in_reverse.push_async_callback(self.spending.close)
            closed_in_reverse.callback(self._histories.stop)
            closed_in_reverse.push_async_callback(self._usage_view.close)
            if self._loading is not None:
                closed_in_reverse.callback(self._loading.cancel)

    # What the pages show, as text.

    async def readiness(self) -> Mapping[str, str]:
        """What /ready says: a gate that is alone still serves."""
        return readiness(self.gate)

    async def metrics_text(self) -> bytes:
        """The metrics, in Prometheus' text format."""
        return self._metrics.text()

    async def state_text(self) -> str:
        """The state for the live page, as JSON."""
        return _json(await self._state.build())

    async def usage_text(self, query: UsageQuery) -> str:
        """The rows of a usage report, as JSON. Raises a refusal if they cannot be read."""
        return await usage_report(self.usage.rows_by, query)

    async def budgets_text(self) -> str:
        """The budgets of clients, as JSON."""
        return _json(self.spending.rows())


def readiness(gate: Gate) -> dict[str, str]:
    """What /ready says of a gate."""
    state = {"status": "draining" if gate.closed else "ready"}
    if gate.member is not None:
        state["group"] = gate.member.state
    return state


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _open_spending(settings: Settings, prices: PriceList, gate: Gate) -> Spending:
    """The budgets of clients: the gate's own, or those of its group."""
    member = gate.member
    if member is None:
        return Spending(prices)
    from rustygate.admission.group.spending import GroupSpending

    return GroupSpending.of(settings, prices, lambda: member.members)


def _open_levels(data_dir: DataDir | None, gate: Gate, spending: Spending) -> LevelsFile | None:
    """Restore the levels from the gate's directory, if it has one, and save them there."""
    if data_dir is None:
        return None
    levels = LevelsFile(data_dir.path, gate, spending)
    levels.load()
    levels.start()
    return levels


def _open_data_dir(settings: Settings) -> DataDir | None:
    """The gate's data directory, if it has one and its group does not keep the data instead."""
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
    # Not imported without a group, to save memory.
    from rustygate.admission.group.redis_store import RedisStore

    store = RedisStore.of(settings)
    await store.open()
    return store
