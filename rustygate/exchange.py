"""The record of one request, from the arrival of its head to its settlement.

Each step stamps what it knows; the ledger reads the record once, at the end. Times are integer
nanoseconds of the monotonic clock. None means that the exchange did not get that far.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from secrets import token_hex
from time import monotonic_ns

from rustygate.core.client_budgets import Cost
from rustygate.core.headers import HeaderLines, Headers, headers_in
from rustygate.core.usage import Usage

MS = 1_000_000

# In every response: the id of the exchange's log line.
ID_HEADER = "X-RustyGate-Id"

# In responses to a client with budgets: what is left of each.
BUDGET_HEADER = "X-RustyGate-Budget-Remaining"


def _id_generator() -> Callable[[], str]:
    """Ids that are cheap and unique across restarts: a random prefix and a number."""
    prefix, numbers = token_hex(4), count(1)
    return lambda: f"{prefix}-{next(numbers):x}"


new_id = _id_generator()


@dataclass(slots=True)
class Exchange:
    """One exchange.

    Args:
        deadline: when it must be admitted at the latest.
        read_timeout_s: how long upstream may be silent.
        priority: its priority class.
        weight: its client's share within that class.
        lane: the key of its lane, unless that is its model.
        tokens: the estimated cost in the model's tokens.
        min_tokens: the part of `tokens` that is known: the input and the output cap.
        input_tokens: the part of `tokens` that is the input.
        status: the status sent downstream; `bytes` is the length of the body sent there.
        failures: attempts that ended without a response.
        connected: the latest attempt got a connection, so upstream may have seen the request.
        upstream_status: the status of upstream's latest response.
        tokens_cached: a part of `tokens_in`, like `tokens_written`, the tokens that upstream
            cached now; `tokens_reasoning` is a part of `tokens_out`.
        tokens_media: how many of the tokens are audio or images.
        tokens_estimated: `tokens_in` and `tokens_out` are the gate's estimates, as upstream
            reported no usage.
        error_event: the data of an event in the response's stream that reports an error.
        request_id: the `x-request-id` of that response, upstream's own id for the request.
        steps: each step as text, if they are logged.
        cost_nano: the cost of its tokens in nanodollars; None if it is not known.
        reserved: what it has reserved of its client's budgets.
        budget_left: what was left of them then, as the client is told.
    """

    client: str
    method: str
    path: str
    deadline: int = 0
    read_timeout_s: float = 0.0
    priority: str = "default"
    weight: float = 1.0
    id: str = field(default_factory=new_id)
    model: str | None = None
    lane: str | None = None
    tokens: int = 0
    min_tokens: int = 0
    input_tokens: int = 0
    status: int | None = None
    attempts: int = 0
    failures: int = 0
    connected: bool = False
    arrived: int = field(default_factory=monotonic_ns)
    queued: int = 0
    sent: int | None = None
    responded: int | None = None
    upstream_status: int | None = None
    request_id: str | None = None
    first_byte: int | None = None
    settled: int | None = None
    tokens_in: int | None = None
    tokens_cached: int | None = None
    tokens_out: int | None = None
    tokens_reasoning: int | None = None
    tokens_written: int = 0
    tokens_media: int = 0
    tokens_estimated: bool = False
    error_event: bytes | None = field(default=None, repr=False)
    bytes: int = 0
    outcome: str | None = None
    reason: str | None = None
    steps: list[str] | None = None
    cost_nano: int | None = None
    reserved: Cost | None = None
    budget_left: str | None = None

    @property
    def token_counts(self) -> tuple[int | None, int | None, int | None, int | None]:
        """The tokens of the input, of the part of it that was cached, of the output, and of the
        part of that which was reasoning."""
        return self.tokens_in, self.tokens_cached, self.tokens_out, self.tokens_reasoning

    def record_usage(self, usage: Usage) -> None:
        """Stamp the tokens that upstream reports."""
        self.tokens_in, self.tokens_out = usage.tokens_in, usage.tokens_out
        self.tokens_cached, self.tokens_reasoning = usage.tokens_cached, usage.tokens_reasoning
        self.tokens_written, self.tokens_media = usage.tokens_written, usage.tokens_media

    def record_step(self, step: str, fields: Mapping[str, object]) -> None:
        """Remember a step, its time and its values for the log."""
        values = "".join(f" {name}={value}" for name, value in fields.items())
        text = f"{self.ms_until(monotonic_ns())} ms {step}{values}"
        if self.steps is None:
            self.steps = []
        self.steps.append(text)

    def header_lines(self, queued: int | None = None) -> HeaderLines:
        """The response headers about the exchange, as they are written, with timings for browsers
        and tracers (W3C Server Timing).

        Args:
            queued: nanoseconds in the queue so far, for an exchange that still waits.
        """
        waited = self.queued if queued is None else queued
        upstream = 0 if self.responded is None or self.sent is None else self.responded - self.sent
        lines = (
            f"{ID_HEADER}: {self.id}\r\n"
            f"X-RustyGate-Queued-Ms: {waited // MS}\r\n"
            f"X-RustyGate-Attempts: {self.attempts}\r\n"
            f"Server-Timing: queue;dur={waited / MS:.1f}, upstream;dur={max(0, upstream) / MS:.1f}"
            "\r\n"
        )
        if self.budget_left is not None:
            lines += f"{BUDGET_HEADER}: {self.budget_left}\r\n"
        return lines.encode()

    def headers(self) -> Headers:
        """The same as names and values."""
        return headers_in(self.header_lines())

    def ms_until(self, instant: int | None) -> int | None:
        """Milliseconds from the request's arrival to an instant."""
        return None if instant is None else (instant - self.arrived) // MS
