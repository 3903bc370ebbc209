"""Progress of a long plan, on stderr."""

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TextIO

from rustygate.plan.forecast import Observer, Plan

# Shorter plans show nothing.
DELAY_S = 1.0

# How often the line is redrawn on a terminal, and how often a line is printed elsewhere.
REDRAW_INTERVAL_S = 0.2
PRINT_INTERVAL_S = 10.0

# The clock is read once in this many requests.
_STRIDE = 64

CLEAR_LINE = "\r\x1b[K"


class Progress:
    """Shows the share of requests that are done, from a second after the start.

    Args:
        total: the requests of one run.
        is_terminal: whether the line can be redrawn in place.
    """

    def __init__(
        self,
        total: int,
        stream: TextIO | None,
        *,
        is_terminal: bool,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._total = max(1, total)
        self._stream = stream
        self._is_terminal = is_terminal
        self._clock = clock
        self._next = clock() + DELAY_S
        self._label = "plan"
        self._done = 0
        self._is_shown = False

    def start_run(self, plan: Plan) -> Observer:
        """Another run begins, with the limits of `plan`."""
        requests, tokens = (limit or "unlimited" for limit in (plan.rpm, plan.tpm))
        self._label = f"plan with {requests} requests and {tokens} tokens a minute"
        self._done = 0
        return self.observe

    def observe(self, client: str, wait_s: float | None) -> None:
        """A request is done."""
        self._done += 1
        if self._done % _STRIDE == 0 and self._clock() >= self._next:
            self._show()

    def clear(self) -> None:
        """Remove the line; the result follows."""
        if self._is_shown and self._is_terminal:
            self._print(CLEAR_LINE, end="")

    def _print(self, text: str, end: str = "\n") -> None:
        # If stderr is closed, the stream is None, and `print` would use stdout instead.
        if self._stream is not None:
            with suppress(OSError):
                print(text, end=end, file=self._stream, flush=True)

    def _show(self) -> None:
        self._is_shown = True
        text = f"{self._label}: {min(1, self._done / self._total):.0%} of {self._total} requests"
        if self._is_terminal:
            self._print(f"{CLEAR_LINE}{text}", end="")
        else:
            self._print(text)
        self._next = self._clock() + (REDRAW_INTERVAL_S if self._is_terminal else PRINT_INTERVAL_S)
