"""Settlement: what is kept of an exchange when it is over.

It is counted, and one `info` line is written. Lines are written a few at a time: between the steps
of an exchange, where nothing of the logging code is in the processor's caches, a line costs three
times as much as right after another.
"""

import asyncio
from time import monotonic_ns
from typing import TYPE_CHECKING

from loguru import logger

from rustygate.exchange import MS, Exchange
from rustygate.telemetry.log import LINES
from rustygate.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing

# How long a line may wait for others.
LINES_WAIT_S = 0.02


class Ledger:
    """Settles exchanges."""

    def __init__(self, metrics: Metrics, tracing: "Tracing | None" = None) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._loop = asyncio.get_running_loop()
        self._settled: list[Exchange] = []

    def settle(self, exchange: Exchange) -> None:
        """Note an exchange that is over. Called once for each, whatever happened."""
        exchange.settled = monotonic_ns()
        if self._tracing is not None:
            self._tracing.end(exchange)
        if not self._settled:
            self._loop.call_later(LINES_WAIT_S, self.flush)
        self._settled.append(exchange)
        self._metrics.settle(exchange)

    def retried(self, reason: str) -> None:
        """Note that an exchange makes another attempt."""
        self._metrics.retried(reason)

    def flush(self) -> None:
        """Write the lines that wait."""
        settled, self._settled = self._settled, []
        if settled:
            # One record for them all: loguru takes three times as long for one as its line does.
            logger.info("exchange", **{LINES: [_fields(exchange) for exchange in settled]})


def _fields(exchange: Exchange) -> dict[str, str | int | None]:
    fields = {
        "id": exchange.id,
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
        "tokens_out": exchange.tokens_out,
        "bytes": exchange.bytes,
        "outcome": exchange.outcome,
    }
    return fields if exchange.reason is None else fields | {"reason": exchange.reason}
