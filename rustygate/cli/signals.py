"""The signals that stop a command."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

Signals = asyncio.Queue[int]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_with_signals(command: Callable[[Signals], Coroutine[Any, Any, None]]) -> None:
    """Run `command` and pass it a queue of arriving SIGTERM and SIGINT.

    Signals that arrive after its end are ignored: during interpreter shutdown they would cause
    another exit code or a traceback.
    """

    async def run() -> None:
        try:
            await command(_queue_signals())
        finally:
            _ignore_signals()

    asyncio.run(run())


def _queue_signals() -> Signals:
    signals = Signals()
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    return signals


def _ignore_signals() -> None:
    # Removing a handler restores the default; until the next line, a signal must wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    for number in STOP_SIGNALS:
        # If the handler stayed, closing the event loop would restore the default.
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


async def run_until_signal(work: Coroutine[Any, Any, None], signals: Signals) -> None:
    """Run `work`, and cancel it at the next signal."""
    working = asyncio.create_task(work)
    signalled = asyncio.create_task(signals.get())
    await asyncio.wait((working, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if working.done():
        working.result()
    working.cancel()
    await asyncio.wait((working,))
