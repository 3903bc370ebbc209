"""Runs a gate until a command ends it; for `serve` and `demo`."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from loguru import logger

from rustygate.cli.budgets import check_budgets, invalid_clients
from rustygate.cli.errors import CommandError, cannot_listen
from rustygate.cli.signals import run_until_signal
from rustygate.cli.workers import worker_count, workers_warnings
from rustygate.config import Settings, mask_credentials, settings_warnings
from rustygate.core.clients import ClientsError
from rustygate.core.plural import counted
from rustygate.dashboard.pages import PREFIX as LIVE_PAGE
from rustygate.downstream.listener import AddressInUse
from rustygate.lifecycle import GateLifecycle, WorkersFailed
from rustygate.system.data_dir import DataDirInUse
from rustygate.system.garbage_collector import tune_garbage_collector
from rustygate.telemetry.tracing import configure_tracing


@asynccontextmanager
async def running_gate(
    settings: Settings,
    signals: asyncio.Queue[int],
    sockets: Sequence[socket.socket] = (),
    hints: Iterable[str] = (),
    announce: Callable[[str], None] = lambda url: None,
    watchdog_timeout_s: float = 0.0,
) -> AsyncIterator[GateLifecycle]:
    """A serving gate. When the context ends it drains, and a further signal stops it at once.

    Args:
        hints: warnings about the configuration besides those about the settings.
        announce: is called with the gate's URL before it is logged.
        watchdog_timeout_s: how long the service manager lets the gate hang; 0 for no limit.
    """
    if settings.redis_url is not None:
        from rustygate.cli.group_access import refuse_to_start

        await refuse_to_start(settings)
    check_budgets(settings)
    daemon = _make_daemon(settings, sockets, watchdog_timeout_s)
    try:
        await daemon.start()
    except ClientsError as error:
        raise invalid_clients(settings, error.problems) from error
    except DataDirInUse as error:
        raise CommandError(str(error)) from error
    except WorkersFailed as error:
        raise CommandError("the workers did not start; the lines above say why") from error
    except AddressInUse as error:
        raise CommandError(f"cannot listen on {settings.bind_address}: {error}") from error
    except OSError as error:
        port = None if settings.socket_path else settings.port
        raise cannot_listen(settings.bind_address, port, error) from error
    tune_garbage_collector()
    try:
        announce(daemon.url)
        log_listening(settings, daemon.url, daemon.usage_place, hints)
        yield daemon
        _log_draining(daemon.unfinished, settings.drain_timeout)
        await run_until_signal(daemon.drain(), signals)
    finally:
        await daemon.stop()
    logger.info("stopped")


def _make_daemon(
    settings: Settings, sockets: Sequence[socket.socket], watchdog_timeout_s: float
) -> GateLifecycle:
    workers = worker_count(settings)
    # A supervisor takes less memory without the modules that serve clients.
    if workers == 1:
        from rustygate.daemon import Daemon

        return Daemon(settings, sockets, configure_tracing(settings))
    from rustygate.workers.supervisor import END_AFTER_S, Supervisor

    hang_limit_s = min(watchdog_timeout_s or END_AFTER_S, END_AFTER_S)
    return Supervisor(settings, workers, sockets, hang_limit_s)


def _log_draining(unfinished: int, timeout_s: float) -> None:
    if not unfinished:
        logger.info("draining")
        return
    left = counted(unfinished, "exchange")
    logger.info("draining: {} left, for up to {:g} s; a second signal stops now", left, timeout_s)


def log_listening(settings: Settings, url: str, usage: str, hints: Iterable[str] = ()) -> None:
    logger.bind(
        url=url,
        page=None if settings.socket_path else f"{url}{LIVE_PAGE}",
        upstream=settings.openai_base_url,
        proxy=settings.proxy and mask_credentials(settings.proxy),
        rate_limit=settings.rate_limit,
        rate_limit_burst=settings.rate_limit_burst,
        concurrency_limit=settings.concurrency_limit,
        usage=usage,
        workers=workers if (workers := worker_count(settings)) > 1 else None,
    ).info("listening")
    for warning in (*hints, *settings_warnings(settings), *workers_warnings(settings)):
        logger.warning("{}", warning)
