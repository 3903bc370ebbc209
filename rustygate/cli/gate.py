"""A serving gate, for `serve` and `demo`."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from loguru import logger

from rustygate.cli.errors import CommandError, cannot_listen
from rustygate.cli.signals import unless_stopped
from rustygate.config import EXPOSED, Settings, without_password
from rustygate.daemon import Daemon
from rustygate.downstream.listener import Occupied
from rustygate.telemetry.tracing import configured


@asynccontextmanager
async def running_gate(
    settings: Settings, signals: asyncio.Queue[int], sockets: Sequence[socket.socket] = ()
) -> AsyncIterator[Daemon]:
    """A serving gate. At the end it drains; another signal stops it at once."""
    daemon = Daemon(settings, sockets, configured(settings))
    try:
        await daemon.start()
    except Occupied as error:
        raise CommandError(f"cannot listen on {settings.bind_address}: {error}") from error
    except OSError as error:
        port = None if settings.socket_path else settings.port
        raise cannot_listen(settings.bind_address, port, error) from error
    _collect_seldom()
    try:
        _announce(settings, daemon.url)
        yield daemon
        logger.info("draining")
        await unless_stopped(daemon.drain(), signals)
    finally:
        await daemon.stop()
    logger.info("stopped")


def _collect_seldom() -> None:
    """Let the garbage collector look for cycles less often, and not at what is there by now.

    An exchange leaves none behind: at the default threshold the looking costs a request 6%.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _announce(settings: Settings, url: str) -> None:
    logger.bind(
        url=url,
        upstream=settings.openai_base_url,
        proxy=settings.proxy and without_password(settings.proxy),
        rate_limit=settings.rate_limit,
        rate_limit_burst=settings.rate_limit_burst,
        concurrency_limit=settings.concurrency_limit,
    ).info("listening")
    if settings.open_to_others:
        logger.warning(EXPOSED, settings.bind_address)
