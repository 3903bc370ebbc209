"""The record of one request's passage, from its head's arrival to its settlement.

Each room stamps what it knows; the ledger reads it once, at the end. Times are integer
nanoseconds of the monotonic clock; None means that it did not come to that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from secrets import token_hex
from time import monotonic_ns

MS = 1_000_000


def _ids() -> Callable[[], str]:
    """Ids that are unique across restarts and cheap: a random prefix and a number."""
    prefix, numbers = token_hex(4), count(1)
    return lambda: f"{prefix}-{next(numbers):x}"


new_id = _ids()


@dataclass(slots=True)
class Exchange:
    """One exchange.

    `status` is what went downstream, `bytes` its body's length there; `upstream_status` is what
    upstream answered last. `deadline` is the instant by which it wants to be admitted, with its
    client's `priority` and `weight`; `tokens` is what it is estimated to take of the model's,
    `tokens_least` the part of that which is no guess. `reached`: the latest attempt had a
    connection, so that upstream may have seen it.
    """

    client: str
    method: str
    path: str
    deadline: int = 0
    priority: str = "default"
    weight: float = 1.0
    id: str = field(default_factory=new_id)
    model: str | None = None
    tokens: int = 0
    tokens_least: int = 0
    status: int | None = None
    attempts: int = 0
    reached: bool = False
    arrived: int = field(default_factory=monotonic_ns)
    queued: int = 0
    sent: int | None = None
    answered: int | None = None
    upstream_status: int | None = None
    first_byte: int | None = None
    settled: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    bytes: int = 0
    outcome: str | None = None
    reason: str | None = None

    def headers(self, queued: int | None = None) -> list[tuple[str, str]]:
        """What an answer tells of the exchange, to browsers and tracers too (W3C Server Timing).

        Args:
            queued: nanoseconds it has waited, where that is not over yet.
        """
        waited = self.queued if queued is None else queued
        upstream = 0 if self.answered is None or self.sent is None else self.answered - self.sent
        timing = f"queue;dur={waited / MS:.1f}, upstream;dur={max(0, upstream) / MS:.1f}"
        return [
            ("X-RustyGate-Queued-Ms", str(waited // MS)),
            ("X-RustyGate-Attempts", str(self.attempts)),
            ("Server-Timing", timing),
        ]

    def ms_until(self, instant: int | None) -> int | None:
        """Milliseconds from the request's arrival to an instant."""
        return None if instant is None else (instant - self.arrived) // MS
