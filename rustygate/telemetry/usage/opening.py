"""Opens the store of a gate's usage record.

Only the modules of that store are imported: sqlite3 takes a megabyte.
"""

from loguru import logger

from rustygate.config import Settings
from rustygate.system.data_dir import DataDir
from rustygate.telemetry.usage.memory_store import MemoryUsageStore
from rustygate.telemetry.usage.store import UsageStore, UsageStoreUnusable


async def open_usage_store(settings: Settings, data_dir: DataDir | None) -> UsageStore:
    """The store of a gate: its group's Redis, a database in its directory, or memory."""
    if settings.redis_url is not None:
        from rustygate.telemetry.usage.redis_usage_store import RedisUsageStore

        return RedisUsageStore.of(settings)
    if data_dir is None:
        return MemoryUsageStore()
    from rustygate.telemetry.usage.sqlite_report import FILE_NAME
    from rustygate.telemetry.usage.sqlite_store import SqliteUsageStore

    store = SqliteUsageStore(data_dir.path / FILE_NAME)
    try:
        await store.open()
    except UsageStoreUnusable as error:
        logger.warning("usage is kept in memory, and lost when the gate stops: {}", error)
        return MemoryUsageStore()
    return store


def usage_place(settings: Settings, store: UsageStore) -> str:
    """Where the usage record of a gate is kept, for people."""
    if settings.redis_url is not None:
        return f"in the Redis of group {settings.gate_group}"
    if not isinstance(store, MemoryUsageStore):
        from rustygate.telemetry.usage.sqlite_report import FILE_NAME

        return f"{settings.data_dir}/{FILE_NAME}"
    advice = "; set DATA_DIR to keep it" if settings.data_dir is None else ""
    return f"in memory, lost when the gate stops{advice}"
