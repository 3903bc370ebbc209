"""A table of refusals: how each comes about, and what it looks like."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import openai
import pytest

from tests.conftest import StartGate
from tests.support.gate import Gate
from tests.support.http import (
    get,
    response,
)
from tests.support.upstream import Upstream

Prepare = Callable[[StartGate, Upstream], Awaitable[Gate]]
Happen = Callable[[Gate, Upstream], Awaitable[None]]

# Silence that is too long, and a wait too.
SHORT = 0.1


def started(**settings: object) -> Prepare:
    async def prepare(gate: StartGate, upstream: Upstream) -> Gate:
        return await gate(**settings)

    return prepare


async def spent(gate: StartGate, upstream: Upstream) -> Gate:
    """No unit is left, for longer than a request may wait."""
    upstream.reply = response()
    running = await gate(RATE_LIMIT=0.001, RATE_LIMIT_BURST=1)
    await running.request(get())
    return running


def busy(**settings: object) -> Prepare:
    """The only slot is taken."""

    async def prepare(gate: StartGate, upstream: Upstream) -> Gate:
        running = await gate(CONCURRENCY_LIMIT=1, **settings)
        await running.send(get())
        await upstream.call()
        return running

    return prepare


async def crowded(gate: StartGate, upstream: Upstream) -> Gate:
    """The only slot is taken, and the only place in the queue too."""
    running = await busy(QUEUE_LIMIT=1)(gate, upstream)
    await running.send(get())
    await running.wait_until(waiters=1)
    return running


async def deserted(gate: StartGate, upstream: Upstream) -> Gate:
    """Nobody listens upstream."""
    running = await gate(UPSTREAM_RETRIES=0)
    await upstream.stop()
    return running


async def nothing(running: Gate, upstream: Upstream) -> None:
    return


async def drains(running: Gate, upstream: Upstream) -> None:
    await running.wait_until(waiters=1)
    await running.daemon.drain()


async def breaks(running: Gate, upstream: Upstream) -> None:
    call = await upstream.call()
    await call.read_rest()
    call.reset()


@dataclass(frozen=True, slots=True)
class Case:
    """A refusal: how it comes about, what it says, and what the SDK raises."""

    reason: str
    prepare: Prepare
    status: int
    kind: str
    code: str
    message: str
    raises: type[openai.APIStatusError]
    retry: str | None = None
    happen: Happen = nothing
    outcome: str = "refused"


CASES = {
    "queue_timeout, early": Case(
        "queue_timeout",
        spent,
        429,
        "requests",
        "rate_limit_exceeded",
        r"Limit 0\.06 requests/min reached; 0 requests are ahead, and this request may wait only "
        r"[13]0\.0 s; try again in (9\d\d|1000) s\.$",
        openai.RateLimitError,
        "true",
    ),
    "queue_timeout, late": Case(
        "queue_timeout",
        busy(RATE_LIMIT_TIMEOUT=SHORT),
        429,
        "requests",
        "rate_limit_exceeded",
        r"Not admitted before its deadline\. Limit 1 request in flight reached; "
        r"0 other requests are waiting; try again in 1 s\.$",
        openai.RateLimitError,
        "true",
    ),
    "queue_full": Case(
        "queue_full",
        crowded,
        429,
        "requests",
        "rate_limit_exceeded",
        r"The queue is full \(1 request is waiting\); try again in 1 s\.$",
        openai.RateLimitError,
        "true",
    ),
    "draining": Case(
        "draining",
        busy(DRAIN_TIMEOUT=0),
        503,
        "service_unavailable_error",
        "draining",
        r"The gate is shutting down; try again in 1 s\.$",
        openai.InternalServerError,
        "true",
        drains,
    ),
    "upstream_unreachable": Case(
        "upstream_unreachable",
        deserted,
        502,
        "upstream_error",
        "upstream_unreachable",
        r"connection refused",
        openai.InternalServerError,
        "true",
        outcome="upstream_error",
    ),
    "upstream_disconnected": Case(
        "upstream_disconnected",
        started(UPSTREAM_RETRIES=0),
        502,
        "upstream_error",
        "upstream_disconnected",
        r"Upstream closed the connection without responding\.$",
        openai.InternalServerError,
        "true",
        breaks,
        "upstream_error",
    ),
    "upstream_timeout": Case(
        "upstream_timeout",
        started(UPSTREAM_READ_TIMEOUT=SHORT),
        504,
        "upstream_error",
        "upstream_timeout",
        rf"Upstream sent nothing for {SHORT} s; raise UPSTREAM_READ_TIMEOUT if it needs longer\.$",
        openai.InternalServerError,
        "false",
        outcome="upstream_error",
    ),
    "body_too_large": Case(
        "body_too_large",
        started(MAX_BODY_SIZE=10),
        413,
        "invalid_request_error",
        "body_too_large",
        r"has \d\d+ bytes .* at most 10 ",
        openai.APIStatusError,
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
busy_cases = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.status == 429], ids=lambda case: case.message
)
