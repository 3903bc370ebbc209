"""Sends more data than the other side reads."""

from tests.support.waiting import within
from tests.support.wire import Wire

FLOOD = 24 << 20


async def send_until_stalled(
    wire: Wire, piece: bytes, *, limit: int = FLOOD, stalled_s: float = 0.3
) -> int:
    """Send pieces until the other side takes no more for `stalled_s`, or up to `limit` bytes.
    Returns how many bytes it took."""
    sent = 0
    while sent < limit:
        try:
            async with within(stalled_s):
                await wire.send_all(piece)
        except TimeoutError:
            break
        sent += len(piece)
    return sent
