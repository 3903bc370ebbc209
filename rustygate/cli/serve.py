"""`rustygate serve`: run the gate."""

import argparse
import asyncio
import os
import resource
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from loguru import logger

from rustygate.cli.environment import DOTENV
from rustygate.cli.signals import stop_signals
from rustygate.config import forget_secrets, load
from rustygate.core.clients import ClientsError
from rustygate.system.systemd import ServiceManager
from rustygate.telemetry import log

if TYPE_CHECKING:
    from rustygate.daemon import Daemon


def add_arguments(_: argparse.ArgumentParser) -> None:
    pass


def run(_: argparse.Namespace) -> int:
    # Until it serves, there is nothing to reload; by default this would end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Loading the server takes half a second, in which SIGHUP must not end the process.
    from rustygate.cli.gate import running_gate
    from rustygate.downstream.listener import handed_over, stated

    manager, sockets = ServiceManager(os.environ), handed_over(os.environ)
    settings = stated(load(dotenv=DOTENV), sockets)
    forget_secrets()
    log.configure(settings.rust_log, settings.log_format)

    async def serve() -> None:
        signals, loop = stop_signals(), asyncio.get_running_loop()
        async with running_gate(settings, signals, sockets) as daemon:
            raise_open_files_limit(settings.connection_limit)
            loop.add_signal_handler(signal.SIGHUP, _reload, daemon, manager)
            manager.ready()
            await signals.get()
            loop.add_signal_handler(signal.SIGHUP, lambda: None)
            manager.stopping()

    asyncio.run(serve())
    return 0


def _reload(daemon: "Daemon", manager: ServiceManager) -> None:
    """What SIGHUP asks for. Whatever becomes of it, the gate goes on."""
    manager.reloading()
    try:
        if daemon.reload():
            logger.info("the clients' file was read again")
        else:
            logger.info("asked to reload, but nothing is there to be: settings take a restart")
    except ClientsError as error:
        for problem in error.problems:
            logger.error("the clients in force stay: CLIENTS_FILE: {}", problem)
    finally:
        manager.ready()


def raise_open_files_limit(connection_limit: int) -> None:
    """Let the gate open as many files as the system allows, and tell if these are too few: each
    connection may need another one, upstream."""
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != files < 2 * connection_limit:
        logger.warning(
            "at most {} files may be open; CONNECTION_LIMIT={} may need twice that many",
            files,
            connection_limit,
        )
