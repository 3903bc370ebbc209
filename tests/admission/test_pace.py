"""An upstream that enforces a limit and does not report it, on a virtual clock."""

import asyncio
from collections.abc import Callable
from math import ceil

import pytest

from rustygate.admission.admission import Admission
from rustygate.core.bucket import SECOND, TokenBucket
from rustygate.core.pace import Pace
from tests.support.harness import Harness, run_scenario
from tests.support.limited_upstream import LimitedUpstream, request

Hint = Callable[[float], dict[str, str]]


def exact(wait_s: float) -> dict[str, str]:
    return {"retry-after-ms": str(ceil(wait_s * 1000))}


def whole_seconds(wait_s: float) -> dict[str, str]:
    return {"Retry-After": str(ceil(wait_s))}


HINTS = pytest.mark.parametrize(
    "hint", [None, exact, whole_seconds], ids=["none", "exact", "whole_seconds"]
)


def silent(
    rate: float, burst: int = 1, hint: Hint | None = None, **more: float
) -> LimitedUpstream:
    bucket = TokenBucket.from_rate(rate, burst)
    return LimitedUpstream(bucket, reports=False, retry_after=hint, **more)  # type: ignore[arg-type]


def send_at_once(
    upstream: LimitedUpstream, count: int, models: int = 1, **settings: object
) -> tuple[int, float]:
    """Send requests of eight clients at once. Returns how many succeeded, and when the last one
    was accepted, in seconds."""
    statuses: list[int | None] = []

    async def scenario(harness: Harness) -> None:
        requests = (
            request(harness, upstream, f"c{n % 8}", model=f"m{n % models}") for n in range(count)
        )
        statuses.extend([each.status for each in await asyncio.gather(*requests)])
        upstream.accepted_at[:] = [
            (at - harness.began / SECOND, tokens) for at, tokens in upstream.accepted_at
        ]

    run_scenario(scenario, **settings)
    return statuses.count(200), max(at for at, _ in upstream.accepted_at)


@HINTS
@pytest.mark.parametrize("answer_s", [0, 5], ids=["fast", "slow answers"])
@pytest.mark.parametrize(("latency_s", "jitter"), [(0.02, 0.5), (0.1, 0.3), (0.2, 0.3)])
@pytest.mark.parametrize("rate_limit", [10, None])
def test_eight_requests_at_one_a_second(
    hint: Hint | None, latency_s: float, jitter: float, answer_s: float, rate_limit: float | None
) -> None:
    upstream = silent(1, hint=hint, latency_s=latency_s, jitter=jitter, answer_s=answer_s)
    succeeded, last_s = send_at_once(upstream, 8, rate_limit=rate_limit)
    assert succeeded == 8
    # A refused trial costs a second where upstream asks for whole seconds.
    assert 7 <= last_s <= (9 if hint is whole_seconds else 8.5)
    assert len(upstream.refused_at) <= 8


@pytest.mark.parametrize(
    ("rate", "burst", "count", "hint", "at_most_s", "refusals"),
    [
        (5, 5, 60, None, 15, 30),
        (5, 5, 60, exact, 15, 35),
        (5, 1, 60, exact, 20, 35),
        (20, 20, 300, None, 30, 60),
        (20, 1, 200, exact, 25, 40),
        (1, 5, 20, whole_seconds, 18, 25),
        (0.1, 1, 3, exact, 22, 4),
        (0.1, 1, 3, whole_seconds, 22, 4),
        (0.1, 1, 2, None, 18, 6),
    ],
)
def test_other_rates(
    rate: float, burst: int, count: int, hint: Hint | None, at_most_s: float, refusals: int
) -> None:
    upstream = silent(rate, burst, hint, latency_s=0.1, jitter=0.3)
    succeeded, last_s = send_at_once(upstream, count, rate_limit=100)
    assert succeeded == count
    assert (count - burst) / rate * 0.95 <= last_s <= at_most_s
    assert len(upstream.refused_at) <= refusals


@pytest.mark.parametrize(
    ("rate", "burst", "count", "latency_s", "at_most_s", "refusals"),
    [
        (3, 1, 8, 0.02, 4, 8),
        (3, 1, 8, 0.2, 4.3, 8),
        (2, 1, 8, 0.02, 5.3, 8),
        (3, 3, 24, 0.02, 8, 21),
        (1, 1, 8, 0.8, 9.5, 8),
        (3, 1, 60, 0.02, 25, 24),
        (10, 1, 60, 0.02, 9.5, 24),
    ],
)
def test_search_is_fast(
    rate: float, burst: int, count: int, latency_s: float, at_most_s: float, refusals: int
) -> None:
    """All but a few of the refusals come before the first response."""
    upstream = silent(rate, burst, latency_s=latency_s, jitter=0.1)
    succeeded, last_s = send_at_once(upstream, count, rate_limit=10)
    assert succeeded == count
    assert (count - burst) / rate <= last_s <= at_most_s
    assert len(upstream.refused_at) <= refusals


@pytest.mark.parametrize("models", [2, 3])
@pytest.mark.parametrize(
    ("rate", "count", "latency_s", "least_s"),
    [
        (1, 8, 0.02, 7),
        (1, 8, 0.2, 7),
        (1, 8, 0.8, 7),
        (3, 24, 0.02, 7.6),
        (3, 24, 0.2, 7.6),
        (0.5, 6, 0.2, 10),
    ],
)
def test_models_behind_one_limit_share_a_pace(
    models: int, rate: float, count: int, latency_s: float, least_s: float
) -> None:
    upstream = silent(rate, latency_s=latency_s, jitter=0.1)
    succeeded, last_s = send_at_once(upstream, count, models)
    assert succeeded == count
    assert least_s <= last_s <= 1.3 * least_s + 1 + 4 * latency_s
    assert len(upstream.refused_at) <= count + 1


def send_to_two(one: LimitedUpstream, other: LimitedUpstream, count: int) -> tuple[int, float]:
    """Send requests for two models with limits of their own at once. Returns how many for the
    first succeeded, and when the last of these was settled, in seconds."""
    settled: list[int] = []

    async def scenario(harness: Harness) -> None:
        requests = [request(harness, one, f"c{n}", model="one") for n in range(count)]
        requests += [request(harness, other, f"c{n}", model="other") for n in range(count)]
        exchanges = (await asyncio.gather(*requests))[:count]
        settled.extend(
            (each.settled or 0) - harness.began for each in exchanges if each.status == 200
        )

    run_scenario(scenario, rate_limit=None, rate_limit_burst=100)
    return len(settled), max(settled) / SECOND


@pytest.mark.parametrize(
    ("rate", "burst", "at_most_s"), [(1 / 6000, 1, 8), (1, 1, 4.5), (1, 8, 4.5), (100, 100, 4.5)]
)
def test_model_with_a_limit_of_its_own_holds_up_no_other(
    rate: float, burst: int, at_most_s: float
) -> None:
    one, other = silent(3, latency_s=0.1), silent(rate, burst, latency_s=0.1)
    succeeded, last_s = send_to_two(one, other, 8)
    assert succeeded == 8
    assert last_s <= at_most_s
    assert len(one.refused_at) <= 9


def test_pace_follows_an_upstream_that_recovers() -> None:
    upstream = silent(1, latency_s=0.1)

    async def scenario(harness: Harness) -> None:
        tasks = [asyncio.create_task(request(harness, upstream, f"c{n % 8}")) for n in range(200)]
        await asyncio.sleep(10)
        upstream.requests = TokenBucket.from_rate(100, 100)
        for task in tasks:
            assert (await task).status == 200
        assert harness.gate.now() - harness.began < 70 * SECOND

    run_scenario(scenario, rate_limit_timeout=300)
    assert len(upstream.refused_at) <= 25


def test_refusal_of_one_lane_lets_others_at_its_pace_go_sooner() -> None:
    """The refused request no longer counts as released."""
    first, refused, last = times_at_one_pace(lambda admission: admission.pause(2 * SECOND))
    assert first == 0
    assert refused == pytest.approx(10.8)
    # The pace is a tenth slower than before, from the first request on.
    assert last == pytest.approx(11.88)


def test_success_of_one_lane_lets_others_at_its_pace_go_sooner() -> None:
    """The pace was a trial."""
    _, _, last = times_at_one_pace(lambda admission: admission.record_response(ok=True))
    # At the old pace, it would be at 21.6.
    assert last < 18


def times_at_one_pace(respond: Callable[[Admission], None]) -> list[float]:
    """When two lanes at one pace, of one request in 10.8 seconds, send three requests.

    Args:
        respond: what the response to the second request does; that lane sends no other.
    """

    async def scenario(harness: Harness) -> None:
        pace = Pace(harness.gate.now() - SECOND, 10 * SECOND, 1)
        for model in "mn":
            lane = harness.gate.lanes.get(model).budgets
            lane.known, lane.pace = True, pace

        def on_response(admission: Admission) -> None:
            if admission.lane.name == "n":
                respond(admission)

        harness.on_response = on_response
        await harness.admit(model="m")
        await asyncio.gather(harness.admit(model="n", hold_s=1), harness.admit(model="m"))

    return run_scenario(scenario, rate_limit=1000.0, rate_limit_timeout=60.0).times
