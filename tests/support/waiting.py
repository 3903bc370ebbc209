"""Waiting for what is bound to happen: a limit turns a hang into a failure and decides nothing
else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

# Whatever a test waits for comes at once; a busy machine may need a while.
SOON_S = 10.0

# "Within a second", and what a busy machine adds to it.
A_SECOND_S = 1.5

# How often a value is looked at that nobody announces.
_LOOK_S = 0.002


def soon() -> asyncio.Timeout:
    """A time limit on whatever is awaited inside."""
    return asyncio.timeout(SOON_S)


async def until(holds: Callable[[], bool], limit_s: float = SOON_S) -> None:
    """Return once `holds()`. Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not holds():  # noqa: ASYNC110 - nobody sets an event
            await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def in_background(does: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have something go on beside what is done inside, and no longer."""
    doing = asyncio.create_task(does)
    try:
        yield
    finally:
        doing.cancel()
        await asyncio.wait((doing,))
