"""The signals that stop a command."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

Signals = asyncio.Queue[int]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_with_signals(command: Callable[[Signals], Coroutine[Any, Any, None]]) -> None:
    """Run `command`, with a queue of the SIGTERM and SIGINT that arrive.

    Signals that arrive after its end are ignored: while Python exits they would end the process
    with another exit code, or with a traceback.
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
    for number in STOP_SIGNALS:
        # Otherwise closing the event loop restores the default.
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
