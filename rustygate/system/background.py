"""Tasks that run beside everything else: their failures are logged at once.

asyncio reports the exception of a task that nobody waits for only when the task is freed. One that
is kept, to be cancelled later, would end in silence.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from loguru import logger

# How long to wait before a step that failed is repeated.
RETRY_S = 1.0

# asyncio itself refers to tasks only weakly.
_running: set[asyncio.Task[None]] = set()


def start_task(what: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a coroutine in a task; `what`: what it does, for the log."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _running.add(task)
    task.add_done_callback(partial(_on_done, what))
    return task


def _on_done(what: str, task: asyncio.Task[None]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.opt(exception=error).error("{} failed", what)


async def repeat(what: str, step: Callable[[], Awaitable[bool]]) -> None:
    """Run a step again and again while it returns true, even if it fails."""
    goes_on = True
    while goes_on:
        try:
            goes_on = await step()
        except Exception as error:
            logger.opt(exception=error).error("{} failed, next try in {:g} s", what, RETRY_S)
            await asyncio.sleep(RETRY_S)
