"""Settlement: the one place where an ended exchange is counted and logged.

Each exchange gets one `info` line, and one `debug` line with its steps. Lines are written several
at a time: between the steps of an exchange the logging code is no longer in the processor's
caches, and a line costs three times as much as one written right after another. They are written
when a request has just gone upstream, so that it does not wait for them.
"""

import asyncio
from time import monotonic_ns
from typing import TYPE_CHECKING

from loguru import logger

from rustygate.core.verdict import Action
from rustygate.exchange import MS, Exchange
from rustygate.telemetry.log import LINES, log_lines
from rustygate.telemetry.tally import AnyTally

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing

# The least number of lines that are written together when a request goes upstream. More hold up
# other requests longer; with half as many, a request costs 1% more instructions.
LOT_LINES = 8

# How many lines may wait for a request to go upstream, and for how long.
WAITING_LINES_LIMIT = 32
WAIT_S = 0.02

# How much of upstream's request id a line repeats. OpenAI's have 36 characters.
REQUEST_ID_LIMIT = 128


class Ledger:
    """Settles exchanges."""

    def __init__(self, tally: AnyTally, tracing: "Tracing | None" = None) -> None:
        self._tally = tally
        self._tracing = tracing
        self._loop = asyncio.get_running_loop()
        self._settled: list[Exchange] = []
        self._timer: asyncio.TimerHandle | None = None

    def settle(self, exchange: Exchange) -> None:
        """Record an ended exchange. Called exactly once for each exchange."""
        exchange.settled = monotonic_ns()
        if self._tracing is not None:
            self._tracing.end_exchange(exchange)
        self._settled.append(exchange)
        if self._timer is None:
            self._timer = self._loop.call_later(WAIT_S, self.flush)
        elif len(self._settled) == WAITING_LINES_LIMIT:
            self._loop.call_soon(self.flush)
        self._tally.settle(exchange)

    def before_sending(self) -> None:
        """Called just before a request goes upstream: lines are written while it is there."""
        if len(self._settled) >= LOT_LINES:
            self._loop.call_soon(self.flush)

    def count_retry(self, reason: str) -> None:
        """Count another attempt of an exchange."""
        self._tally.count_retry(reason)

    def count_upstream_429(self, exchange: Exchange, verdict: Action) -> None:
        """Count a 429 from upstream, by what it means."""
        self._tally.count_upstream_429(exchange.lane or exchange.model, verdict)

    def close(self) -> None:
        """Write what is pending."""
        self.flush()

    def flush(self) -> None:
        """Write the pending lines."""
        settled, self._settled = self._settled, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if settled:
            log_exchanges(settled)
            _log_steps(settled)


def log_exchanges(settled: list[Exchange]) -> None:
    """Write the lines of settled exchanges."""
    log_lines(__name__, "exchange", map(log_fields, settled))


def _log_steps(settled: list[Exchange]) -> None:
    lines = [
        {"id": exchange.id, "steps": ", ".join(exchange.steps)}
        for exchange in settled
        if exchange.steps
    ]
    if lines:
        logger.debug("steps", **{LINES: lines})


def log_fields(exchange: Exchange) -> dict[str, str | int | None]:
    """The fields of an exchange's log line."""
    fields: dict[str, str | int | None] = {
        "id": exchange.id,
        "request_id": exchange.request_id and exchange.request_id[:REQUEST_ID_LIMIT],
        "client": exchange.client,
        "method": exchange.method,
        "path": exchange.path,
        "model": exchange.model,
        "status": exchange.status,
        "attempts": exchange.attempts,
        "queued_ms": exchange.queued // MS,
        "first_byte_ms": exchange.ms_until(exchange.first_byte),
        "total_ms": exchange.ms_until(exchange.settled),
        "tokens_in": exchange.tokens_in,
        "tokens_cached": exchange.tokens_cached,
        "tokens_out": exchange.tokens_out,
        "bytes": exchange.bytes,
        "outcome": exchange.outcome,
    }
    if exchange.reason is not None:
        fields["reason"] = exchange.reason
    if exchange.tokens_estimated:
        fields["tokens_estimated"] = True
    return fields
