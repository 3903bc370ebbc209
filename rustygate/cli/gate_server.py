"""Runs a gate until a command ends it; for `serve` and `demo`."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from loguru import logger

from rustygate.cli.budgets import check_budgets, invalid_clients
from rustygate.cli.errors import CommandError, cannot_listen
from rustygate.cli.signals import run_until_signal
from rustygate.config import Settings, mask_credentials, settings_warnings
from rustygate.core.clients import ClientsError
from rustygate.daemon import Daemon
from rustygate.dashboard.pages import PREFIX as LIVE_PAGE
from rustygate.downstream.listener import AddressInUse
from rustygate.system.data_dir import DataDirInUse
from rustygate.telemetry.tracing import configure_tracing


@asynccontextmanager
async def running_gate(
    settings: Settings,
    signals: asyncio.Queue[int],
    sockets: Sequence[socket.socket] = (),
    hints: Iterable[str] = (),
    announce: Callable[[str], None] = lambda url: None,
) -> AsyncIterator[Daemon]:
    """A serving gate. When the context ends it drains, and a further signal stops it at once.

    Args:
        hints: warnings about the configuration besides those about the settings.
        announce: is called with the gate's URL before it is logged.
    """
    if settings.redis_url is not None:
        from rustygate.cli.group_access import refuse_to_start

        await refuse_to_start(settings)
    check_budgets(settings)
    daemon = Daemon(settings, sockets, configure_tracing(settings))
    try:
        await daemon.start()
    except ClientsError as error:
        raise invalid_clients(settings, error.problems) from error
    except DataDirInUse as error:
        raise CommandError(str(error)) from error
    except AddressInUse as error:
        raise CommandError(f"cannot listen on {settings.bind_address}: {error}") from error
    except OSError as error:
        port = None if settings.socket_path else settings.port
        raise cannot_listen(settings.bind_address, port, error) from error
    _tune_garbage_collector()
    try:
        announce(daemon.url)
        log_listening(settings, daemon.url, daemon.usage_place, hints)
        yield daemon
        _log_draining(daemon.unfinished, settings.drain_timeout)
        await run_until_signal(daemon.drain(), signals)
    finally:
        await daemon.stop()
    logger.info("stopped")


def _log_draining(unfinished: int, timeout_s: float) -> None:
    if not unfinished:
        logger.info("draining")
        return
    left = "1 exchange" if unfinished == 1 else f"{unfinished} exchanges"
    logger.info("draining: {} left, for up to {:g} s; a second signal stops now", left, timeout_s)


def _tune_garbage_collector() -> None:
    """Collect less often, and skip the objects that exist after start-up.

    An exchange leaves no reference cycles. At the default threshold, looking for them takes 6% of
    a request's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


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
    ).info("listening")
    for warning in (*hints, *settings_warnings(settings)):
        logger.warning("{}", warning)
