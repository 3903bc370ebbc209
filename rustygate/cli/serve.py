"""`rustygate serve`: run the gate, and reload the clients file on SIGHUP."""

import argparse
import asyncio
import os
import resource
import signal
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from loguru import logger

from rustygate.cli.environment import DOTENV
from rustygate.cli.signals import Signals, run_with_signals
from rustygate.config import forget_secrets, load_configuration, names
from rustygate.core.clients import ClientsError
from rustygate.system.systemd import ServiceManager
from rustygate.telemetry import log

if TYPE_CHECKING:
    from rustygate.lifecycle import GateLifecycle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", metavar="N", help=f"overrides {names.PORT} for this run")
    parser.add_argument("--bind", metavar="ADDRESS", help=f"overrides {names.BIND_ADDRESS}")


def run(arguments: argparse.Namespace) -> int:
    # By default SIGHUP would end the process while it imports and starts the server.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from rustygate.cli.gate_server import running_gate
    from rustygate.downstream.listener import inherited_sockets, with_inherited_address

    manager, sockets = ServiceManager(os.environ), inherited_sockets(os.environ)
    flags = {names.PORT: arguments.port, names.BIND_ADDRESS: arguments.bind}
    given = {name: value for name, value in flags.items() if value is not None}
    environ = {**os.environ, **given}
    loaded = load_configuration(environ, dotenv=DOTENV, listens_elsewhere=bool(sockets))
    loaded = replace(loaded, settings=with_inherited_address(loaded.settings, sockets))
    loaded.check_address()
    settings = loaded.settings
    forget_secrets()
    log.configure(settings.rust_log, settings.log_format)

    async def serve(signals: Signals) -> None:
        loop = asyncio.get_running_loop()
        raise_open_files_limit(settings.connection_limit)
        async with running_gate(
            settings,
            signals,
            sockets,
            loaded.hints,
            watchdog_timeout_s=manager.watchdog_timeout_s,
        ) as daemon:
            loop.add_signal_handler(signal.SIGHUP, _reload, daemon, manager)
            manager.ready()
            await signals.get()
            loop.add_signal_handler(signal.SIGHUP, lambda: None)
            manager.stopping()

    run_with_signals(serve)
    return 0


def _reload(daemon: "GateLifecycle", manager: ServiceManager) -> None:
    """Reload on SIGHUP. If that fails, the gate goes on with what it has."""
    manager.reloading()
    try:
        # Both, even if the first one fails.
        found = [_reload_clients(daemon), _reload_certificate(daemon)]
        if not any(found):
            logger.info("reload ignored: nothing to reload; changed settings need a restart")
    finally:
        manager.ready()


def _reload_clients(daemon: "GateLifecycle") -> bool:
    """Read the clients file again; returns whether there is one."""
    try:
        changes = daemon.reload()
        if changes is None:
            return False
        logger.info("clients file reloaded: {} came, {} changed, {} went", *changes)
    except ClientsError as error:
        for problem in error.problems:
            logger.error(
                "reload failed, previous clients stay in force: CLIENTS_FILE: {}", problem
            )
    return True


def _reload_certificate(daemon: "GateLifecycle") -> bool:
    """Read the server's certificate again; returns whether there is one."""
    certificate = daemon.certificate
    if certificate is None:
        return False
    problem = certificate.reload()
    if problem is None:
        logger.info("TLS certificate reloaded: {}", certificate.cert_file)
    else:
        logger.error("reload failed, previous TLS certificate stays in force: {}", problem)
    return True


def raise_open_files_limit(connection_limit: int) -> None:
    """Raise the limit of open files as far as the system allows, and warn if it is too low.

    Each connection may need a second one, to upstream. Any of several workers may have most of the
    connections, while others start.
    """
    with suppress(OSError, ValueError):
        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * connection_limit
    if resource.RLIM_INFINITY != limit < needed:
        logger.warning(
            "the limit of open files is {}, but CONNECTION_LIMIT={} may need {}; raise it with "
            "`ulimit -n` or LimitNOFILE=",
            limit,
            connection_limit,
            needed,
        )
