"""The time that a call to a group's store may take."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rustygate.admission.group.store import StoreUnavailable

CALL_LIMIT_S = 0.1

# The first call after the start also connects and loads the script, and no request can have been
# admitted before it.
FIRST_CALL_LIMIT_S = 1.0

# After that, the event loop gets this long to read what arrived while it was busy.
_GRACE_S = 0.005


@asynccontextmanager
async def call_limit(*, first: bool = False) -> AsyncIterator[None]:
    """Raises StoreUnavailable if the block takes longer than a call may.

    Args:
        first: it is the first call after the start.


    An event loop that was busy for that time finds both the answer and the end of the limit. Its
    timers run before the tasks that wait for data, so a second timer gives those a turn.
    """
    loop = asyncio.get_running_loop()
    limit_s = FIRST_CALL_LIMIT_S if first else CALL_LIMIT_S
    try:
        async with asyncio.timeout(None) as limit:
            ending = loop.call_later(
                limit_s - _GRACE_S, lambda: limit.reschedule(loop.time() + _GRACE_S)
            )
            try:
                yield
            finally:
                ending.cancel()
    except TimeoutError:
        raise StoreUnavailable(f"no answer within {limit_s * 1000:g} ms") from None
