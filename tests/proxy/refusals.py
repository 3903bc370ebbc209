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
Act = Callable[[Gate, Upstream], Awaitable[None]]

# A time limit that passes soon.
SHORT = 0.1


def with_settings(**settings: object) -> Prepare:
    async def prepare(gate: StartGate, upstream: Upstream) -> Gate:
        return await gate(**settings)

    return prepare


async def without_units(gate: StartGate, upstream: Upstream) -> Gate:
    """The request budget is empty for longer than a request may wait."""
    upstream.reply = response()
    running = await gate(RATE_LIMIT=0.001, RATE_LIMIT_BURST=1)
    await running.request(get())
    return running


def with_slot_taken(**settings: object) -> Prepare:
    """The only slot is taken."""

    async def prepare(gate: StartGate, upstream: Upstream) -> Gate:
        running = await gate(CONCURRENCY_LIMIT=1, **settings)
        await running.send(get())
        await upstream.call()
        return running

    return prepare


async def with_full_queue(gate: StartGate, upstream: Upstream) -> Gate:
    """The only slot and the only place in the queue are taken."""
    running = await with_slot_taken(QUEUE_LIMIT=1)(gate, upstream)
    await running.send(get())
    await running.wait_until(waiters=1)
    return running


async def without_upstream(gate: StartGate, upstream: Upstream) -> Gate:
    """Upstream is not listening."""
    # Enough for a first try, on a busy machine, too.
    running = await gate(UPSTREAM_CONNECT_TIMEOUT=0.5)
    await upstream.stop()
    return running


async def do_nothing(running: Gate, upstream: Upstream) -> None:
    return


async def drain(running: Gate, upstream: Upstream) -> None:
    await running.wait_until(waiters=1)
    await running.daemon.drain()


async def reset_upstream(running: Gate, upstream: Upstream) -> None:
    call = await upstream.call()
    await call.read_rest()
    call.reset()


@dataclass(frozen=True, slots=True)
class Case:
    """A refusal: how it comes about, what it contains, and what the SDK raises.

    `prepare` starts a gate that will refuse the next request; `act` runs after that is sent.
    """

    reason: str
    prepare: Prepare
    status: int
    kind: str
    code: str
    message: str
    raises: type[openai.APIStatusError]
    retry: str | None = None
    act: Act = do_nothing
    outcome: str = "refused"


CASES = {
    "queue_timeout, early": Case(
        "queue_timeout",
        without_units,
        429,
        "requests",
        "rate_limit_exceeded",
        r"Limit 0\.06 requests/min reached; no requests are ahead, and this request may wait only "
        r"[13]0\.0 s; try again in (9\d\d|1000) s\.$",
        openai.RateLimitError,
        "true",
    ),
    "queue_timeout, late": Case(
        "queue_timeout",
        with_slot_taken(RATE_LIMIT_TIMEOUT=SHORT),
        429,
        "requests",
        "rate_limit_exceeded",
        r"The request was not admitted before its deadline\. Limit 1 request in flight reached; "
        r"no other requests are waiting; try again in 1 s\.$",
        openai.RateLimitError,
        "true",
    ),
    "queue_full": Case(
        "queue_full",
        with_full_queue,
        429,
        "requests",
        "rate_limit_exceeded",
        r"The queue is full \(1 request is waiting\); try again in 1 s\.$",
        openai.RateLimitError,
        "true",
    ),
    "draining": Case(
        "draining",
        with_slot_taken(DRAIN_TIMEOUT=0),
        503,
        "service_unavailable_error",
        "draining",
        r"The gate is shutting down; try again in 1 s\.$",
        openai.InternalServerError,
        "true",
        drain,
    ),
    "upstream_unreachable": Case(
        "upstream_unreachable",
        without_upstream,
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
        with_settings(UPSTREAM_RETRIES=0),
        502,
        "upstream_error",
        "upstream_disconnected",
        r"Upstream closed the connection without responding\. It may have acted on the request, "
        r"so the request was not sent again\.$",
        openai.InternalServerError,
        None,
        reset_upstream,
        "upstream_error",
    ),
    "upstream_timeout": Case(
        "upstream_timeout",
        with_settings(UPSTREAM_READ_TIMEOUT=SHORT),
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
        with_settings(MAX_BODY_SIZE=10),
        413,
        "invalid_request_error",
        "body_too_large",
        r"has at least \d\d+ bytes; MAX_BODY_SIZE is 10\.$",
        openai.APIStatusError,
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_429 = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.status == 429], ids=lambda case: case.message
)


def fail(*arguments: object) -> None:
    """Fail as a defect of the gate would."""
    raise RuntimeError("a defect")
