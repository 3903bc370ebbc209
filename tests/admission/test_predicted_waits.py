"""Predicted waits on arrival and actual waits, on a virtual clock."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.clients import Limits
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from tests.support.harness import (
    Harness,
    rate_limit,
    run_ready_tasks,
    run_scenario,
    set_rate_limit,
)


@dataclass(frozen=True)
class Crowd:
    """A number of requests from each of some clients, with sizes in a range."""

    names: str
    each: int
    tokens: tuple[int, int] = (10, 10)
    priority: str = "default"

    def requests(self, random: Random) -> Iterator[dict[str, Any]]:
        for client in self.names.split():
            for _ in range(self.each):
                yield {
                    "client": client,
                    "tokens": random.randint(*self.tokens),
                    "priority": self.priority,
                }


LIGHT = " ".join(f"c{number}" for number in range(30))
SMALL, LARGE, ANY = (1, 20), (800, 1200), (1, 600)
OWN = {"rate_limit": 2, "rate_limit_burst": 1, "tokens_per_minute": 24_000}


@dataclass(frozen=True)
class Scenario:
    """The waiters, and the budgets they wait for; `learned` holds a lane's requests and tokens per
    minute."""

    crowds: tuple[Crowd, ...]
    learned: tuple[int | None, int | None] = (None, None)
    settings: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Limits] = field(default_factory=dict)

    def update(self) -> RateLimitUpdate:
        requests, tokens = self.learned
        return RateLimitUpdate(_exhausted(requests), _exhausted(tokens))


def _exhausted(limit: int | None) -> Quota | None:
    return None if limit is None else Quota(limit, 0)


def lane(*crowds: Crowd, requests: int | None = 120, tokens: int | None = 24_000) -> Scenario:
    return Scenario(crowds, (requests, tokens), {"rate_limit": None})


SCENARIOS = {
    "equal flows": lane(Crowd(LIGHT, 5)),
    "equal flows, tokens": lane(Crowd(LIGHT, 5, LARGE)),
    "hog and light flows": lane(Crowd("hog", 300), Crowd(LIGHT, 2)),
    "two hogs and light flows": lane(Crowd("hog", 100), Crowd("boar", 300), Crowd(LIGHT, 2)),
    "three classes": lane(
        Crowd("a b", 40, priority="interactive"),
        Crowd("c d", 40),
        Crowd("e f", 40, priority="batch"),
    ),
    "three classes, mixed": lane(
        Crowd("a b", 40, SMALL, "interactive"),
        Crowd("c d", 40, ANY),
        Crowd("e f", 20, LARGE, "batch"),
    ),
    "mixed sizes": lane(Crowd(LIGHT, 4, ANY)),
    "small and large flows": lane(Crowd(LIGHT, 6, SMALL), Crowd("hog boar sow", 10, LARGE)),
    "small hog among large": lane(Crowd("hog", 200, SMALL), Crowd(LIGHT, 2, LARGE)),
    "large hog among small": lane(Crowd("hog", 60, LARGE), Crowd(LIGHT, 6, SMALL)),
    "gate's own budgets": Scenario((Crowd(LIGHT, 4, ANY),), settings=OWN),
    "client's own limits": Scenario(
        (Crowd("hog", 60), Crowd(LIGHT, 4)),
        settings={"rate_limit": None},
        limits={"hog": Limits(requests_per_second=0.5)},
    ),
    "client's own limits, three classes": Scenario(
        (
            Crowd("hog", 20, priority="interactive"),
            Crowd("hog", 20),
            Crowd("hog", 60, priority="batch"),
        ),
        settings={"rate_limit": None},
        limits={"hog": Limits(requests_per_second=0.5, burst=1)},
    ),
    "client's own limits in a busy lane": Scenario(
        (Crowd("hog", 40, ANY), Crowd(LIGHT, 1, ANY)),
        (120, 24_000),
        {"rate_limit": None},
        {"hog": Limits(requests_per_second=0.5, burst=1)},
    ),
}

IN_A_GROUP = ("two hogs and light flows", "mixed sizes", "client's own limits")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_predicted_wait_is_within_thirty_percent(scenario: Scenario, seed: int) -> None:
    check_predictions(scenario, seed, gates=1)


@pytest.mark.parametrize("name", IN_A_GROUP)
def test_predicted_wait_in_a_group_is_within_thirty_percent(name: str) -> None:
    check_predictions(SCENARIOS[name], 0, gates=3)


def check_predictions(scenario: Scenario, seed: int, gates: int) -> None:
    """For one more request of each crowd, each in its own run."""
    for crowd in scenario.crowds:
        predicted, at_most, actual = predicted_and_actual(scenario, crowd, Random(seed), gates)
        assert predicted == pytest.approx(actual, rel=0.3, abs=SECOND)
        assert predicted <= at_most


def predicted_and_actual(
    scenario: Scenario, crowd: Crowd, random: Random, gates: int
) -> tuple[int, ...]:
    """The predicted wait of a newcomer of a crowd, its upper bound, and the actual wait."""
    waits: list[int] = []

    async def run(harness: Harness) -> None:
        harness.gate.limit_clients(scenario.limits)
        set_rate_limit(harness, scenario.update())
        await harness.until_told()
        waiting = [request for each in scenario.crowds for request in each.requests(random)]
        random.shuffle(waiting)
        tasks = [harness.spawn(model="m", **request) for request in waiting]
        newcomer = next(crowd.requests(random)) | {"model": "m"}
        if gates > 1:
            # A gate hears what waits of a client at others when it has something to report of it.
            await harness.until_told()
            tasks += [harness.spawn(**newcomer) for _ in range(gates)]
        await harness.until_told()
        attempt = harness.gate.admission(harness.exchange(**newcomer))
        now, dispatcher = harness.gate.now(), attempt._dispatcher
        waits.append(dispatcher.predict(attempt).wait)
        waits.append(dispatcher._longest_wait(attempt, now))
        waits.append((await harness.admit(**newcomer)).queued)
        for task in tasks:
            await task

    run_scenario(
        run, gates, rate_limit_timeout=100 * MINUTE, queue_limit=10_000, **scenario.settings
    )
    return tuple(waits)


def test_predicted_wait_includes_a_slowed_lane() -> None:
    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(ok=True)
            admission.pause(1, slow=True)
        tasks = [harness.spawn(model="m") for _ in range(10)]
        await run_ready_tasks()
        newcomer = harness.gate.admission(harness.exchange("a", model="m"))
        predicted = harness.gate.dispatcher.predict(newcomer).wait
        assert (await harness.admit(model="m")).queued == pytest.approx(predicted, rel=0.3)
        await asyncio.gather(*tasks)

    run_scenario(scenario, rate_limit=None)


def test_predicted_wait_includes_a_paused_lane() -> None:
    async def scenario(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(ok=True)
            admission.pause(5 * SECOND)
        newcomer = harness.gate.admission(harness.exchange("a", model="m"))
        assert harness.gate.dispatcher.predict(newcomer).wait == 5 * SECOND

    run_scenario(scenario, rate_limit=1, rate_limit_burst=10)


@pytest.mark.parametrize("limit", ["gate", "client", "lane"])
def test_waiters_that_left_are_not_ahead(limit: str) -> None:
    async def scenario(harness: Harness) -> None:
        if limit == "client":
            limits = Limits(requests_per_second=0.1, burst=1)
            harness.gate.limit_clients({"a": limits})
        if limit == "lane":
            set_rate_limit(harness, rate_limit(6, 1))
            await run_ready_tasks()
        await harness.admit("a", model="m")
        deadline = harness.gate.now() + 100 * SECOND
        tasks = [harness.spawn("a", model="m", deadline=deadline) for _ in range(5)]
        await run_ready_tasks()
        newcomer = harness.gate.admission(harness.exchange("a", model="m"))
        assert harness.gate.dispatcher.predict(newcomer).wait == pytest.approx(60 * SECOND)
        for task in tasks:
            task.cancel()
        await run_ready_tasks()
        assert harness.gate.dispatcher.predict(newcomer).wait == pytest.approx(10 * SECOND)

    rate = 0.1 if limit == "gate" else None
    run_scenario(scenario, rate_limit=rate, rate_limit_burst=1, rate_limit_timeout=1000)


@pytest.mark.parametrize("waiters", [5, 100])
@pytest.mark.parametrize("limit", ["own", "lane", "tokens"])
def test_predicted_wait_is_near_the_actual_wait(limit: str, waiters: int) -> None:
    async def scenario(harness: Harness) -> None:
        if limit == "lane":
            set_rate_limit(harness, rate_limit(60, 0))
            await run_ready_tasks()
        tasks = [harness.spawn(f"c{n % 7}", model="m", tokens=10) for n in range(waiters)]
        await run_ready_tasks()
        newcomer = harness.gate.admission(harness.exchange("c3", model="m", tokens=10))
        predicted = harness.gate.dispatcher.predict(newcomer).wait
        actual = (await harness.admit("c3", model="m", tokens=10)).queued
        assert predicted == pytest.approx(actual, rel=0.3)
        await asyncio.gather(*tasks)

    budgets: dict[str, dict[str, Any]] = {
        "own": {"rate_limit": 1, "rate_limit_burst": 1},
        "lane": {"rate_limit": None},
        "tokens": {"rate_limit": None, "tokens_per_minute": 20},
    }
    run_scenario(scenario, rate_limit_timeout=10_000, **budgets[limit])
