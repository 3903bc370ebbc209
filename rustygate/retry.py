"""Whether a failed attempt is followed by another.

A disconnect is retried after a short pause, UPSTREAM_RETRIES times at most, if that cannot run
work twice. A 429 or 503 is waited out in the queue, for as long as its lane pauses
(`core.verdict`) and however often. A request is sent again only if its body is buffered and its
deadline allows for the pause.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from time import time_ns

from rustygate.admission.interface import AnyAdmission, AnyGate
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.verdict import DEFAULT_PAUSE, MIN_PAUSE, Action, judge, judge_event
from rustygate.downstream.request_body import RequestBody
from rustygate.errors import UpstreamFailure
from rustygate.exchange import Exchange
from rustygate.upstream.response import UpstreamResponse

# An immediate retry would meet the same failure. Each pause is twice as long as the one before.
RETRY_PAUSE_S = 0.1

# Statuses whose body decides whether the request is retried.
JUDGED_STATUSES = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that may be followed by another: it ended in a failure, or in a response of
    which `body_start` was read. The next attempt asks for admission `pause_s` later."""

    failure: UpstreamFailure | None = None
    response: UpstreamResponse | None = None
    body_start: bytes | None = field(default=None, repr=False)
    pause_s: float = 0.0

    @property
    def reason(self) -> str:
        """The reason in the retry metric."""
        if self.failure is not None:
            return self.failure.reason
        assert self.response is not None
        return f"upstream_{self.response.status}"


class RetryPolicy:
    """Decides about retries. `on_429` is called with the verdict on each 429."""

    def __init__(
        self,
        settings: Settings,
        gate: AnyGate,
        on_429: Callable[[Exchange, Action], None] | None = None,
    ) -> None:
        self._max_retries = settings.upstream_retries
        self._gate = gate
        self._on_429 = on_429

    def pause_after(
        self, failure: UpstreamFailure, exchange: Exchange, body: RequestBody
    ) -> float | None:
        """Seconds to pause before another attempt; None if the failure is final."""
        pause_s = RETRY_PAUSE_S * 2.0**exchange.failures
        exchange.failures += 1
        if not failure.retryable or exchange.failures > self._max_retries:
            return None
        return pause_s if self._may_retry(exchange, body, int(pause_s * SECOND)) else None

    def judge_response(
        self,
        exchange: Exchange,
        body: RequestBody,
        admission: AnyAdmission,
        response: UpstreamResponse,
        body_start: bytes,
    ) -> FailedAttempt | None:
        """Pause the lane for a 429 or 503 that calls for it.

        Returns the failed attempt if it is followed by another; None if the response is final.
        """
        verdict = judge(response.status, response.headers, body_start, time_ns())
        if response.status == HTTPStatus.TOO_MANY_REQUESTS and self._on_429 is not None:
            self._on_429(exchange, verdict.action)
        if verdict.action is Action.PASS:
            return None
        least = _least_pause(exchange)
        slow = verdict.action is Action.SLOW
        admission.pause(max(verdict.pause_ns, least), slow=slow, guessed=verdict.guessed)
        if self._may_retry(exchange, body, max(verdict.wait_ns, least)):
            return FailedAttempt(response=response, body_start=body_start)
        return None

    def judge_event(self, admission: AnyAdmission, data: bytes) -> None:
        """Pause the lane if an error that came in a successful stream calls for it."""
        verdict = judge_event(data, time_ns())
        if verdict is not None and verdict.action is not Action.PASS:
            slow = verdict.action is Action.SLOW
            admission.pause(verdict.pause_ns, slow=slow, guessed=verdict.guessed)

    def _may_retry(self, exchange: Exchange, body: RequestBody, pause_ns: int) -> bool:
        """Whether the same request may be sent again, and in time."""
        return body.is_held and self._gate.now() + pause_ns <= exchange.deadline


def _least_pause(exchange: Exchange) -> int:
    """Nanoseconds to pause at least, twice as long each time upstream refuses the same request:
    an upstream that keeps asking for a pause that is too short is not flooded."""
    refusals = exchange.attempts - exchange.failures
    return min(MIN_PAUSE << min(refusals - 1, 16), DEFAULT_PAUSE)
