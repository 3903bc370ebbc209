"""Notifications to the service manager that started the gate: sd_notify(3), without its library.

The gate reports that it is ready, reloads or stops, and, if the watchdog is on, that its event
loop runs. Without a service manager nothing is sent. The manager's variables are meant for this
process only, so they are removed from the environment.
"""

import asyncio
import os
import socket
from collections.abc import MutableMapping
from time import monotonic_ns

from loguru import logger

# A manager whose socket is full for that long has problems of its own; the gate goes on.
SEND_TIMEOUT_S = 1.0

MICROSECONDS = 1_000_000


class ServiceManager:
    """The service manager that `environ` names, if any.

    Attributes:
        watchdog_timeout_s: how long it waits for a sign of life; 0 if it does not.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        # A Linux abstract socket address is written with @ in place of its leading null byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_timeout_s = _watchdog_timeout_s(environ)
        self._watchdog_interval_s = self.watchdog_timeout_s / 2
        self._watchdog_timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """The gate is serving, or has finished reloading."""
        self._notify("READY=1")
        if self._watchdog_timer is None and self._watchdog_interval_s:
            self._feed_watchdog()

    def reloading(self) -> None:
        """The gate begins to reload; `ready` ends it."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The gate drains."""
        self._notify("STOPPING=1")

    def _feed_watchdog(self) -> None:
        """Report that the event loop runs, from now on for as long as it does."""
        self._notify("WATCHDOG=1")
        loop = asyncio.get_running_loop()
        self._watchdog_timer = loop.call_later(self._watchdog_interval_s, self._feed_watchdog)

    def _notify(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_TIMEOUT_S)
                sock.sendto(state.encode(), self._address)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            logger.warning("cannot notify the service manager of {}: {}", state[:9], reason)


def _watchdog_timeout_s(environ: MutableMapping[str, str]) -> float:
    """How long the manager waits for a watchdog notification; 0 if the watchdog is off."""
    timeout, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not timeout.isdecimal() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(timeout) / MICROSECONDS
