"""Signals that stop a command."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def stop_signals() -> asyncio.Queue[int]:
    """SIGTERM and SIGINT, from now on, as they come."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    return signals


async def unless_stopped(work: Coroutine[Any, Any, None], signals: asyncio.Queue[int]) -> None:
    """Do `work`, or give it up at the next signal."""
    working = asyncio.create_task(work)
    signalled = asyncio.create_task(signals.get())
    await asyncio.wait((working, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if working.done():
        working.result()
    working.cancel()
