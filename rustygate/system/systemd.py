"""What the gate tells the service manager that started it: sd_notify(3), without its library.

It is told when the gate is ready, reads something anew, stops, and, if it asks for that, at
intervals that the event loop turns. Where no manager wants to be told, nothing happens. Its
variables are for this process alone, so they are taken out of the environment.
"""

import asyncio
import os
import socket
from collections.abc import MutableMapping
from time import monotonic_ns

from loguru import logger

# A manager that has no room for a message is in trouble of its own; the gate goes on.
PATIENCE_S = 1.0

MICROSECONDS = 1_000_000


class ServiceManager:
    """The service manager that `environ` names, if it names one."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        # An address of Linux's abstract namespace is written with an @ in place of its zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._pulse_s = _patience_s(environ) / 2
        self._pulse: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """The gate serves, or has read anew what it was to."""
        self._tell("READY=1")
        if self._pulse is None and self._pulse_s:
            self._beat()

    def reloading(self) -> None:
        """The gate begins to read something anew; `ready` ends it."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The gate drains."""
        self._tell("STOPPING=1")

    def _beat(self) -> None:
        """Tell that the event loop turns, from now on as long as it does."""
        self._tell("WATCHDOG=1")
        self._pulse = asyncio.get_running_loop().call_later(self._pulse_s, self._beat)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(PATIENCE_S)
                sock.sendto(state.encode(), self._address)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            logger.warning("the service manager cannot be told {}: {}", state[:9], reason)


def _patience_s(environ: MutableMapping[str, str]) -> float:
    """How long the manager waits for a sign of life; 0 if it does not ask for one."""
    interval, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not interval.isdecimal() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(interval) / MICROSECONDS
