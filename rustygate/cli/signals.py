"""The signals that stop a command."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def stop_signals() -> asyncio.Queue[int]:
    """A queue of the SIGTERM and SIGINT that arrive from now on."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    return signals


async def run_until_signal(work: Coroutine[Any, Any, None], signals: asyncio.Queue[int]) -> None:
    """Run `work`, and cancel it at the next signal."""
    working = asyncio.create_task(work)
    signalled = asyncio.create_task(signals.get())
    await asyncio.wait((working, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if working.done():
        working.result()
    working.cancel()
    await asyncio.wait((working,))
